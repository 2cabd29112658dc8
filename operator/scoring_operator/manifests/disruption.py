"""The PodDisruptionBudget: one pod at a time, and never in the way of a node upgrade."""

from __future__ import annotations

from scoring_operator.api import Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names


def build_disruption_budget(model: ScoringModel) -> Manifest:
    """At most one pod away at a time; `minAvailable` would block every drain of a single replica's node."""
    spec = {
        "maxUnavailable": 1,
        # A pod that never became ready must not hold up a drain.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": names.selector(model)},
    }
    return names.child(Kinds.DISRUPTION_BUDGET, model, model.name, spec=spec)
