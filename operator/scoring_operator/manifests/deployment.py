"""The Deployment: rollout strategy, replicas, and the pod template with its revision."""

from __future__ import annotations

import hashlib
import json

from scoring_operator.api import Canary, Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.manifests.pod import build_pod_template
from scoring_operator.settings import Settings


def build_deployment(
    model: ScoringModel,
    settings: Settings,
    *,
    replicas: int | None,
    canary: Canary | None = None,
) -> Manifest:
    """The Deployment of the model's pods, or of the canary's.

    Args:
        model: the ScoringModel.
        settings: the operator's settings.
        replicas: None leaves the number to whoever owns it, the autoscaler.
        canary: given for the canary's Deployment.
    """
    spec: Manifest = {
        "progressDeadlineSeconds": model.rollout.progress_deadline_seconds,
        "revisionHistoryLimit": settings.revision_history,
        "strategy": _strategy(model),
        "selector": {"matchLabels": names.selector(model, canary=canary is not None)},
        "template": build_pod_template(
            model, settings, revision=derive_revision(model, settings, canary), canary=canary
        ),
    }
    if replicas is not None:
        spec = {"replicas": replicas, **spec}
    name = names.workload_name(model, canary=canary is not None)
    return names.child(Kinds.DEPLOYMENT, model, name, spec=spec)


def derive_revision(model: ScoringModel, settings: Settings, canary: Canary | None = None) -> str:
    """Hash of everything a pod serves: two pods of one revision answer alike.

    Applying an old YAML gives the old revision again, and with it the old ReplicaSet.

    Returns:
        Ten hexadecimal digits.
    """
    template = build_pod_template(model, settings, revision="", canary=canary)
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _strategy(model: ScoringModel) -> Manifest:
    if model.rollout.strategy == "Recreate":
        return {"type": "Recreate"}
    surge, unavailable = (1, 0) if model.rollout.strategy == "Surge" else (0, 1)
    return {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
    }
