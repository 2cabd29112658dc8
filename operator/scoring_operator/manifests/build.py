"""All children of one ScoringModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scoring_operator.api import Kind, Manifest, ScoringModel
from scoring_operator.manifests.account import build_service_account
from scoring_operator.manifests.autoscaler import build_autoscaler, build_scaled_object
from scoring_operator.manifests.certificate import build_certificate
from scoring_operator.manifests.deployment import build_deployment
from scoring_operator.manifests.dialect import find_dialect
from scoring_operator.manifests.disruption import build_disruption_budget
from scoring_operator.manifests.exposure import CertificateSource, Exposure
from scoring_operator.manifests.ingress import build_ingress, build_plain_ingress
from scoring_operator.manifests.network import build_network_policy
from scoring_operator.manifests.pins import build_pins
from scoring_operator.manifests.redirect import (
    build_extras,
    build_redirect_route,
    redirects_itself,
)
from scoring_operator.manifests.revision import derive_revision
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
        pins: digest by revision.
        installed: kinds that the cluster has beside those of Kubernetes.
        templates: pod templates on record, by the Deployment's name.
    """

    replicas: int | None = 1
    keys: Mapping[str, str] = field(default_factory=dict)
    certificate: tuple[bytes, bytes] | None = None
    ingress_controller: str | None = None
    canary_serves: bool = False
    pins: Mapping[str, str] = field(default_factory=dict)
    installed: frozenset[Kind] = frozenset()
    templates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Children:
    """Everything that is wanted for one model.

    Args:
        manifests: in the order in which they are applied.
        revision: of the model's pods.
        canary_revision: of the canary's pods.
        canary_routed: whether the way in can split traffic; False: the canary gets none.
        proxy_redirects: whether the way in redirects plain HTTP; False: the scorer does it.
        redirect_kind: the kind that the way in redirects with; None: it needs none.
    """

    manifests: tuple[Manifest, ...]
    revision: str
    canary_revision: str | None
    canary_routed: bool
    proxy_redirects: bool = False
    redirect_kind: Kind | None = None


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
    if wishes.pins:
        manifests.append(build_pins(model, wishes.pins))
    manifests.append(build_service(model))
    records = wishes.templates
    manifests.append(build_deployment(model, settings, replicas=wishes.replicas, records=records))
    if model.autoscaling and model.autoscaling.autoscaler == "KEDA":
        manifests.append(build_scaled_object(model, model.autoscaling, settings))
    elif model.autoscaling:
        manifests.append(build_autoscaler(model, model.autoscaling))
    manifests.append(build_disruption_budget(model))
    if settings.network_policy != "None":
        manifests.append(build_network_policy(model, settings))
    if model.canary:
        manifests.append(build_service(model, canary=True))
        manifests.append(
            build_deployment(model, settings, replicas=1, canary=model.canary, records=records)
        )
    if exposure.certificate is CertificateSource.ISSUER and exposure.host and exposure.issuer:
        manifests.append(build_certificate(model, exposure.host, exposure.issuer))
    way_in = _build_way_in(model, settings, exposure, wishes)
    return Children(
        manifests=(*manifests, *way_in.manifests),
        revision=derive_revision(model, settings),
        canary_revision=derive_revision(model, settings, model.canary) if model.canary else None,
        canary_routed=way_in.splits,
        proxy_redirects=way_in.redirects,
        redirect_kind=way_in.redirect_kind,
    )


@dataclass(frozen=True, slots=True)
class _WayIn:
    manifests: tuple[Manifest, ...] = ()
    splits: bool = False
    redirects: bool = False
    redirect_kind: Kind | None = None


def _build_way_in(
    model: ScoringModel, settings: Settings, exposure: Exposure, wishes: Wishes
) -> _WayIn:
    """Ingress or HTTPRoute, what it needs, and what it is able to do."""
    if exposure.host is None:
        return _WayIn()
    weight = model.canary.weight if model.canary and wishes.canary_serves else 0
    gateway = exposure.gateway
    if gateway:
        routes = [build_route(model, gateway, exposure.host, weight)]
        if gateway.http_section_name:
            port = settings.url_port
            routes.append(build_redirect_route(model, gateway, exposure.host, port=port))
        return _WayIn(tuple(routes), splits=True, redirects=len(routes) > 1)
    dialect = find_dialect(wishes.ingress_controller)
    redirects = redirects_itself(dialect, wishes.installed)
    extra, objects, plain = build_extras(model, exposure, dialect) if redirects else ({}, [], {})
    split = dialect.canary_annotations(weight) if dialect else None

    def ingress(canary_annotations: Mapping[str, str] | None = None) -> Manifest:
        return build_ingress(
            model,
            exposure,
            settings=settings,
            dialect=dialect,
            extra_annotations=extra,
            canary_annotations=canary_annotations,
        )

    manifests = [*objects, ingress()]
    if model.canary and split is not None:
        manifests.append(ingress(split))
    if plain:
        manifests.append(build_plain_ingress(model, exposure, settings=settings, annotations=plain))
    return _WayIn(
        tuple(manifests),
        splits=split is not None,
        redirects=redirects,
        redirect_kind=dialect.redirect_kind if dialect else None,
    )
