"""The ScoringModel as typed values: parsed from what the API server stores, or refused with the field's path.

Takes plain dicts, gives frozen dataclasses. Never builds manifests and never talks to a cluster.
"""

from scoring_operator.api.model import (
    Auth,
    Autoscaling,
    Batching,
    Canary,
    FileSource,
    Gateway,
    Ingress,
    IssuerRef,
    Key,
    Limits,
    Rollout,
    Sample,
    ScoringModel,
    Storage,
)
from scoring_operator.api.objects import Kind, Kinds, Manifest
from scoring_operator.api.parse import SpecError, parse_scoring_model

__all__ = [
    "Auth",
    "Autoscaling",
    "Batching",
    "Canary",
    "FileSource",
    "Gateway",
    "Ingress",
    "IssuerRef",
    "Key",
    "Kind",
    "Kinds",
    "Limits",
    "Manifest",
    "Rollout",
    "Sample",
    "ScoringModel",
    "SpecError",
    "Storage",
    "parse_scoring_model",
]
