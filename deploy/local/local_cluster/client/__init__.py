"""A small asynchronous Kubernetes client, shared by controllers, node agent and ingress.

Takes a kubeconfig; gives requests with typed failures, informers (local copies that follow the
server), work queues and an event recorder. It works against any Kubernetes API server, knows
nothing of what its users do with the objects, and never caches a write.
"""

from local_cluster.client.errors import ApiError, KubeconfigError
from local_cluster.client.events import EventRecorder
from local_cluster.client.http import Client, Manifest
from local_cluster.client.informer import Index, Informer, InformerSet, Key, object_key
from local_cluster.client.kubeconfig import ClusterAccess, load_kubeconfig
from local_cluster.client.resources import (
    CONFIGMAPS,
    CRDS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    EVENTS,
    HPAS,
    INGRESSCLASSES,
    INGRESSES,
    JOBS,
    LEASES,
    NAMESPACES,
    NETWORKPOLICIES,
    NODEMETRICS,
    NODES,
    PDBS,
    PERSISTENTVOLUMECLAIMS,
    PODMETRICS,
    PODS,
    PRIORITYCLASSES,
    REPLICASETS,
    RESOURCEQUOTAS,
    SECRETS,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)
from local_cluster.client.workqueue import WorkQueue

__all__ = [
    "CONFIGMAPS",
    "CRDS",
    "DEPLOYMENTS",
    "ENDPOINTS",
    "ENDPOINTSLICES",
    "EVENTS",
    "HPAS",
    "INGRESSCLASSES",
    "INGRESSES",
    "JOBS",
    "LEASES",
    "NAMESPACES",
    "NETWORKPOLICIES",
    "NODEMETRICS",
    "NODES",
    "PDBS",
    "PERSISTENTVOLUMECLAIMS",
    "PODMETRICS",
    "PODS",
    "PRIORITYCLASSES",
    "REPLICASETS",
    "RESOURCEQUOTAS",
    "SECRETS",
    "SERVICEACCOUNTS",
    "SERVICES",
    "ApiError",
    "Client",
    "ClusterAccess",
    "EventRecorder",
    "Index",
    "Informer",
    "InformerSet",
    "Key",
    "KubeconfigError",
    "Manifest",
    "Resource",
    "WorkQueue",
    "load_kubeconfig",
    "object_key",
]
