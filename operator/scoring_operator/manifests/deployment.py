"""The Deployment: rollout strategy, replicas, and the pod template with its revision."""

from __future__ import annotations

from collections.abc import Mapping

from scoring_operator.api import Canary, Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.manifests.pod import build_pod_template
from scoring_operator.manifests.revision import derive_revision
from scoring_operator.manifests.template import read_template, record_template
from scoring_operator.settings import Settings


def build_deployment(
    model: ScoringModel,
    settings: Settings,
    *,
    replicas: int | None,
    canary: Canary | None = None,
    records: Mapping[str, str] | None = None,
) -> Manifest:
    """The Deployment of the model's pods, or of the canary's.

    The template of a revision is built once: while the Deployment has one on record, it keeps it, whatever this version of
    the operator would build.

    Args:
        model: the ScoringModel.
        settings: the operator's settings.
        replicas: None leaves the number to whoever owns it, the autoscaler.
        canary: given for the canary's Deployment.
        records: the templates on record, by the Deployment's name.
    """
    name = names.workload_name(model, canary=canary is not None)
    revision = derive_revision(model, settings, canary)
    record = (records or {}).get(name)
    template = read_template(record, revision) if record else None
    if template is None:
        template = build_pod_template(model, settings, revision=revision, canary=canary)
        record = record_template(template)
    spec: Manifest = {
        "progressDeadlineSeconds": model.rollout.progress_deadline_seconds,
        "revisionHistoryLimit": settings.revision_history,
        "strategy": _strategy(model),
        "selector": {"matchLabels": names.selector(model, canary=canary is not None)},
        "template": template,
    }
    if replicas is not None:
        spec = {"replicas": replicas, **spec}
    annotations = {names.TEMPLATE_ANNOTATION: record} if record else None
    return names.child(Kinds.DEPLOYMENT, model, name, annotations=annotations, spec=spec)


def _strategy(model: ScoringModel) -> Manifest:
    if model.rollout.strategy == "Recreate":
        return {"type": "Recreate"}
    surge, unavailable = (1, 0) if model.rollout.strategy == "Surge" else (0, 1)
    return {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
    }
