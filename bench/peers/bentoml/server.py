"""BentoML: a service with two workers, with or without its adaptive batching."""

import os
from typing import Any

import bentoml
import numpy as np
from workloads.application import BATCH_SIZES, load

WORKLOAD = os.environ["BENCH_WORKLOAD"]
BATCH = os.environ.get("BENCH_BATCH") == "yes"


@bentoml.service(
    workers=int(os.environ["BENCH_WORKERS"]),
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class Scorer:
    """The application behind BentoML's service."""

    def __init__(self) -> None:
        self.model = load()

    if WORKLOAD == "small" and BATCH:

        @bentoml.api(route="/score", batchable=True, max_batch_size=64, max_latency_ms=60_000)
        def score(self, data: np.ndarray) -> np.ndarray:
            """Rows of several requests, joined by BentoML."""
            return np.array(self.model.score_many([data])[0])

    elif WORKLOAD == "small":

        @bentoml.api(route="/score")
        def score(self, data: np.ndarray) -> list[int]:
            """Rows of one request."""
            return self.model.score_many([data])[0]

    elif BATCH:

        @bentoml.api(
            route="/score",
            batchable=True,
            max_batch_size=BATCH_SIZES[WORKLOAD],
            max_latency_ms=60_000,
        )
        def score(self, input: list[Any]) -> list[Any]:
            """One entry a request, joined by BentoML."""
            return self.model.score_many([self.model.decode({"input": each}) for each in input])

    else:

        @bentoml.api(route="/score")
        def score(self, input: Any) -> list[Any]:
            """One request; as a list of one, as the batched form."""
            return self.model.score_many([self.model.decode({"input": each}) for each in input])
