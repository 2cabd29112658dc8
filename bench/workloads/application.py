"""The applications: what every peer and every in-process limit runs. Imports a framework only when it is loaded."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

# Requests in one call at most, for servers that batch: larger ones let one worker take all that waits and starve the
# other, smaller ones amortise less.
BATCH_SIZES = {"small": 64, "faq": 4, "resnet": 4}


class Application(Protocol):
    """A loaded model behind a plain interface."""

    def decode(self, document: Any) -> Any:
        """The payload of a parsed JSON body; for images also of a raw body."""
        ...

    def score_many(self, payloads: Sequence[Any]) -> list[Any]:
        """An answer that JSON can hold for each payload, by one call of the model."""
        ...


def load(workload: str | None = None, folder: Path | None = None) -> Application:
    """Load what BENCH_WORKLOAD and BENCH_MODEL_DIR name, or the arguments."""
    workload = workload or os.environ["BENCH_WORKLOAD"]
    folder = folder or Path(os.environ["BENCH_MODEL_DIR"])
    if workload == "faq":
        return FaqApplication(folder)
    if workload == "resnet":
        from workloads.network import NetworkApplication

        return NetworkApplication(folder)
    return RowsApplication(folder)


class RowsApplication:
    """A scikit-learn estimator on rows of numbers: `{"data": [[…], …]}` to the predictions as a list."""

    def __init__(self, folder: Path) -> None:
        import joblib

        self.estimator = joblib.load(folder / "model.joblib")

    def decode(self, document: Any) -> Any:
        """Rows as an array of shape (rows, features)."""
        import numpy as np

        return np.asarray(document["data"], dtype=float)

    def score_many(self, payloads: Sequence[Any]) -> list[Any]:
        """The predictions of each payload."""
        import numpy as np

        if len(payloads) == 1:
            return [self.estimator.predict(payloads[0]).tolist()]
        results = self.estimator.predict(np.concatenate(payloads))
        ends = np.cumsum([len(payload) for payload in payloads])[:-1]
        return [part.tolist() for part in np.split(results, ends)]


class FaqApplication:
    """The FAQ pipeline: `{"input": "text"}` to the ranked list."""

    def __init__(self, folder: Path) -> None:
        from workloads.faq import score

        score.load(folder)
        self._rank = score.rank

    def decode(self, document: Any) -> Any:
        """The text."""
        return document["input"]

    def score_many(self, payloads: Sequence[Any]) -> list[Any]:
        """A ranked list for each text."""
        return list(self._rank(payloads))


def image_bytes(document: Any) -> bytes:
    """The image of `{"input": {"image": "<base64>"}}`, or the raw body itself."""
    if isinstance(document, bytes):
        return document
    return base64.b64decode(document["input"]["image"])
