"""The Ingress: HTTPS for the host, always with TLS."""

from __future__ import annotations

from scoring_operator.api import Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.manifests.dialect import annotations_for
from scoring_operator.manifests.exposure import Exposure


def build_ingress(
    model: ScoringModel,
    exposure: Exposure,
    *,
    controller: str | None,
    canary_annotations: dict[str, str] | None = None,
) -> Manifest:
    """The Ingress of the model, or the second one that sends a share to the canary.

    Args:
        model: the ScoringModel.
        exposure: with a host.
        controller: `spec.controller` of the IngressClass; None when it is not known.
        canary_annotations: given for the canary's Ingress.
    """
    is_canary = canary_annotations is not None
    backend = {
        "service": {
            "name": names.workload_name(model, canary=is_canary),
            "port": {"name": "http"},
        }
    }
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    spec: Manifest = {
        "tls": [{"hosts": [exposure.host], "secretName": names.tls_secret_name(model)}],
        "rules": [{"host": exposure.host, "http": {"paths": [path]}}],
    }
    if exposure.ingress_class:
        spec = {"ingressClassName": exposure.ingress_class, **spec}
    given = model.ingress.annotations if model.ingress else {}
    annotations = {**annotations_for(controller, model), **given, **(canary_annotations or {})}
    name = names.workload_name(model, canary=is_canary)
    return names.child(Kinds.INGRESS, model, name, annotations=annotations, spec=spec)
