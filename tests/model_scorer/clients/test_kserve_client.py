"""KServe's InferenceRESTClient, unchanged, against the scorer; runs when TEST_CLIENTS_PYTHON names an interpreter with it.

`make test-clients` builds that environment: KServe wants pandas below 3 and protobuf below 7, the other clients later ones.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

PYTHON = os.environ.get("TEST_CLIENTS_PYTHON", "")
CALLS = Path(__file__).with_name("kserve_calls.py")
PREDICTED = [1, 0]

pytestmark = pytest.mark.skipif(not PYTHON, reason="make test-clients runs it")


@pytest.fixture(scope="module")
def said(start_scorer, iris_folder):
    scorer = start_scorer(iris_folder, "sklearn", model_name="iris", revision="7")
    ran = subprocess.run(
        [PYTHON, str(CALLS), f"http://127.0.0.1:{scorer.port}", "iris", scorer.key],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"call"')]
    return {line.pop("call"): line for line in lines}


@pytest.mark.parametrize("call", ["v1 live", "v1 model ready", "v2 live", "v2 ready"])
def test_kserve_client_sees_a_live_and_ready_server(said, call):
    assert said[call] == {"answer": True}


def test_kserve_client_sees_which_models_are_ready(said):
    assert said["v2 model ready"] == {"answer": True}
    assert said["v2 other ready"] == {"answer": False}
    assert "404" in said["v1 other ready"]["error"]


def test_kserve_client_gets_v1_predictions(said):
    assert said["v1"] == {"answer": {"predictions": PREDICTED}}


@pytest.mark.parametrize("form", ["json", "binary"])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_kserve_client_gets_v2_predictions(said, form, datatype):
    answer = said[f"v2 {form} {datatype}"]["answer"]
    assert (answer["id"], answer["model"]) == ("42", "iris")
    assert next(iter(answer["outputs"].values())) == PREDICTED


@pytest.mark.parametrize("form", ["json", "binary"])
def test_kserve_client_gets_the_outputs_it_names(said, form):
    outputs = said[f"v2 {form} both"]["answer"]["outputs"]
    assert list(outputs) == ["predict", "predict_proba"]
    assert [row.index(max(row)) for row in outputs["predict_proba"]] == PREDICTED


def test_kserve_client_sends_half_precision_in_binary(said):
    assert next(iter(said["v2 half"]["answer"]["outputs"].values())) == PREDICTED


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("v1 narrow", ("expected 4 features per row, got 3", "400")),
        ("v2 narrow", ("expected 4 features per row, got 3", "400")),
        ("v1 other", ("other", "404")),
        ("v2 other", ("other", "404")),
        ("v1 no key", ("API key", "401")),
        ("v1 explain", ("explainer", "501")),
    ],
)
def test_kserve_client_reads_our_errors(said, call, words):
    error = said[call]["error"]
    assert error.startswith("HTTPStatusError")
    assert all(word in error for word in words)
