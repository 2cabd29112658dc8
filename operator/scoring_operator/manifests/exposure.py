"""How the model is reached from outside: host, URL, who makes the certificate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from scoring_operator.api import Gateway, IssuerRef, ScoringModel
from scoring_operator.settings import Settings


class CertificateSource(Enum):
    """Where the certificate of the host comes from."""

    SELF_SIGNED = "SelfSigned"
    SECRET = "Secret"
    ISSUER = "Issuer"
    GATEWAY = "Gateway"
    NONE = "None"


@dataclass(frozen=True, slots=True)
class Exposure:
    """What was decided about a model's way in.

    Args:
        host: None when the model is reachable inside the cluster only.
        url: None without a host.
        ingress_class: of the Ingress; None: the cluster's default class.
        certificate: who makes the certificate.
        issuer: for `CertificateSource.ISSUER`.
        gateway: the Gateway that the host belongs to; None: an Ingress.
    """

    host: str | None
    url: str | None
    ingress_class: str | None
    certificate: CertificateSource
    issuer: IssuerRef | None = None
    gateway: Gateway | None = None


INTERNAL = Exposure(None, None, None, CertificateSource.NONE)


def plan_exposure(model: ScoringModel, settings: Settings) -> Exposure:
    """Decide host, URL and certificate.

    Args:
        model: the ScoringModel.
        settings: base domain, URL port, default gateway, ingress class and issuer.
    """
    if model.exposure == "ClusterInternal":
        return INTERNAL
    given = model.gateway.hostname if model.gateway else model.ingress and model.ingress.host
    host = given or (
        f"{model.name}.{model.namespace}.{settings.base_domain}" if settings.base_domain else None
    )
    if host is None:
        return INTERNAL
    port = "" if settings.url_port == 443 else f":{settings.url_port}"
    url = f"https://{host}{port}"
    gateway = model.gateway or (None if model.ingress else settings.gateway)
    if gateway:
        return Exposure(host, url, None, CertificateSource.GATEWAY, gateway=gateway)
    ingress_class = (model.ingress and model.ingress.class_name) or settings.ingress_class
    if model.ingress and model.ingress.tls_secret_name:
        return Exposure(host, url, ingress_class, CertificateSource.SECRET)
    issuer = (model.ingress and model.ingress.issuer) or settings.issuer
    if issuer:
        return Exposure(host, url, ingress_class, CertificateSource.ISSUER, issuer)
    return Exposure(host, url, ingress_class, CertificateSource.SELF_SIGNED)
