"""The kinds of objects the local cluster's programs speak about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the API: where its objects live.

    Args:
        group: the API group, empty for the core group.
        version: the version in that group.
        plural: the resource's name in URLs.
        namespaced: whether its objects live in namespaces.
        kind: the kind of its objects, for owner references and events.
    """

    group: str
    version: str
    plural: str
    namespaced: bool = True
    kind: str = ""

    @property
    def api_version(self) -> str:
        """``v1`` for the core group, ``apps/v1`` and the like for the others."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """The URL path of a collection, an object or a subresource.

        Without a namespace the path of a namespaced collection spans all namespaces.
        """
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NAMESPACES = Resource("", "v1", "namespaces", False, "Namespace")
NODES = Resource("", "v1", "nodes", False, "Node")
PODS = Resource("", "v1", "pods", True, "Pod")
SERVICES = Resource("", "v1", "services", True, "Service")
ENDPOINTS = Resource("", "v1", "endpoints", True, "Endpoints")
SECRETS = Resource("", "v1", "secrets", True, "Secret")
CONFIGMAPS = Resource("", "v1", "configmaps", True, "ConfigMap")
SERVICEACCOUNTS = Resource("", "v1", "serviceaccounts", True, "ServiceAccount")
EVENTS = Resource("", "v1", "events", True, "Event")
RESOURCEQUOTAS = Resource("", "v1", "resourcequotas", True, "ResourceQuota")
PERSISTENTVOLUMECLAIMS = Resource("", "v1", "persistentvolumeclaims", True, "PersistentVolumeClaim")
DEPLOYMENTS = Resource("apps", "v1", "deployments", True, "Deployment")
REPLICASETS = Resource("apps", "v1", "replicasets", True, "ReplicaSet")
JOBS = Resource("batch", "v1", "jobs", True, "Job")
ENDPOINTSLICES = Resource("discovery.k8s.io", "v1", "endpointslices", True, "EndpointSlice")
HPAS = Resource("autoscaling", "v2", "horizontalpodautoscalers", True, "HorizontalPodAutoscaler")
INGRESSES = Resource("networking.k8s.io", "v1", "ingresses", True, "Ingress")
INGRESSCLASSES = Resource("networking.k8s.io", "v1", "ingressclasses", False, "IngressClass")
NETWORKPOLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", True, "NetworkPolicy")
PDBS = Resource("policy", "v1", "poddisruptionbudgets", True, "PodDisruptionBudget")
LEASES = Resource("coordination.k8s.io", "v1", "leases", True, "Lease")
PODMETRICS = Resource("metrics.k8s.io", "v1beta1", "pods", True, "PodMetrics")
NODEMETRICS = Resource("metrics.k8s.io", "v1beta1", "nodes", False, "NodeMetrics")
PRIORITYCLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", False, "PriorityClass")
CRDS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", False, "CustomResourceDefinition"
)
