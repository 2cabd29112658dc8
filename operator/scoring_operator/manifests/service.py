"""The Service: the address of the pods inside the cluster."""

from __future__ import annotations

from scoring_operator.api import Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names


def build_service(model: ScoringModel, *, canary: bool = False) -> Manifest:
    """Port `http` 80 in front of the pods; probes and metrics are not reachable through it."""
    port = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}
    spec = {
        "type": "ClusterIP",
        "selector": names.selector(model, canary=canary),
        "ports": [port],
    }
    name = names.workload_name(model, canary=canary)
    return names.child(Kinds.SERVICE, model, name, spec=spec)
