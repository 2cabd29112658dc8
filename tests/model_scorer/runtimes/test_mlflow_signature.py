"""The signature of an MLmodel file: what it adds to an estimator, and that a bad one takes nothing away."""

from __future__ import annotations

import json

import joblib
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from model_scorer.dialects.openapi import build_openapi
from model_scorer.dialects.protocol import Target
from model_scorer.errors import InvalidInput
from model_scorer.runtimes.mlflow_signature import parse_signature, read_declared_signature
from model_scorer.runtimes.protocol import Call, RowsInput, TableInput, TensorsInput, TensorSpec
from model_scorer.runtimes.registry import open_and_load
from model_scorer.settings import Settings
from model_scorer.ui.description import describe_model

FEATURES, CLASSES = load_iris(return_X_y=True)
NAMES = ("sepal length", "sepal width", "petal length", "petal width")
FRAME = pd.DataFrame(FEATURES, columns=NAMES)


def iris():
    return LogisticRegression(max_iter=500).fit(FEATURES, CLASSES)


def column(kind, name=None, **more):
    return {"type": kind, "required": True} | ({} if name is None else {"name": name}) | more


def tensor(dtype, *shape, **more):
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}} | more


@pytest.fixture
def load(tmp_path):
    def do(estimator, signature):
        joblib.dump(estimator, tmp_path / "model.joblib")
        if not isinstance(signature, str):
            import yaml

            if not isinstance(signature, dict):
                signature = signature.to_dict()
            signature = yaml.safe_dump({"flavors": {}, "signature": signature})
        (tmp_path / "MLmodel").write_text(signature)
        runtime = open_and_load(
            Settings(framework="sklearn", model_dir=tmp_path, trust_pickle=True)
        )
        runtime.warm_up()
        return runtime

    return do


def of(*inputs, outputs=()):
    """A signature as MLflow writes it: JSON within YAML."""
    return {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None}


def score(runtime, given):
    (outcome,) = runtime.execute([runtime.prepare(Call(given))])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome.tensors["predict"].tolist()


class Ages:
    """Shaped like an estimator, says nothing of its input; answers what it was given."""

    def predict(self, frame):
        return np.array([f"{list(frame.columns)} {[t.kind for t in frame.dtypes]}"] * len(frame))


class Rows:
    """The same for arrays."""

    def predict(self, rows):
        return np.array([len(row) for row in rows])


class Moody:
    """Refuses the row of a warm-up."""

    def predict(self, frame):
        if frame["age"].eq(0).any():
            raise ValueError("nobody is of age 0")
        return frame["age"].to_numpy()


def test_columns_of_a_model_fitted_with_an_array_get_the_declared_names(load):
    runtime = load(iris(), infer_signature(FRAME, CLASSES))
    assert runtime.signature.columns == NAMES
    assert runtime.signature.row_width == 4
    row = dict(zip(NAMES, FEATURES[0].tolist(), strict=True))
    assert score(runtime, RowsInput([row])) == [0]
    assert score(runtime, RowsInput([FEATURES[149].tolist()])) == [2]
    swapped = TableInput(list(NAMES[::-1]), [FEATURES[149].tolist()[::-1]])
    assert score(runtime, swapped) == [2]


def test_messages_name_the_declared_column(load):
    runtime = load(iris(), infer_signature(FRAME, CLASSES))
    with pytest.raises(InvalidInput, match="'petal width': expected a number, got the text 'x'"):
        score(runtime, RowsInput([[1, 2, 3, "x"]]))
    with pytest.raises(InvalidInput, match="row 0: missing 'petal width'"):
        score(runtime, RowsInput([dict.fromkeys(NAMES[:3], 1.0)]))


def test_texts_among_the_columns_reach_a_model_fitted_with_an_array(load):
    table = np.array([["red", 1], ["blue", 2], ["red", 2]], dtype=object)
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(table, [0, 1, 0])
    runtime = load(model, of(column("string", "colour"), column("long", "size")))
    assert [spec.datatype for spec in runtime.signature.inputs] == ["BYTES", "INT64"]
    rows = [{"colour": "blue", "size": 2}, {"size": 1, "colour": "red"}]
    assert score(runtime, RowsInput(rows)) == [1, 0]
    with pytest.raises(InvalidInput, match="column 'colour': expected a text, got the number 3"):
        score(runtime, RowsInput([[3, 1]]))


EVERY_TYPE = of(
    column("integer", "age"),
    column("double", "height"),
    column("string", "name"),
    column("boolean", "member"),
    column("datetime", "since"),
    column("long", "children", required=False),
)
PERSON = {
    "age": 30,
    "height": 1.7,
    "name": "Ada",
    "member": True,
    "since": "2020-02-03T04:05:06+02:00",
}


def test_a_model_that_says_nothing_gets_the_table_that_was_declared(load):
    runtime = load(Ages(), EVERY_TYPE)
    (told,) = score(runtime, RowsInput([PERSON | {"children": 2}]))
    assert told == f"{[*PERSON, 'children']} {['i', 'f', 'O', 'b', 'M', 'i']}"
    assert [spec.datatype for spec in runtime.signature.inputs] == [
        *("INT32", "FP64", "BYTES", "BOOL", "BYTES", "INT64"),
    ]


def test_an_optional_column_may_be_left_out_and_is_null_then(load):
    runtime = load(Ages(), EVERY_TYPE)
    assert score(runtime, RowsInput([PERSON]))[0].endswith("['i', 'f', 'O', 'b', 'M', 'f']")
    with pytest.raises(InvalidInput, match="row 0: missing 'age'; expected"):
        score(runtime, RowsInput([{name: PERSON[name] for name in PERSON if name != "age"}]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("age", 1.5, "column 'age': expected a whole number, got the number 1.5"),
        ("age", "x", "column 'age': expected a whole number, got the text 'x'"),
        ("age", 2**70, "column 'age': "),
        ("age", 1e300, "column 'age': "),
        ("name", 1, "column 'name': expected a text"),
        ("member", 2, "column 'member': expected true or false, got the number 2"),
        ("member", [], "column 'member': expected true or false, got a list"),
        ("since", "soon", "column 'since': expected a date and time as in ISO 8601, got the text"),
        ("since", 7, "column 'since': expected a date and time"),
        ("since", "0001-01-01", "column 'since': the year 1 is out of range"),
        ("since", "0001-01-01T00:00:00+14:00", "column 'since': expected a date"),
    ],
)
def test_values_of_another_type_than_the_declared_are_refused(load, name, value, message):
    runtime = load(Ages(), EVERY_TYPE)
    with pytest.raises(InvalidInput) as refused:
        score(runtime, RowsInput([PERSON | {name: value}]))
    assert message in refused.value.message


def test_declared_columns_come_as_tensors_too(load):
    runtime = load(Ages(), EVERY_TYPE)
    tensors = {
        name: np.array([value], dtype=object if isinstance(value, str) else None)
        for name, value in PERSON.items()
    }
    assert score(runtime, TensorsInput(tensors))[0].endswith("['i', 'f', 'O', 'b', 'M', 'f']")


def test_descriptions_have_the_declared_columns(load):
    runtime = load(Ages(), EVERY_TYPE)
    target = Target("m", "1", runtime.info, runtime.signature)
    document = build_openapi(target)
    record = document["components"]["schemas"]["Rows"]["items"]["oneOf"][0]
    assert record["required"] == list(PERSON)
    assert record["properties"] == {
        "age": {"type": "integer"},
        "height": {"type": "number"},
        "name": {"type": "string"},
        "member": {"type": "boolean"},
        "since": {"type": "string", "format": "date-time"},
        "children": {"type": ["integer", "null"]},
    }
    body = document["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    assert len(score(runtime, RowsInput(body["example"]["data"]))) == 1
    page = describe_model(target, needs_key=False, max_body_bytes=1000)
    assert page["kind"] == "rows"
    assert [c["type"] for c in page["rows"]["columns"]] == [
        *("integer", "number", "string", "boolean", "string", "integer"),
    ]


def test_a_tensor_declares_the_width_and_a_list_of_strings_texts(load):
    runtime = load(Rows(), of(tensor("float32", -1, 3, name="features")))
    assert runtime.signature.row_width == 3
    assert runtime.signature.inputs == (TensorSpec("features", "FP64", (-1, 3)),)
    with pytest.raises(InvalidInput, match="expected 3 features per row, got 2"):
        score(runtime, RowsInput([[1, 2]]))
    runtime = load(Rows(), of(column("string")))
    assert runtime.signature.inputs == (TensorSpec("X", "BYTES", (-1,)),)
    assert score(runtime, RowsInput(["four"])) == [4]


def test_models_of_texts_name_their_input_as_declared(load):
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good", "bad"], [1, 0])
    runtime = load(model, of(column("string", "review")))
    assert runtime.signature.inputs == (TensorSpec("review", "BYTES", (-1,)),)
    assert score(runtime, RowsInput([{"review": "good"}, {"review": "bad"}])) == [1, 0]


def test_the_declared_answer_stands_where_the_warm_up_is_refused(load):
    runtime = load(Moody(), of(column("long", "age"), outputs=[column("long")]))
    assert runtime.signature.outputs == (TensorSpec("predict", "INT64", (-1,)),)
    assert score(runtime, RowsInput([{"age": 7}])) == [7]


def test_what_the_estimator_knows_is_completed_and_not_replaced(load):
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "x"]})
    model = make_pipeline(FunctionTransformer(_take_a), LogisticRegression()).fit(frame, [0, 1, 1])
    runtime = load(model, of(column("string", "b"), column("long", "a")))
    known = runtime.signature.columns
    assert sorted(known) == ["a", "b"]
    with pytest.raises(InvalidInput, match="column 'b': expected a text"):
        score(runtime, RowsInput([{"a": 1, "b": 2}]))
    assert score(runtime, RowsInput([{"a": 3, "b": "z"}])) == [1]


def _take_a(frame):
    return frame[["a"]]


@pytest.mark.parametrize(
    "signature",
    [
        of(*(column("double", name) for name in "abc")),
        of(*(column("string", name) for name in NAMES)),
        of(*(column("double", name) for name in "abcd")),
    ],
    ids=["other count", "other types", "other names"],
)
def test_a_signature_that_contradicts_the_estimator_is_left_out_with_a_line_in_the_log(
    load, signature, caplog
):
    runtime = load(LogisticRegression(max_iter=500).fit(FRAME, CLASSES), signature)
    assert runtime.signature.columns == NAMES
    assert score(runtime, RowsInput([FEATURES[0].tolist()])) == [0]
    assert "the signature in MLmodel is not used: " in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: [",
        "- a\n- b",
        "\x00",
        "signature: 5",
        "signature: {inputs: 5}",
        "signature: {inputs: 'no json'}",
        "signature: {inputs: '[5]'}",
        "signature: {inputs: '[{\"type\": 5}]'}",
        'signature: {inputs: \'[{"type": ["long"]}]\'}',
        'signature: {inputs: \'[{"type": "long"}, {"type": "long"}]\'}',
        'signature: {inputs: \'[{"type": "long", "name": {}}]\'}',
        'signature: {inputs: \'[{"type": "map", "name": "m", "values": {"type": "long"}}]\'}',
        'signature: {inputs: \'[{"type": "tensor"}]\'}',
        'signature: {inputs: \'[{"type": "tensor", "tensor-spec": {"dtype": "f9", "shape": [1]}}]\'}',
        'signature: {inputs: \'[{"type": "tensor", "tensor-spec": {"dtype": "i4", "shape": []}}]\'}',
        "signature: {inputs: '" + "[" * 100_000 + "'}",
        "signature: " + "[" * 100_000,
        "signature: !!python/object/apply:os.system ['exit 1']",
    ],
)
def test_a_malformed_signature_never_keeps_a_model_from_loading(load, text):
    runtime = load(iris(), text)
    assert runtime.signature.columns == ()
    assert score(runtime, RowsInput([FEATURES[0].tolist()])) == [0]


def test_a_folder_without_the_file_declares_nothing(tmp_path):
    assert read_declared_signature(tmp_path).inputs == ()


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (pd.DataFrame({"a": [1], "b": [1.5], "c": ["x"]}), ["integer", "number", "text"]),
        (pd.DataFrame({"a": [True], "b": pd.to_datetime(["2020-01-01"])}), ["boolean", "time"]),
        (np.zeros((2, 3), np.float32), ["number"]),
        (np.zeros((2, 3), np.uint8), ["integer"]),
        (np.array(["a", "b"]), ["text"]),
        (["a", "b"], ["text"]),
        ({"a": np.zeros((2, 3)), "b": np.zeros(2, bool)}, ["number", "boolean"]),
    ],
)
@pytest.mark.filterwarnings("ignore:Hint")
def test_what_mlflow_infers_is_understood(data, kinds):
    assert [f.kind for f in parse_signature(infer_signature(data).to_dict()).inputs] == kinds
