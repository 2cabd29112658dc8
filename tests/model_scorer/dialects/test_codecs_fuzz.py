"""Codecs against anything: the only way out of `decode` beside a call is a RequestError."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_scorer.dialects.azureml import ScoreDialect
from model_scorer.dialects.kserve_v1 import KServeV1Dialect
from model_scorer.dialects.mlflow_invocations import InvocationsDialect
from model_scorer.dialects.open_inference import OpenInferenceDialect
from model_scorer.dialects.protocol import HttpRequest, Target
from model_scorer.dialects.tensor_bytes import parse_binary_tensor, render_binary_tensor
from model_scorer.dialects.tensor_json import parse_json_tensor, render_json_data
from model_scorer.dialects.torchserve import PredictionsDialect
from model_scorer.errors import BadRequest, RequestError
from model_scorer.json_text import encode_json
from model_scorer.runtimes.protocol import Prediction, RuntimeInfo, Signature, TensorSpec
from model_scorer.runtimes.tensors import DTYPES

DIALECTS = [
    ScoreDialect(),
    KServeV1Dialect(),
    OpenInferenceDialect(),
    InvocationsDialect(),
    PredictionsDialect(),
]
TARGET = Target(
    "m",
    "1",
    RuntimeInfo("sklearn", "1", "sklearn"),
    Signature((TensorSpec("X", "FP64", (-1, 2)),), (TensorSpec("predict", "INT64", (-1,)),), (), 2),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.sampled_from(
    [
        "data",
        "input",
        "instances",
        "inputs",
        "dataframe_split",
        "dataframe_records",
        "columns",
        "name",
        "shape",
        "datatype",
        "parameters",
        "binary_data_size",
        "outputs",
        "id",
        "params",
    ]
)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["FP32", "BYTES", "INT8", 10**18, -1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


def request(body, **headers):
    sent = {b"content-type": b"application/json"}
    sent |= {k.replace("_", "-").encode(): v for k, v in headers.items()}
    return HttpRequest("POST", "/", "", sent, body)


def refusal(dialect, asked):
    """What decoding says against a request, or None; anything else than a RequestError passes through and fails."""
    try:
        dialect.decode(asked, TARGET)
    except RequestError as err:
        return err
    return None


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
@settings(max_examples=300, deadline=None)
@given(value=VALUES)
def test_any_json_is_a_call_or_a_request_error(dialect, value):
    body = json.dumps(value).encode("utf-8", "surrogatepass")
    error = refusal(dialect, request(body))
    if error is not None:
        assert 400 <= error.status < 500
        assert json.loads(dialect.error(error).body)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200), kind=st.sampled_from([b"application/json", b"text/csv"]))
def test_any_bytes_are_a_call_or_a_request_error(dialect, body, kind):
    error = refusal(dialect, request(body, content_type=kind))
    assert error is None or 400 <= error.status < 500


@settings(max_examples=300, deadline=None)
@given(
    tail=st.binary(max_size=64),
    size=st.integers(-2, 2**40),
    shape=st.lists(st.integers(-1, 2**40), max_size=4),
    datatype=st.sampled_from([*DTYPES, "BYTES", "BF16", "X"]),
    length=st.none() | st.integers(-1, 300),
)
def test_any_binary_body_is_a_call_or_a_request_error(tail, size, shape, datatype, length):
    item = {
        "name": "X",
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": size},
    }
    head = json.dumps({"inputs": [item]}).encode()
    told = str(len(head) if length is None else length).encode()
    error = refusal(DIALECTS[2], request(head + tail, inference_header_content_length=told))
    assert error is None or error.status == 400


@pytest.mark.parametrize("datatype", [*DTYPES, "BYTES"])
def test_tensors_survive_both_forms(datatype):
    if datatype == "BYTES":
        array = np.array(["a", "", "ünï"], dtype=object)
    else:
        array = np.array([0, 1, 1]).astype(DTYPES[datatype])
    raw = render_binary_tensor(array)
    back = parse_binary_tensor(memoryview(raw), datatype, (3,), "X")
    assert back.tolist() == array.tolist()
    text = json.loads(encode_json(render_json_data(array)))
    assert parse_json_tensor(text, datatype, (3,), "X").tolist() == array.tolist()


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        ([300], "UINT8", (1,)),
        ([-1], "UINT64", (1,)),
        ([1.5], "INT32", (1,)),
        (["1"], "FP32", (1,)),
        ([2], "BOOL", (1,)),
        ([1], "BYTES", (1,)),
        ([[1, 2], [3]], "FP32", (3,)),
        ([1, 2], "FP32", (3,)),
        ({"a": 1}, "FP32", (1,)),
    ],
)
def test_values_that_do_not_fit_the_datatype_are_refused(data, datatype, shape):
    with pytest.raises(BadRequest):
        parse_json_tensor(data, datatype, shape, "X")


def test_bf16_becomes_float32():
    raw = np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16
    data = memoryview(raw.astype("<u2").tobytes())
    assert parse_binary_tensor(data, "BF16", (2,), "X").tolist() == [1.5, -2.0]


def test_large_answers_equal_small_ones_digit_for_digit():
    values = np.random.default_rng(0).random(1000).astype(np.float32)
    dialect = ScoreDialect()
    _, form = dialect.decode(request(b'{"data": [[1, 2]]}'), TARGET)
    large = json.loads(dialect.encode(Prediction({"p": values}), form, TARGET, 1.0).body)
    small = json.loads(dialect.encode(Prediction({"p": values[:10]}), form, TARGET, 1.0).body)
    assert np.allclose(large[:10], small, rtol=1e-7)


@pytest.mark.parametrize("shape", [[0, 2**62], [2**62, 0, 4], [2**41], [1] * 33])
@pytest.mark.parametrize("binary", [True, False])
def test_shapes_that_no_array_can_have_are_refused(shape, binary):
    item = {"name": "X", "shape": shape, "datatype": "INT64"}
    item |= {"parameters": {"binary_data_size": 0}} if binary else {"data": []}
    head = json.dumps({"inputs": [item]}).encode()
    error = refusal(
        DIALECTS[2], request(head, inference_header_content_length=str(len(head)).encode())
    )
    assert error is not None
    assert error.status == 400
