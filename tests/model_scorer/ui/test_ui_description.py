"""What the page is told of a model, and the headers of its files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from model_scorer.dialects.protocol import Target
from model_scorer.runtimes.protocol import RuntimeInfo, Signature, TensorSpec
from model_scorer.ui import OPEN_PATHS, build_ui, describe_model

MATRIX = Signature((TensorSpec("X", "FP64", (-1, 3)),), row_width=3)
TABLE = Signature(
    (TensorSpec("age", "INT64", (-1,)), TensorSpec("job", "BYTES", (-1,))),
    (TensorSpec("predict", "INT64", (-1,)), TensorSpec("predict_proba", "FP64", (-1, 2))),
    columns=("age", "job"),
)
TEXTS = Signature((TensorSpec("X", "BYTES", (-1,)),))


def describe(signature=MATRIX, sample=None, *, media=(), scripted=False, config=None):
    info = RuntimeInfo("sklearn", "1.7", "sklearn", media=media, scripted=scripted)
    target = Target("m", "r1", info, signature, config or {})
    return describe_model(target, sample=sample, needs_key=True, max_body_bytes=100)


def test_a_script_with_a_question_as_its_sample_gets_a_text_field():
    told = describe(Signature(), {"input": "why?"}, scripted=True)
    assert (told["kind"], told["text"]) == ("text", {"key": "input", "example": "why?"})


@pytest.mark.parametrize("text", ['{"image": "…"}', "A" * 6000])
def test_json_or_a_file_in_a_text_is_no_question(text):
    assert describe(Signature(), {"input": text}, scripted=True)["kind"] == "json"


def test_a_script_without_a_sample_gets_the_json_editor():
    assert describe(Signature(), scripted=True)["kind"] == "json"


def test_a_script_gets_its_sample_in_the_json_editor():
    told = describe(Signature(), {"data": [[1, 2]]}, scripted=True)
    assert (told["kind"], told["body"]) == ("json", {"data": [[1, 2]]})


def test_models_of_images_get_the_image_form_whatever_the_sample():
    assert describe(sample={"data": [[1, 2, 3]]}, media=("image/*",))["kind"] == "image"


def test_models_of_texts_get_a_text_field():
    assert describe(TEXTS, {"data": ["good film"]})["text"]["example"] == "good film"
    assert describe(TEXTS)["text"] == {"key": "input", "example": ""}


@pytest.mark.parametrize(
    "sample",
    [
        {"data": [[1, 2, 3]]},
        {"input": [1, 2, 3]},
        {"instances": [[1, 2, 3]]},
        [[1, 2, 3]],
        {
            "dataframe_split": {
                "columns": ["Feature 2", "Feature 1", "Feature 3"],
                "data": [[2, 1, 3]],
            }
        },
    ],
)
def test_rows_are_filled_from_the_sample_in_any_form(sample):
    assert describe(sample=sample)["rows"]["example"] == [[1, 2, 3]]


@pytest.mark.parametrize(
    "sample", [{"data": [[1, 2]]}, {"data": [{"x": 1}]}, {"data": 5}, 7, {"data": [[[1], 2, 3]]}]
)
def test_a_sample_that_does_not_fit_the_fields_is_left_out(sample):
    assert describe(sample=sample)["rows"]["example"] == [[1.0, 1.0, 1.0]]


def test_columns_have_names_and_types_and_are_sent_by_name():
    rows = describe(TABLE, {"data": [{"job": "cook", "age": 30}]})["rows"]
    assert rows["columns"] == [
        {"name": "age", "type": "integer"},
        {"name": "job", "type": "string"},
    ]
    assert rows["named"]
    assert rows["example"] == [[30, "cook"]]


def test_classifiers_are_asked_for_their_probabilities():
    assert describe(TABLE)["rows"]["infer"] == {
        "path": "v2/models/m/infer",
        "inputs": [{"name": "age", "datatype": "INT64"}, {"name": "job", "datatype": "BYTES"}],
        "outputs": ["predict", "predict_proba"],
    }
    assert describe()["rows"]["infer"] is None


def test_wide_rows_get_the_json_editor():
    wide = Signature((TensorSpec("X", "FP64", (-1, 65)),), row_width=65)
    assert describe(wide)["kind"] == "json"


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (("setosa", "virginica"), ["setosa", "virginica"]),
        ((3, 5), ["class 3", "class 5"]),
        ((False, True), ["class False", "class True"]),
    ],
)
def test_classes_of_the_model_reach_the_page(classes, labels):
    signature = replace(TABLE, classes=classes)
    assert describe(signature)["labels"] == labels
    assert describe(signature, config={"labels": ["a", "b"]})["labels"] == ["a", "b"]


def test_labels_of_the_model_file_reach_the_page():
    assert describe(config={"labels": ["cat", 2]})["labels"] == ["cat", "2"]
    assert describe(config={"labels": "labels.txt"})["labels"] == []


def test_the_description_is_behind_the_key_and_the_files_are_not():
    answers = build_ui(describe())
    assert set(answers) - OPEN_PATHS == {"/ui/model.json"}
    assert json.loads(answers["/ui/model.json"].body)["model"] == "m"
    assert dict(answers["/ui/model.json"].headers)["Cache-Control"] == "no-store"


def test_the_page_allows_nothing_inline_and_no_other_host():
    page = build_ui(describe())["/ui"]
    policy = dict(page.headers)["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "script-src 'self';" in policy
    assert b"<script>" not in page.body
    assert b" style=" not in page.body
    assert b"https://" not in page.body


def test_the_page_is_small():
    answers = build_ui(describe())
    assert sum(len(answers[path].body) for path in OPEN_PATHS) < 32 * 1024


def test_the_scripts_of_the_page_stay_small():
    scripts = [a.body for path, a in build_ui({}).items() if path.endswith(".js")]
    assert sum(map(len, scripts)) < 30_000
