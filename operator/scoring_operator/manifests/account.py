"""The ServiceAccount that the pods run as, when the user names none."""

from __future__ import annotations

from scoring_operator.api import Kinds, Manifest, ScoringModel
from scoring_operator.manifests import names


def build_service_account(model: ScoringModel) -> Manifest:
    """An account without permissions, whose token is mounted nowhere unless a pod asks for it."""
    return names.child(Kinds.SERVICE_ACCOUNT, model, model.name, automountServiceAccountToken=False)
