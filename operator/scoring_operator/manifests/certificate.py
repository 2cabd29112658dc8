"""The cert-manager Certificate of the host."""

from __future__ import annotations

from scoring_operator.api import IssuerRef, Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names


def build_certificate(model: ScoringModel, host: str, issuer: IssuerRef) -> Manifest:
    """A Certificate that fills the Secret which the Ingress names.

    Args:
        model: the ScoringModel.
        host: the only DNS name.
        issuer: written in full, because cert-manager re-issues when its own defaults for it change.
    """
    spec = {
        "secretName": names.tls_secret_name(model),
        "dnsNames": [host],
        "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
    }
    return names.child(Kinds.CERTIFICATE, model, f"{model.name}-tls", spec=spec)
