"""What the operator's tests share: a ScoringModel as the API server stores it, and goldens."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scoring_operator.api import ScoringModel, parse_scoring_model
from scoring_operator.metrics import Metrics

# Test modules share `operator_cluster.py` and more; under importlib mode nothing puts their folder on the path.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "proof")]

GOLDEN = Path(__file__).parent / "golden"

STORED: dict[str, Any] = {
    "apiVersion": "mlscoring.io/v1",
    "kind": "ScoringModel",
    "metadata": {
        "name": "faq",
        "namespace": "default",
        "uid": "8f0f3c1e-0000-4000-8000-000000000001",
        "generation": 3,
        "resourceVersion": "100",
    },
    "spec": {
        "modelURI": "https://models.example.com/faq.joblib",
        "framework": "sklearn",
        "device": "cpu",
    },
}


@pytest.fixture(autouse=True)
def _within_its_role(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test has the operator do, every call of it is one that its Role allows."""
    from operator_role import granted, needed

    used: set[Any] = set()
    observe = Metrics.observe_call

    def record(self: Metrics, verb: str, path: str, status: int) -> None:
        watching = verb == "WATCH"
        used.update(needed("GET" if watching else verb, path, watching=watching, status=status))
        observe(self, verb, path, status)

    monkeypatch.setattr(Metrics, "observe_call", record)
    yield
    assert used - granted() == set(), "calls that the operator's Role does not allow"


@pytest.fixture
def stored() -> Callable[..., dict[str, Any]]:
    """A stored ScoringModel with more fields in its spec."""

    def make(**spec: Any) -> dict[str, Any]:
        manifest = copy.deepcopy(STORED)
        manifest["spec"].update(spec)
        return manifest

    return make


@pytest.fixture
def model(stored: Callable[..., dict[str, Any]]) -> Callable[..., ScoringModel]:
    """A parsed ScoringModel with more fields in its spec."""
    return lambda **spec: parse_scoring_model(stored(**spec))


@pytest.fixture
def golden() -> Callable[[str, Any], None]:
    """Compare with a golden file; UPDATE_GOLDEN=1 writes it anew."""

    def check(name: str, value: Any) -> None:
        path = GOLDEN / f"{name}.yaml"
        text = yaml.safe_dump_all(value, sort_keys=False, width=120)
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)
        assert text == path.read_text()

    return check
