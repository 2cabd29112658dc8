"""The Secrets that the operator owns: API keys and the self-signed certificate.

Their content comes in as arguments, because making it is not a pure function.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from scoring_operator.api import Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names


def build_keys_secret(model: ScoringModel, keys: Mapping[str, str]) -> Manifest:
    """The API keys.

    Args:
        model: the ScoringModel.
        keys: `primary` and `secondary`.
    """
    data = {name: _encode(value.encode()) for name, value in sorted(keys.items())}
    return names.child(Kinds.SECRET, model, f"{model.name}-keys", type="Opaque", data=data)


def build_tls_secret(model: ScoringModel, certificate: bytes, private_key: bytes) -> Manifest:
    """The certificate of the host.

    Args:
        model: the ScoringModel.
        certificate: PEM.
        private_key: PEM.
    """
    data = {"tls.crt": _encode(certificate), "tls.key": _encode(private_key)}
    name = f"{model.name}-tls"
    return names.child(Kinds.SECRET, model, name, type="kubernetes.io/tls", data=data)


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()
