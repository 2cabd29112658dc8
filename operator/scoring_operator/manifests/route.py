"""The HTTPRoute for a Gateway that the platform team owns; it splits traffic with a canary by weight."""

from __future__ import annotations

from scoring_operator.api import Gateway, Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names


def build_route(model: ScoringModel, gateway: Gateway, host: str, canary_weight: int) -> Manifest:
    """The route from the Gateway's listener to the Service.

    Args:
        model: the ScoringModel.
        gateway: its `spec.gateway`, or the default one.
        host: DNS name of the route.
        canary_weight: share of the canary in percent, for a model that has one.
    """
    backends = [_backend(model.name, 100 - canary_weight)]
    if model.canary:
        backends.append(_backend(names.workload_name(model, canary=True), canary_weight))
    # The scorer's own deadline comes first, so that its 504 arrives instead of the proxy's.
    timeout = f"{model.limits.timeout_seconds + 5}s"
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": backends,
        "timeouts": {"request": timeout, "backendRequest": timeout},
    }
    spec = {
        "parentRefs": [build_parent(gateway, gateway.section_name)],
        "hostnames": [host],
        "rules": [rule],
    }
    return names.child(Kinds.HTTP_ROUTE, model, model.name, spec=spec)


def build_parent(gateway: Gateway, section_name: str | None) -> Manifest:
    """The reference to one listener of the Gateway, or to all of them.

    Args:
        gateway: the Gateway.
        section_name: of the listener; None for all.
    """
    parent: Manifest = {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": gateway.name,
    }
    if gateway.namespace:
        parent["namespace"] = gateway.namespace
    if section_name:
        parent["sectionName"] = section_name
    return parent


def _backend(name: str, weight: int) -> Manifest:
    return {"group": "", "kind": "Service", "name": name, "port": 80, "weight": weight}
