"""Kubernetes objects as this program sees them: plain dicts, and the kinds it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the Kubernetes API and where it lives.

    Args:
        api_version: group and version as manifests write them, such as `apps/v1`, or `v1` for the core group.
        name: the kind, such as `Deployment`.
        plural: the resource name in URLs.
        namespaced: whether objects live in a namespace.
    """

    api_version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def root(self) -> str:
        """URL path of the kind's group and version."""
        return (
            f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        )

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """URL path of a collection or of one object.

        Args:
            namespace: None for all namespaces.
            name: None for the collection.
        """
        path = self.root
        if self.namespaced and namespace:
            path += f"/namespaces/{namespace}"
        path += f"/{self.plural}"
        return f"{path}/{name}" if name else path


class Kinds:
    """The kinds that the operator reads or writes."""

    SCORING_MODEL = Kind("mlscoring.io/v1", "ScoringModel", "scoringmodels")
    DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
    REPLICA_SET = Kind("apps/v1", "ReplicaSet", "replicasets")
    POD = Kind("v1", "Pod", "pods")
    SERVICE = Kind("v1", "Service", "services")
    SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
    SECRET = Kind("v1", "Secret", "secrets")
    AUTOSCALER = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
    DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
    INGRESS = Kind("networking.k8s.io/v1", "Ingress", "ingresses")
    INGRESS_CLASS = Kind("networking.k8s.io/v1", "IngressClass", "ingressclasses", namespaced=False)
    CERTIFICATE = Kind("cert-manager.io/v1", "Certificate", "certificates")
    HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
    SCALED_OBJECT = Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
    INGRESS_EXTENSION = Kind("alb.networking.azure.io/v1", "IngressExtension", "ingressextensions")
    MIDDLEWARE = Kind("traefik.io/v1alpha1", "Middleware", "middlewares")
    NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
    CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
    EVENT = Kind("v1", "Event", "events")

    #: Kinds that the operator writes for a model on every cluster.
    CHILDREN = (
        SERVICE_ACCOUNT,
        SECRET,
        CONFIG_MAP,
        SERVICE,
        DEPLOYMENT,
        AUTOSCALER,
        DISRUPTION_BUDGET,
        INGRESS,
        NETWORK_POLICY,
    )
    #: Kinds that exist only where their controller is installed.
    OPTIONAL_CHILDREN = (CERTIFICATE, HTTP_ROUTE, SCALED_OBJECT, INGRESS_EXTENSION, MIDDLEWARE)
    #: Kinds that others make of our children, and that say why something is not ready.
    OBSERVED = (REPLICA_SET, POD)

    @classmethod
    def of(cls, manifest: Manifest) -> Kind:
        """The kind of a manifest.

        Raises:
            KeyError: a kind that the operator does not know.
        """
        return _BY_NAME[manifest["kind"]]


_BY_NAME = {kind.name: kind for kind in vars(Kinds).values() if isinstance(kind, Kind)}
