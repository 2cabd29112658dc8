"""The redirect from HTTP to HTTPS where an annotation cannot say it: a second Ingress or HTTPRoute for plain HTTP.

Traefik takes a Middleware, Azure's Application Gateway for Containers an IngressExtension, each only where its kind is
installed; a Gateway takes an HTTPRoute on its plain HTTP listener.
"""

from __future__ import annotations

from collections.abc import Collection

from scoring_operator.api import Gateway, Kind, Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.manifests.dialect import Dialect, proxy_seconds
from scoring_operator.manifests.exposure import Exposure
from scoring_operator.manifests.route import build_parent

_EXTENSION = "alb.networking.azure.io/alb-ingress-extension"
_ROUTER = "traefik.ingress.kubernetes.io/router"


def redirect_name(model: ScoringModel) -> str:
    """Name of everything that only redirects."""
    return f"{model.name}-redirect"


def redirects_itself(dialect: Dialect | None, installed: Collection[Kind]) -> bool:
    """Whether the proxy redirects; otherwise the scorer does.

    Args:
        dialect: of the ingress controller; None when it is not known.
        installed: kinds that the cluster has beside those of Kubernetes.
    """
    if dialect is None:
        return False
    return dialect.redirect_kind is None or dialect.redirect_kind in installed


def build_extras(
    model: ScoringModel, exposure: Exposure, dialect: Dialect | None
) -> tuple[dict[str, str], list[Manifest], dict[str, str]]:
    """What a dialect needs beside annotations; only for one that redirects by a kind of its own.

    Args:
        model: the ScoringModel.
        exposure: with a host.
        dialect: of the ingress controller.

    Returns:
        Annotations of the Ingress, objects to apply before it, and annotations of the Ingress for plain HTTP, which
        are empty where none is needed.
    """
    kind = dialect.redirect_kind if dialect else None
    name = redirect_name(model)
    if kind == Kinds.MIDDLEWARE:
        middleware = names.child(
            kind, model, name, spec={"redirectScheme": {"scheme": "https", "permanent": True}}
        )
        # `web` is the entry point for plain HTTP of Traefik's own chart.
        plain = {
            f"{_ROUTER}.entrypoints": "web",
            f"{_ROUTER}.middlewares": f"{model.namespace}-{name}@kubernetescrd",
        }
        return {}, [middleware], plain
    if kind == Kinds.INGRESS_EXTENSION:
        # Its default of 60 s holds for the whole request and cannot be annotated.
        timeouts = {"requestTimeout": f"{proxy_seconds(model)}s"}
        patience = names.child(
            kind,
            model,
            model.name,
            spec={"backendSettings": [{"service": model.name, "timeouts": timeouts}]},
        )
        rule = {
            "host": exposure.host,
            "requestRedirect": {"scheme": "https", "statusCode": 301},
        }
        redirect = names.child(kind, model, name, spec={"rules": [rule]})
        return {_EXTENSION: model.name}, [patience, redirect], {_EXTENSION: name}
    return {}, [], {}


def build_redirect_route(
    model: ScoringModel, gateway: Gateway, host: str, *, port: int
) -> Manifest:
    """The HTTPRoute that redirects what arrives at the Gateway's plain HTTP listener.

    Args:
        model: the ScoringModel.
        gateway: with a plain HTTP listener.
        host: DNS name of the route.
        port: of the public URL.
    """
    redirect: Manifest = {"scheme": "https", "statusCode": 301}
    if port != 443:
        redirect["port"] = port
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "filters": [{"type": "RequestRedirect", "requestRedirect": redirect}],
    }
    spec = {
        "parentRefs": [build_parent(gateway, gateway.http_section_name)],
        "hostnames": [host],
        "rules": [rule],
    }
    return names.child(Kinds.HTTP_ROUTE, model, redirect_name(model), spec=spec)
