"""What the API server refuses, in the words of status: the edge at which the cluster's errors become reasons."""

from __future__ import annotations

from scoring_operator.api import Manifest
from scoring_operator.cluster import (
    ClusterError,
    ForbiddenError,
    InvalidError,
    NamespaceTerminatingError,
    NameTakenError,
    QuotaError,
    StaleOwnerError,
)
from scoring_operator.status import Reason
from scoring_operator.status.termination import Finding


def finding_of(err: ClusterError, manifest: Manifest) -> Finding:
    """Why a child could not be applied.

    Args:
        err: what the API server or the check of the owner said.
        manifest: the child.
    """
    what = f"{manifest['kind']} {manifest['metadata']['name']}"
    if isinstance(err, StaleOwnerError):
        return Finding(Reason.PROGRESSING, err.message, "Kubernetes removes it soon.", failed=False)
    if isinstance(err, NamespaceTerminatingError):
        text = f"namespace {manifest['metadata']['namespace']} is being deleted"
        return Finding(Reason.PROGRESSING, text, "The ScoringModel goes with it.", failed=False)
    if isinstance(err, NameTakenError):
        hint = (
            "Delete or rename that object, or give the ScoringModel another name; it is left alone."
        )
        return Finding(Reason.NAME_TAKEN, err.message, hint)
    if isinstance(err, QuotaError):
        hint = "Ask for a larger ResourceQuota, or delete what is not needed."
        return Finding(Reason.QUOTA_EXCEEDED, f"{what}: {err.message}", hint)
    if isinstance(err, ForbiddenError):
        hint = "Give the operator's ServiceAccount this permission (see its ClusterRole)."
        return Finding(Reason.FORBIDDEN, f"{what}: {err.message}", hint)
    if isinstance(err, InvalidError):
        hint = "Correct the field of the spec that it comes from."
        return Finding(Reason.INVALID_SPEC, f"{what}: {err.message}", hint)
    return Finding(Reason.PROGRESSING, f"{what}: {err.message}", "It is tried again.", failed=False)
