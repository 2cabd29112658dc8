"""Annotations of ingress controllers: redirect to HTTPS, body size, timeouts, canary.

The dialect follows from the IngressClass's `spec.controller`, never from the class's name, which every installation
chooses for itself. An unknown controller gets portable fields only: the scorer itself redirects plain HTTP and enforces
its limits.
"""

from __future__ import annotations

from collections.abc import Callable

from scoring_operator.api import ScoringModel

LOCAL_CONTROLLER = "mlscoring.io/local-ingress"

Dialect = Callable[[ScoringModel], dict[str, str]]


def annotations_for(controller: str | None, model: ScoringModel) -> dict[str, str]:
    """Annotations that make this controller redirect, and pass what the scorer accepts.

    Args:
        controller: `spec.controller` of the IngressClass; None when it is not known.
        model: whose limits the proxy must not undercut.
    """
    for prefix, dialect in _DIALECTS:
        if controller is not None and controller.startswith(prefix):
            return dialect(model)
    return {}


def canary_annotations(controller: str | None, weight: int) -> dict[str, str] | None:
    """Annotations of a second Ingress that takes a share of the requests; None: this controller cannot.

    Args:
        controller: `spec.controller` of the IngressClass.
        weight: share in percent.
    """
    for known, prefix in _CANARY_PREFIXES:
        if controller is not None and controller.startswith(known):
            return {f"{prefix}/canary": "true", f"{prefix}/canary-weight": str(weight)}
    return None


def _seconds(model: ScoringModel) -> int:
    # A little more than the scorer's own deadline, so that its 504 arrives instead of the proxy's.
    return model.limits.timeout_seconds + 5


def _nginx(model: ScoringModel) -> dict[str, str]:
    prefix = "nginx.ingress.kubernetes.io"
    return {
        f"{prefix}/ssl-redirect": "true",
        f"{prefix}/proxy-body-size": str(model.limits.request_bytes),
        f"{prefix}/proxy-read-timeout": str(_seconds(model)),
        f"{prefix}/proxy-send-timeout": str(_seconds(model)),
    }


def _f5_nginx(model: ScoringModel) -> dict[str, str]:
    return {
        "nginx.org/redirect-to-https": "true",
        "nginx.org/client-max-body-size": str(model.limits.request_bytes),
        "nginx.org/proxy-read-timeout": f"{_seconds(model)}s",
        "nginx.org/proxy-send-timeout": f"{_seconds(model)}s",
    }


def _haproxy_tech(model: ScoringModel) -> dict[str, str]:
    return {
        "haproxy.org/ssl-redirect": "true",
        "haproxy.org/timeout-server": f"{_seconds(model)}s",
    }


def _haproxy_ingress(model: ScoringModel) -> dict[str, str]:
    prefix = "haproxy-ingress.github.io"
    return {
        f"{prefix}/ssl-redirect": "true",
        f"{prefix}/proxy-body-size": str(model.limits.request_bytes),
        f"{prefix}/timeout-server": f"{_seconds(model)}s",
    }


def _application_gateway(model: ScoringModel) -> dict[str, str]:
    prefix = "appgw.ingress.kubernetes.io"
    return {f"{prefix}/ssl-redirect": "true", f"{prefix}/request-timeout": str(_seconds(model))}


_NGINX = ("k8s.io/ingress-nginx", "webapprouting.kubernetes.azure.com/")
_CANARY_PREFIXES = (
    (_NGINX[0], "nginx.ingress.kubernetes.io"),
    (_NGINX[1], "nginx.ingress.kubernetes.io"),
    (LOCAL_CONTROLLER, "mlscoring.io"),
)
_DIALECTS: tuple[tuple[str, Dialect], ...] = (
    (_NGINX[0], _nginx),
    (_NGINX[1], _nginx),
    ("nginx.org/", _f5_nginx),
    ("haproxy.org/", _haproxy_tech),
    ("haproxy-ingress.github.io/", _haproxy_ingress),
    ("azure/application-gateway", _application_gateway),
)
