"""The ConfigMap that says which bytes each revision runs."""

from __future__ import annotations

from collections.abc import Mapping

from scoring_operator.api import Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names


def build_pins(model: ScoringModel, data: Mapping[str, str]) -> Manifest:
    """The record of digests by revision.

    Args:
        model: the ScoringModel.
        data: hexadecimal SHA-256 by revision.
    """
    return names.child(Kinds.CONFIG_MAP, model, names.pins_name(model), data=dict(data))
