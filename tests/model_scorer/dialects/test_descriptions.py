"""What the descriptions say of a classifier's answers."""

from __future__ import annotations

import pytest

from model_scorer.dialects.openapi import build_openapi
from model_scorer.dialects.protocol import Target
from model_scorer.dialects.swagger import build_swagger
from model_scorer.runtimes.protocol import RuntimeInfo, Signature, TensorSpec
from model_scorer.serve.pages import model_metadata

LABEL = TensorSpec("predict", "BYTES", (-1,))
SHARES = TensorSpec("predict_proba", "FP64", (-1, 2))


def make_target(*outputs, classes=("cat", "dog")):
    signature = Signature((TensorSpec("X", "FP64", (-1, 3)),), outputs, (), 3, classes)
    return Target("m", "1", RuntimeInfo("sklearn", "1", "sklearn"), signature)


def read_predictions(target):
    schemas = build_openapi(target)["components"]["schemas"]
    return schemas["PredictAnswer"]["properties"]["predictions"]


def test_labels_are_one_of_the_classes():
    assert read_predictions(make_target(LABEL, SHARES)) == {
        "type": "array",
        "items": {"enum": ["cat", "dog"]},
    }


def test_probabilities_are_told_in_the_order_of_the_classes():
    items = read_predictions(make_target(SHARES, LABEL))["items"]
    assert (items["minItems"], items["maxItems"]) == (2, 2)
    assert items["description"] == "One number for each of cat, dog."


def test_many_classes_are_not_all_named():
    classes = tuple(f"c{number}" for number in range(1000))
    wide = TensorSpec("predict_proba", "FP64", (-1, 1000))
    items = read_predictions(make_target(wide, classes=classes))["items"]
    assert items["description"].endswith("c19, ….")


@pytest.mark.parametrize(
    "target",
    [
        make_target(TensorSpec("predict", "FP64", (-1,)), classes=()),
        make_target(TensorSpec("output", "FP32", (-1, 2))),
        make_target(),
        make_target(TensorSpec("predict", "INT64", (-1, 2)), classes=("a", "b", "c")),
    ],
    ids=["regressor", "network", "unknown", "several labels a row"],
)
def test_other_answers_are_left_open(target):
    assert read_predictions(target) == {}


def test_v2_metadata_name_the_classes_of_the_output_that_has_a_number_for_each():
    label, shares = model_metadata(make_target(LABEL, SHARES))["outputs"]
    assert label == {"name": "predict", "datatype": "BYTES", "shape": [-1]}
    assert shares["parameters"] == {"classes": ["cat", "dog"]}


SCRIPT = Target("m", "1", RuntimeInfo("python", "3.11", "script", scripted=True), Signature())


def read_score(document):
    body = document["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    return document["components"]["schemas"]["ScoreRequest"], body.get("example")


def test_a_scripts_input_is_described_by_its_sample():
    sample = {"input": "why?", "top": 3, "deep": [{"x": [1, 2.5]}, {"x": [3]}], "odd": [1, "a"]}
    schema, example = read_score(build_openapi(SCRIPT, sample))
    assert example == sample
    numbers = {"type": "array", "items": {"type": "number"}}
    assert schema == {
        "type": "object",
        "properties": {
            "input": {"type": "string"},
            "top": {"type": "number"},
            "deep": {
                "type": "array",
                "items": {"type": "object", "properties": {"x": numbers}},
            },
            "odd": {"type": "array", "items": {}},
        },
    }
    service_input = build_swagger(SCRIPT, "3", sample)["components"]["schemas"]["ServiceInput"]
    assert service_input == {**schema, "example": sample}


def test_a_script_without_a_sample_is_left_open():
    assert read_score(build_openapi(SCRIPT)) == ({}, None)


def test_a_sample_of_rows_is_the_example_everywhere():
    document = build_openapi(make_target(LABEL), {"data": [[5.1, 3.5, 1.4], [1, 2, 3]]})
    assert read_score(document)[1] == {"data": [[5.1, 3.5, 1.4], [1, 2, 3]]}
    predict = document["paths"]["/v1/models/m:predict"]["post"]["requestBody"]
    assert predict["content"]["application/json"]["example"] == {"instances": [[5.1, 3.5, 1.4]]}


def test_a_picture_in_the_sample_is_not_shown():
    sample = {"input": {"image": "A" * 100_000}}
    assert read_score(build_openapi(SCRIPT, sample)) == ({}, None)
