"""Scores a question against 182 known ones as the reference's script does: every pair through two TF-IDFs and 200 trees.

Azure ML's contract: `init()`, `run(data)`, and `run_batch(list)` for servers that score several requests in one call.
Nothing is cached between requests, so that every server has the same work to do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

_model: dict[str, Any] = {}


def load(folder: Path) -> None:
    """Load the pipeline and the known questions."""
    _model.update(joblib.load(folder / "faq.joblib"))


def rank(texts: Sequence[str]) -> list[list[list[Any]]]:
    """All known questions for each text as [question id, answer id, probability], best first."""
    known, keys = _model["texts"], _model["keys"]
    pairs = np.empty((len(texts) * len(known), 2), dtype=object)
    pairs[:, 0] = [text for text in texts for _ in known]
    pairs[:, 1] = list(known) * len(texts)
    probabilities = _model["pipeline"].predict_proba(pairs)[:, 1].reshape(len(texts), len(known))
    answers = []
    for row in probabilities:
        order = np.argsort(-row, kind="stable")
        answers.append([[*keys[i], float(row[i])] for i in order])
    return answers


def init() -> None:
    """Called once by the server."""
    load(Path(os.environ["AZUREML_MODEL_DIR"]))


def run(data: str | bytes) -> list[Any]:
    """Score one body, `{"input": "text"}`."""
    return rank([json.loads(data)["input"]])[0]


def run_batch(bodies: Sequence[str | bytes]) -> list[list[Any]]:
    """Score several bodies in one call of the pipeline."""
    return rank([json.loads(body)["input"] for body in bodies])
