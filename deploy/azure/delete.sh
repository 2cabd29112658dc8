#!/usr/bin/env bash
# Removes what create.sh made: the whole resource group, the registry and its images included. Storage accounts in other
# groups keep their models; the role that the identity had on them is removed first.
#
#   deploy/azure/delete.sh RESOURCE-GROUP [--yes]
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ] || { [ $# -eq 2 ] && [ "$2" != --yes ]; }; then
  echo "usage: $0 RESOURCE-GROUP [--yes]" >&2
  exit 2
fi
group=$1
cluster=${CLUSTER:-scoring}

if [ "$(az group exists --name "$group")" != true ]; then
  echo "there is no resource group $group: nothing to do"
  exit 0
fi
purpose=$(az group show --name "$group" --query tags.purpose --output tsv)
if [ "$purpose" != mlscoring ]; then
  echo "resource group $group was not made by create.sh (it lacks the tag purpose=mlscoring): not touched" >&2
  exit 1
fi
if [ "${2:-}" != --yes ]; then
  echo "This deletes resource group $group with everything in it:"
  az resource list --resource-group "$group" --query '[].{type: type, name: name}' --output table
  read -r -p "Type the group's name to go on: " answer
  if [ "$answer" != "$group" ]; then
    echo "not deleted" >&2
    exit 1
  fi
fi
principal=$(az identity show --name scoring-model-reader --resource-group "$group" --query principalId --output tsv 2>/dev/null || true)
if [ -n "$principal" ]; then
  az role assignment list --all --assignee "$principal" --query '[].id' --output tsv |
    while read -r assignment; do
      az role assignment delete --ids "$assignment"
    done
fi
az group delete --name "$group" --yes
for entry in context cluster; do
  kubectl config "delete-$entry" "$cluster" >/dev/null 2>&1 || true
done
kubectl config delete-user "clusterUser_${group}_${cluster}" >/dev/null 2>&1 || true
echo "deleted"
