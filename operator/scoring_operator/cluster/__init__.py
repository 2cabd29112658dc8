"""The only room that talks to the Kubernetes API.

Lists and watches ScoringModels and their children, applies and deletes children, patches status, and turns API errors
into this program's own. Takes and gives plain manifests; never decides what should be there.
"""

from scoring_operator.cluster.client import Client, connect
from scoring_operator.cluster.cluster import Cluster
from scoring_operator.cluster.downloads import Download
from scoring_operator.cluster.errors import (
    ClusterError,
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NamespaceTerminatingError,
    NameTakenError,
    NotFoundError,
    QuotaError,
    StaleOwnerError,
    TransientError,
)

__all__ = [
    "Client",
    "Cluster",
    "ClusterError",
    "ConflictError",
    "Download",
    "ForbiddenError",
    "GoneError",
    "InvalidError",
    "NameTakenError",
    "NamespaceTerminatingError",
    "NotFoundError",
    "QuotaError",
    "StaleOwnerError",
    "TransientError",
    "connect",
]
