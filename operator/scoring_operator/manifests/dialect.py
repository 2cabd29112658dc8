"""Dialects of ingress controllers: redirect to HTTPS, body size, timeouts, canary.

The dialect follows from the IngressClass's `spec.controller`, never from the class's name, which every installation
chooses for itself. An unknown controller gets portable fields only: the scorer itself redirects plain HTTP and enforces
its limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scoring_operator.api import Kind, Kinds, ScoringModel

LOCAL_CONTROLLER = "mlscoring.io/local-ingress"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one family of ingress controllers understands.

    Args:
        controllers: beginnings of the `spec.controller` that it goes by.
        annotations: of the Ingress of a model.
        canary_prefix: of the annotations that split traffic by weight; None: it cannot.
        redirect_kind: kind without which it cannot redirect to HTTPS; None: an annotation is enough.
    """

    controllers: tuple[str, ...]
    annotations: Callable[[ScoringModel], dict[str, str]]
    canary_prefix: str | None = None
    redirect_kind: Kind | None = None

    def canary_annotations(self, weight: int) -> dict[str, str] | None:
        """Annotations of a second Ingress that takes a share of the requests; None: it cannot.

        Args:
            weight: share in percent.
        """
        prefix = self.canary_prefix
        if prefix is None:
            return None
        return {f"{prefix}/canary": "true", f"{prefix}/canary-weight": str(weight)}


def find_dialect(controller: str | None) -> Dialect | None:
    """The dialect of a controller; None for one that is not known.

    Args:
        controller: `spec.controller` of the IngressClass; None when it is not known.
    """
    if controller is None:
        return None
    return next((d for d in _DIALECTS if controller.startswith(d.controllers)), None)


def proxy_seconds(model: ScoringModel) -> int:
    """How long a proxy should wait: a little more than the scorer, so that its 504 arrives instead of the proxy's."""
    return model.limits.timeout_seconds + 5


def _nginx(model: ScoringModel) -> dict[str, str]:
    prefix = "nginx.ingress.kubernetes.io"
    return {
        f"{prefix}/ssl-redirect": "true",
        f"{prefix}/proxy-body-size": str(model.limits.request_bytes),
        f"{prefix}/proxy-read-timeout": str(proxy_seconds(model)),
        f"{prefix}/proxy-send-timeout": str(proxy_seconds(model)),
    }


def _f5_nginx(model: ScoringModel) -> dict[str, str]:
    return {
        # The one for TLS that ends here, the other for TLS that ended at a load balancer in front.
        "ingress.kubernetes.io/ssl-redirect": "true",
        "nginx.org/redirect-to-https": "true",
        "nginx.org/client-max-body-size": str(model.limits.request_bytes),
        "nginx.org/proxy-read-timeout": f"{proxy_seconds(model)}s",
        "nginx.org/proxy-send-timeout": f"{proxy_seconds(model)}s",
    }


def _haproxy_tech(model: ScoringModel) -> dict[str, str]:
    return {
        "haproxy.org/ssl-redirect": "true",
        "haproxy.org/timeout-server": f"{proxy_seconds(model)}s",
    }


def _haproxy_ingress(model: ScoringModel) -> dict[str, str]:
    prefix = "haproxy-ingress.github.io"
    return {
        f"{prefix}/ssl-redirect": "true",
        f"{prefix}/proxy-body-size": str(model.limits.request_bytes),
        f"{prefix}/timeout-server": f"{proxy_seconds(model)}s",
    }


def _application_gateway(model: ScoringModel) -> dict[str, str]:
    prefix = "appgw.ingress.kubernetes.io"
    return {
        f"{prefix}/ssl-redirect": "true",
        f"{prefix}/request-timeout": str(proxy_seconds(model)),
    }


def _traefik(model: ScoringModel) -> dict[str, str]:
    # Without it Traefik does not answer HTTPS for an Ingress, whatever its spec.tls says
    # (https://doc.traefik.io/traefik/routing/providers/kubernetes-ingress/#tls).
    return {"traefik.ingress.kubernetes.io/router.tls": "true"}


def _gateway_for_containers(model: ScoringModel) -> dict[str, str]:
    # Which gateway it is, `alb-name` and the like, differs from one installation to another: INGRESS_ANNOTATIONS.
    return {}


def _local(model: ScoringModel) -> dict[str, str]:
    return {
        # Scoring twice gives the same answer twice, so a request whose pod died may go to another one.
        "mlscoring.io/retry-non-idempotent": "true",
        "mlscoring.io/ssl-redirect": "true",
        "mlscoring.io/proxy-timeout-seconds": str(proxy_seconds(model)),
    }


#: Beginnings of `spec.controller`. Application Gateway for Containers comes before the older Application Gateway.
_DIALECTS = (
    Dialect(
        (
            "k8s.io/ingress-nginx",
            "webapprouting.kubernetes.azure.com/",
            "approuting.kubernetes.azure.com/",
        ),
        _nginx,
        canary_prefix="nginx.ingress.kubernetes.io",
    ),
    Dialect(("nginx.org/",), _f5_nginx),
    Dialect(("haproxy.org/",), _haproxy_tech),
    Dialect(("haproxy-ingress.github.io/",), _haproxy_ingress),
    Dialect(("traefik.io/",), _traefik, redirect_kind=Kinds.MIDDLEWARE),
    Dialect(
        ("alb.networking.azure.io/",),
        _gateway_for_containers,
        redirect_kind=Kinds.INGRESS_EXTENSION,
    ),
    Dialect(("azure/application-gateway",), _application_gateway),
    Dialect((LOCAL_CONTROLLER,), _local, canary_prefix="mlscoring.io"),
)
