"""The Ingress: HTTPS for the host, always with TLS."""

from __future__ import annotations

from collections.abc import Mapping

from scoring_operator.api import Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.manifests.dialect import Dialect
from scoring_operator.manifests.exposure import Exposure
from scoring_operator.manifests.redirect import redirect_name
from scoring_operator.settings import Settings


def build_ingress(
    model: ScoringModel,
    exposure: Exposure,
    *,
    settings: Settings,
    dialect: Dialect | None,
    extra_annotations: Mapping[str, str],
    canary_annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """The Ingress of the model, or the second one that sends a share to the canary.

    Args:
        model: the ScoringModel.
        exposure: with a host.
        settings: with annotations for every Ingress.
        dialect: of the controller; None when it is not known.
        extra_annotations: what the dialect needs beside its own.
        canary_annotations: given for the canary's Ingress.
    """
    is_canary = canary_annotations is not None
    name = names.workload_name(model, canary=is_canary)
    tls = [{"hosts": [exposure.host], "secretName": names.tls_secret_name(model)}]
    annotations = {
        **settings.ingress_annotations,
        **(dialect.annotations(model) if dialect else {}),
        **extra_annotations,
        **(model.ingress.annotations if model.ingress else {}),
        **(canary_annotations or {}),
    }
    spec = {**_class(exposure), "tls": tls, "rules": _rules(exposure, name)}
    return names.child(Kinds.INGRESS, model, name, annotations=annotations, spec=spec)


def build_plain_ingress(
    model: ScoringModel, exposure: Exposure, *, settings: Settings, annotations: Mapping[str, str]
) -> Manifest:
    """The Ingress for plain HTTP, which only redirects; for controllers that need one.

    Args:
        model: the ScoringModel.
        exposure: with a host.
        settings: with annotations for every Ingress.
        annotations: that make it redirect; they win, because without them it would serve.
    """
    merged = {
        **settings.ingress_annotations,
        **(model.ingress.annotations if model.ingress else {}),
        **annotations,
    }
    spec = {**_class(exposure), "rules": _rules(exposure, model.name)}
    return names.child(Kinds.INGRESS, model, redirect_name(model), annotations=merged, spec=spec)


def _class(exposure: Exposure) -> Manifest:
    return {"ingressClassName": exposure.ingress_class} if exposure.ingress_class else {}


def _rules(exposure: Exposure, service: str) -> list[Manifest]:
    backend = {"service": {"name": service, "port": {"name": "http"}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    return [{"host": exposure.host, "http": {"paths": [path]}}]
