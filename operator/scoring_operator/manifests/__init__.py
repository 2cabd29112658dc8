"""Builders: a validated ScoringModel in, Kubernetes manifests out. No clock, no cluster, no environment.

One file per kind. Manifests are plain dicts in a stable order that hold only the fields this operator owns; equal input
gives equal output. `build_children` puts them together.
"""

from scoring_operator.manifests.build import Children, Wishes, build_children
from scoring_operator.manifests.exposure import Exposure, plan_exposure

__all__ = ["Children", "Exposure", "Wishes", "build_children", "plan_exposure"]
