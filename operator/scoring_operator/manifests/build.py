"""All children of one ScoringModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scoring_operator.api import Manifest, ScoringModel
from scoring_operator.manifests.account import build_service_account
from scoring_operator.manifests.autoscaler import build_autoscaler
from scoring_operator.manifests.certificate import build_certificate
from scoring_operator.manifests.deployment import build_deployment, derive_revision
from scoring_operator.manifests.dialect import canary_annotations
from scoring_operator.manifests.disruption import build_disruption_budget
from scoring_operator.manifests.exposure import CertificateSource, Exposure
from scoring_operator.manifests.ingress import build_ingress
from scoring_operator.manifests.route import build_route
from scoring_operator.manifests.secrets import build_keys_secret, build_tls_secret
from scoring_operator.manifests.service import build_service
from scoring_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the builders need beside the spec, decided by reconcile.

    Args:
        replicas: for the Deployment; None leaves the number to the autoscaler.
        keys: API keys, when the operator makes them.
        certificate: PEM certificate and private key, when the operator makes them.
        ingress_controller: `spec.controller` of the IngressClass; None when it is not known.
        canary_serves: whether a pod of the canary is ready; until then it gets no share.
    """

    replicas: int | None = 1
    keys: Mapping[str, str] = field(default_factory=dict)
    certificate: tuple[bytes, bytes] | None = None
    ingress_controller: str | None = None
    canary_serves: bool = False


@dataclass(frozen=True, slots=True)
class Children:
    """Everything that is wanted for one model.

    Args:
        manifests: in the order in which they are applied.
        revision: of the model's pods.
        canary_revision: of the canary's pods.
        canary_routed: whether the way in can split traffic; False: the canary gets none.
    """

    manifests: tuple[Manifest, ...]
    revision: str
    canary_revision: str | None
    canary_routed: bool


def build_children(
    model: ScoringModel, settings: Settings, exposure: Exposure, wishes: Wishes
) -> Children:
    """Build what the pods need first, then the pods, then the way in.

    Args:
        model: the ScoringModel.
        settings: the operator's settings.
        exposure: from `plan_exposure`.
        wishes: what is not in the spec.
    """
    manifests: list[Manifest] = []
    if not model.storage.service_account_name:
        manifests.append(build_service_account(model))
    if wishes.keys:
        manifests.append(build_keys_secret(model, wishes.keys))
    if wishes.certificate:
        manifests.append(build_tls_secret(model, *wishes.certificate))
    manifests.append(build_service(model))
    manifests.append(build_deployment(model, settings, replicas=wishes.replicas))
    if model.autoscaling:
        manifests.append(build_autoscaler(model, model.autoscaling))
    manifests.append(build_disruption_budget(model))

    weight = model.canary.weight if model.canary and wishes.canary_serves else 0
    split = canary_annotations(wishes.ingress_controller, weight)
    if model.canary:
        manifests.append(build_service(model, canary=True))
        manifests.append(build_deployment(model, settings, replicas=1, canary=model.canary))
    if exposure.certificate is CertificateSource.ISSUER and exposure.host and exposure.issuer:
        manifests.append(build_certificate(model, exposure.host, exposure.issuer))
    if exposure.host and model.gateway:
        manifests.append(build_route(model, model.gateway, exposure.host, weight))
    elif exposure.host:
        controller = wishes.ingress_controller
        manifests.append(build_ingress(model, exposure, controller=controller))
        if model.canary and split is not None:
            manifests.append(
                build_ingress(model, exposure, controller=controller, canary_annotations=split)
            )
    return Children(
        manifests=tuple(manifests),
        revision=derive_revision(model, settings),
        canary_revision=derive_revision(model, settings, model.canary) if model.canary else None,
        canary_routed=exposure.host is not None
        and (model.gateway is not None or split is not None),
    )
