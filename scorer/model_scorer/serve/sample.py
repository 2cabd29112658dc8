"""The sample request (`spec.test`): sent through the real codec and the real model before the pod is ready."""

from __future__ import annotations

import math
import re
import time
from typing import Any

from model_scorer.dialects.azureml import ScoreDialect
from model_scorer.dialects.protocol import Answer, HttpRequest, Target
from model_scorer.errors import RequestError, SampleFailed
from model_scorer.json_text import decode_json, encode_json
from model_scorer.logs import redact
from model_scorer.runtimes.protocol import Prepared, Runtime
from model_scorer.settings import SampleRequest

# Scores move in their last digits between CPUs and library versions; a wrong model moves them much further.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-6
_TIMING = re.compile(r"Computed in [0-9.]+ ms")
_HINT = "compare spec.test with what the model really answers"


def prove_sample(runtime: Runtime, target: Target, sample: SampleRequest) -> Prepared:
    """Score the sample and compare the answer.

    Returns:
        The prepared call, which the server may time the model with.

    Raises:
        SampleFailed: the request was refused, the model raised, or the answer differs; the message names where.
    """
    dialect = ScoreDialect()
    body = encode_json(sample.request)
    request = HttpRequest("POST", "/score", "", {b"content-type": b"application/json"}, body)
    try:
        call, context = dialect.decode(request, target)
        prepared = runtime.prepare(call)
        started = time.perf_counter()
        (outcome,) = runtime.execute([prepared])
        exec_ms = (time.perf_counter() - started) * 1000
        if isinstance(outcome, Exception):
            raise outcome
        answer = dialect.encode(outcome, context, target, exec_ms)
    except RequestError as err:
        raise SampleFailed(
            f"the sample request was refused with {err.status}: {err.message}", _HINT
        ) from err
    except Exception as err:
        raise SampleFailed(
            f"the model failed on the sample request: {type(err).__name__}: {redact(str(err))[:500]}",
            "correct the model or spec.test; the pod's log has the traceback",
        ) from err
    _check_answer(answer, sample)
    return prepared


def _check_answer(answer: Answer, sample: SampleRequest) -> None:
    if answer.status >= 400:
        raise SampleFailed(f"the sample request was answered with {answer.status}", _HINT)
    if sample.expect is None:
        return
    try:
        actual = decode_json(answer.body)
    except RequestError:
        actual = answer.body.decode("utf-8", "replace")
    difference = find_difference(sample.expect, actual)
    if difference:
        raise SampleFailed(f"the sample request's answer differs: {difference}", _HINT)


def find_difference(expected: Any, actual: Any, path: str = "answer") -> str:
    """Where an answer does not hold what is expected; empty when it does.

    Objects may have more keys than expected, lists as many items; numbers agree within 0.1 %; times in texts of the
    form `Computed in N ms` do not count.
    """
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            return f"{path}: expected an object, got {_show(actual)}"
        for key, value in expected.items():
            if key not in actual:
                return f"{path}.{key} is missing"
            if difference := find_difference(value, actual[key], f"{path}.{key}"):
                return difference
        return ""
    if isinstance(expected, list):
        if not isinstance(actual, list):
            return f"{path}: expected a list, got {_show(actual)}"
        if len(expected) != len(actual):
            return f"{path}: expected {len(expected)} items, got {len(actual)}"
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            if difference := find_difference(one, other, f"{path}[{index}]"):
                return difference
        return ""
    if _is_number(expected) and _is_number(actual):
        close = math.isclose(
            expected, actual, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE
        )
        return "" if close else f"{path}: expected {_show(expected)}, got {_show(actual)}"
    if isinstance(expected, str) and isinstance(actual, str):
        same = _TIMING.sub("", expected) == _TIMING.sub("", actual)
    else:
        same = type(expected) is type(actual) and expected == actual
    return "" if same else f"{path}: expected {_show(expected)}, got {_show(actual)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _show(value: Any) -> str:
    text = encode_json(value).decode()
    return text if len(text) <= 120 else text[:119] + "…"
