"""Rows of numbers without Python objects: exactly what the usual way gives, or nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model_scorer.dialects.open_inference import MAX_ROWS, OpenInferenceDialect
from model_scorer.dialects.protocol import HttpRequest, Target
from model_scorer.dialects.wide_rows import MIN_BYTES, parse_wide_rows
from model_scorer.errors import BadRequest
from model_scorer.runtimes.protocol import RowsInput, RuntimeInfo, Signature, TensorsInput

INFO = RuntimeInfo("sklearn", "1", "sklearn", takes_rows=True)
TARGET = Target("m", "1", INFO, Signature(row_width=4))
ROWS = np.random.default_rng(0).standard_normal((300, 4)).tolist()


def text_of(rows, key="data"):
    return json.dumps({key: rows}).encode()


def changed(row, value):
    rows = [list(r) for r in ROWS]
    rows[row] = value
    return rows


def test_rows_are_what_they_are_the_usual_way():
    rows = [*ROWS, [1, -2, 3, 2**53 + 1], [1e-320, -0.0, 1.7976931348623157e308, 2**64 - 1]]
    found = parse_wide_rows(text_of(rows), TARGET)
    assert found is not None
    key, array = found
    assert key == "data"
    assert array.tobytes() == np.array(rows, dtype=np.float64).tobytes()


def test_memory_that_was_read_into_is_parsed_like_bytes():
    data = text_of(ROWS, "instances")
    found = parse_wide_rows(memoryview(bytearray(data)), TARGET)
    assert found is not None
    assert (found[0], found[1].tolist()) == ("instances", ROWS)


def test_two_texts_in_turn_do_not_share_their_numbers():
    first = parse_wide_rows(text_of(ROWS), TARGET)
    second = parse_wide_rows(text_of([[0, 0, 0, 0]] * 1000), TARGET)
    assert first is not None
    assert second is not None
    assert first[1].tolist() == ROWS


@pytest.mark.parametrize(
    "body",
    [
        text_of(changed(7, [1, 2, 3])),
        text_of([*changed(7, [1, 2, 3])[:-1], [1, 2, 3, 4, 5]]),
        text_of(changed(7, [1, 2, 3, [4]])),
        text_of(changed(7, [[1, 2, 3, 4]])),
        text_of(changed(7, [[1, 2], [3, 4], [], []])),
        text_of(changed(7, 1)),
        text_of(changed(7, None)),
        text_of(changed(7, [1, 2, 3, None])),
        text_of(changed(7, [1, 2, 3, True])),
        text_of(changed(7, [1, 2, 3, "4"])),
        text_of(changed(7, [1, 2, 3, {}])),
        text_of(changed(7, [1, 2, 3, 2**70])),
        text_of(changed(7, [1, 2, 3, float("nan")])),
        text_of([row[:3] for row in ROWS] * 2),
        text_of(ROWS * 2, "[data"),
        text_of(ROWS)[:-1] + b', "data": [[1, 2, 3, 4]]}',
        text_of(ROWS)[:-1],
        text_of(ROWS) + b"x",
        b'{"\xff": ' + json.dumps(ROWS).encode() + b"}",
        json.dumps(ROWS).encode(),
        b'{"data": [' + b" " * MIN_BYTES + b"]}",
        b" " * 2 * MIN_BYTES,
        b"\x00" * 2 * MIN_BYTES,
        text_of(ROWS[:10]),
    ],
)
def test_everything_else_is_left_to_the_usual_way(body):
    assert parse_wide_rows(body, TARGET) is None
    assert parse_wide_rows(text_of(ROWS), TARGET) is not None


def test_models_that_do_not_take_rows_never_get_them():
    plain = Target("m", "1", RuntimeInfo("onnx", "1", "onnx"), Signature(row_width=4))
    assert parse_wide_rows(text_of(ROWS), plain) is None
    unknown = Target("m", "1", INFO, Signature())
    assert parse_wide_rows(text_of(ROWS), unknown) is None


def decode(tensor, **more):
    body = json.dumps({"inputs": [tensor], **more}).encode()
    request = HttpRequest("POST", "/v2/models/m/infer", "", {}, body)
    call, _ = OpenInferenceDialect().decode(request, TARGET)
    return call.input


def tensor_of(data, shape, datatype="FP64"):
    return {"name": "X", "shape": shape, "datatype": datatype, "data": data}


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([1, 2.5, 3, 4], [1, 4]),
        ([[1, 2, 3, 4]], [1, 4]),
        ([1, 2, 3, 4, 5, 6, 7, 8], [2, 4]),
        ([[1, 2, 3, 4], [5, 6, 7, 8.5]], [2, 4]),
    ],
)
def test_few_rows_of_float64_come_as_rows_with_the_same_numbers(data, shape):
    fast, slow = decode(tensor_of(data, shape)), decode(tensor_of(data, shape), parameters={})
    assert isinstance(fast, RowsInput)
    assert isinstance(slow, TensorsInput)
    assert np.array_equal(np.array(fast.rows, float), slow.tensors["X"])


@pytest.mark.parametrize(
    ("data", "shape", "datatype"),
    [
        ([1.5, 2, 3, 4], [1, 4], "FP32"),
        ([1.5, 2, 3, None], [1, 4], "FP64"),
        ([1.5, 2, 3], [1, 3], "FP64"),
        ([[1.5, 2], [3, 4]], [1, 4], "FP64"),
        ([1.5] * 4 * (MAX_ROWS + 1), [MAX_ROWS + 1, 4], "FP64"),
        ([1.5] * 4, [4], "FP64"),
    ],
)
def test_other_tensors_stay_tensors(data, shape, datatype):
    assert isinstance(decode(tensor_of(data, shape, datatype)), TensorsInput)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([True, True, True, True], [1, 4]),
        (["1", 2, 3, 4], [1, 4]),
        ([1, 2, 3], [1, 4]),
        ([1, 2, 3, 4], [1.0, 4]),
        ([1, 2, 3, 4], [True, 4]),
        ([1, 2, 3, 4], [1, 4.0]),
        ([1, 2, 3, 4], [-1, -4]),
        ([[1, 2, 3], [4]], [1, 4]),
        ([], [0, 4, 4]),
    ],
)
def test_mistakes_are_told_as_before(data, shape):
    if not data:
        assert isinstance(decode(tensor_of(data, shape)), TensorsInput)
        return
    with pytest.raises(BadRequest):
        decode(tensor_of(data, shape))
