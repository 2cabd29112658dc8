#!/usr/bin/env bash
# Creates the reference cluster on Azure that docs/aks.md describes, and points kubectl at it. Every step may be repeated.
#
#   deploy/azure/create.sh RESOURCE-GROUP REGION
#
# Names and sizes come from the environment: CLUSTER, REGISTRY (unique in all of Azure), STORAGE_ACCOUNT (an account with
# models, optional), KUBERNETES_VERSION, CPU_SIZE, CPU_MAX, GPU_SIZE (empty: no GPU pool), GPU_MAX, MODEL_NAMESPACE,
# MODEL_SERVICE_ACCOUNT. `deploy/azure/delete.sh RESOURCE-GROUP` removes everything.
set -euo pipefail

if [ $# -ne 2 ]; then
  echo "usage: $0 RESOURCE-GROUP REGION" >&2
  exit 2
fi
group=$1
region=$2
cluster=${CLUSTER:-scoring}
version=${KUBERNETES_VERSION:-1.36}
cpu_size=${CPU_SIZE:-Standard_D4ds_v5}
cpu_max=${CPU_MAX:-5}
gpu_size=${GPU_SIZE-Standard_NC4as_T4_v3}
gpu_max=${GPU_MAX:-3}
namespace=${MODEL_NAMESPACE:-models}
account=${MODEL_SERVICE_ACCOUNT:-model-reader}
identity=scoring-model-reader
here=$(cd "$(dirname "$0")" && pwd)

for program in az kubectl; do
  if ! command -v "$program" >/dev/null; then
    echo "$program is not on the PATH: install it first" >&2
    exit 1
  fi
done
if ! az account show >/dev/null 2>&1; then
  echo "not logged in to Azure: az login" >&2
  exit 1
fi
# The group's id makes the default name unique, and the same in every run.
subscription=$(az account show --query id --output tsv)
registry=${REGISTRY:-scoring$(printf '%s/%s' "$subscription" "$group" | sha256sum | cut -c1-12)}

step() {
  printf '\n== %s\n' "$*"
}

step "resource group $group"
az group create --name "$group" --location "$region" --tags purpose=mlscoring --output none

step "container registry $registry"
az acr show --name "$registry" --resource-group "$group" --output none 2>/dev/null ||
  az acr create --name "$registry" --resource-group "$group" --sku Standard --output none

step "cluster $cluster with a CPU pool"
if ! az aks show --name "$cluster" --resource-group "$group" --output none 2>/dev/null; then
  # OIDC issuer and workload identity: pods read models without a secret. Cilium enforces NetworkPolicies.
  az aks create --name "$cluster" --resource-group "$group" --kubernetes-version "$version" \
    --tier standard --generate-ssh-keys \
    --node-vm-size "$cpu_size" --node-count 2 \
    --enable-cluster-autoscaler --min-count 2 --max-count "$cpu_max" \
    --network-plugin azure --network-plugin-mode overlay --network-dataplane cilium \
    --attach-acr "$registry" \
    --enable-oidc-issuer --enable-workload-identity \
    --enable-gateway-api --enable-app-routing-istio \
    --enable-azure-monitor-metrics --enable-keda \
    --output none
fi

if [ -n "$gpu_size" ]; then
  step "GPU pool of 0 to $gpu_max $gpu_size"
  # No node while nobody asks for a GPU. The taint keeps everything else away and can only be set here.
  az aks nodepool show --cluster-name "$cluster" --resource-group "$group" --name gpu --output none 2>/dev/null ||
    az aks nodepool add --cluster-name "$cluster" --resource-group "$group" --name gpu \
      --node-vm-size "$gpu_size" --node-taints sku=gpu:NoSchedule \
      --node-count 0 --enable-cluster-autoscaler --min-count 0 --max-count "$gpu_max" \
      --output none
fi

step "identity $identity for ServiceAccount $account in namespace $namespace"
az identity create --name "$identity" --resource-group "$group" --output none
client=$(az identity show --name "$identity" --resource-group "$group" --query clientId --output tsv)
principal=$(az identity show --name "$identity" --resource-group "$group" --query principalId --output tsv)
issuer=$(az aks show --name "$cluster" --resource-group "$group" --query oidcIssuerProfile.issuerUrl --output tsv)
az identity federated-credential create --name "$namespace-$account" --identity-name "$identity" \
  --resource-group "$group" --issuer "$issuer" --subject "system:serviceaccount:$namespace:$account" \
  --audiences api://AzureADTokenExchange --output none
if [ -n "${STORAGE_ACCOUNT:-}" ]; then
  scope=$(az storage account show --name "$STORAGE_ACCOUNT" --query id --output tsv)
  az role assignment create --assignee-object-id "$principal" --assignee-principal-type ServicePrincipal \
    --role "Storage Blob Data Reader" --scope "$scope" --output none
fi

step "kubectl"
az aks get-credentials --name "$cluster" --resource-group "$group" --overwrite-existing
kubectl create namespace "$namespace" --dry-run=client --output yaml | kubectl apply --filename -
kubectl apply --filename - <<MANIFEST
apiVersion: v1
kind: ServiceAccount
metadata:
  name: $account
  namespace: $namespace
  annotations:
    azure.workload.identity/client-id: $client
MANIFEST
if [ -n "$gpu_size" ]; then
  kubectl apply --filename "$here/nvidia-device-plugin.yaml"
fi

server=$(az acr show --name "$registry" --resource-group "$group" --query loginServer --output tsv)
cat <<NEXT

The cluster is ready. Next:

  az acr build --registry $registry --image mlscoring/operator:0.1.0 --file Dockerfile.operator .
  az acr build --registry $registry --image mlscoring/scorer:0.1.0 --file Dockerfile.scorer .
  # in deploy/overlays/aks: REGISTRY.azurecr.io is $server; then the domain and the certificate (docs/aks.md)
  kubectl apply --server-side --kustomize deploy/overlays/aks

Models read storage with  spec: {storage: {serviceAccountName: $account}}  in namespace $namespace.
NEXT
