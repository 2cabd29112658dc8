"""Which path speaks which dialect. Exact paths of the scoring routes; everything else is Tornado's."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from model_scorer.dialects.azureml import ScoreDialect
from model_scorer.dialects.kserve_v1 import KServeV1Dialect
from model_scorer.dialects.mlflow_invocations import InvocationsDialect
from model_scorer.dialects.open_inference import OpenInferenceDialect
from model_scorer.dialects.protocol import Dialect
from model_scorer.dialects.torchserve import PredictionsDialect
from model_scorer.serve.shared import DIALECTS

SCORE = ScoreDialect()
V1 = KServeV1Dialect()
V2 = OpenInferenceDialect()
INVOCATIONS = InvocationsDialect()
PREDICTIONS = PredictionsDialect()


@dataclass(frozen=True, slots=True)
class Route:
    """A scoring route.

    Attributes:
        dialect: its codec.
        index: of the dialect in the shared counters.
        methods: that it answers; OPTIONS beside them.
    """

    dialect: Dialect
    index: int
    methods: tuple[str, ...] = ("POST",)

    @property
    def azure(self) -> bool:
        """Whether its answers carry Azure ML's header names."""
        return self.dialect is SCORE


def build_routes(model: str, version: str) -> dict[str, Route]:
    """The scoring routes of a model, by exact path.

    Args:
        model: the ScoringModel's name.
        version: the one version that it serves.
    """
    score = Route(SCORE, DIALECTS.index("score"), ("POST", "GET"))
    v1 = Route(V1, DIALECTS.index("v1"))
    v2 = Route(V2, DIALECTS.index("v2"))
    predictions = Route(PREDICTIONS, DIALECTS.index("predictions"))
    return {
        "/score": score,
        # Where Azure ML's first AKS deployments had it: clients of those go on working.
        f"/api/v1/service/{model}/score": score,
        f"/v1/models/{model}:predict": v1,
        f"/v2/models/{model}/infer": v2,
        f"/v2/models/{model}/versions/{version}/infer": v2,
        "/invocations": Route(INVOCATIONS, DIALECTS.index("invocations")),
        f"/predictions/{model}": predictions,
        f"/predictions/{model}/{version}": predictions,
    }


def dialect_of_path(path: str) -> tuple[Dialect, int]:
    """The dialect in whose form an error on any path is told."""
    path = unquote(path)
    if path.startswith("/v1"):
        return V1, DIALECTS.index("v1")
    if path.startswith("/v2"):
        return V2, DIALECTS.index("v2")
    if path.startswith(("/invocations", "/ping", "/health")):
        return INVOCATIONS, DIALECTS.index("invocations")
    if path.startswith("/predictions"):
        return PREDICTIONS, DIALECTS.index("predictions")
    return SCORE, DIALECTS.index("other")
