"""Files in requests: every form in which clients send base64."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from model_scorer.dialects.azureml import ScoreDialect
from model_scorer.dialects.blobs import blobs_from_json
from model_scorer.dialects.protocol import HttpRequest, Target
from model_scorer.errors import BadRequest, UnsupportedMedia
from model_scorer.runtimes.protocol import Prediction, RuntimeInfo, Signature

DATA = b"\x89PNG and more"
TEXT = base64.b64encode(DATA).decode()
TARGET = Target("m", "1", RuntimeInfo("pytorch", "2", "p", media=("image/*",)), Signature())


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (TEXT, ""),
        (f'"{TEXT}"', ""),
        (f"b'{TEXT}'", ""),
        (f"data:image/png;base64,{TEXT}", ""),
        ({"b64": TEXT}, ""),
        ({"image": TEXT}, "image"),
        ({"image": f'"{TEXT}"'}, "image"),
        ({"image": {"b64": TEXT}}, "image"),
        (json.dumps({"image": TEXT}), "image"),
        ([TEXT], ""),
        ([{"image": {"b64": TEXT}}], "image"),
    ],
)
def test_every_form_of_base64_is_read(value, key):
    (blob,) = blobs_from_json(value).blobs
    assert (blob.data, blob.key) == (DATA, key)


def test_several_keys_are_several_files():
    assert [b.key for b in blobs_from_json({"a": TEXT, "b": TEXT}).blobs] == ["a", "b"]


def test_rows_of_numbers_are_no_files():
    assert blobs_from_json([[1, 2]]) is None
    assert blobs_from_json([]) is None


@pytest.mark.parametrize("value", [{}, "{broken", "{}"])
def test_an_object_that_is_none_is_refused(value):
    with pytest.raises(BadRequest):
        blobs_from_json(value)


@pytest.mark.parametrize("value", ["A", "", {"image": 7}, {"image": "https://example.com/a.png"}])
def test_what_is_no_base64_fails_for_its_file_alone(value):
    bad, good = blobs_from_json([value, TEXT]).blobs
    assert isinstance(bad.error, BadRequest)
    assert (good.data, good.error) == (DATA, None)


def test_raw_bodies_of_the_runtimes_media_are_files():
    headers = {b"content-type": b"image/jpeg"}
    call, _ = ScoreDialect().decode(HttpRequest("POST", "/score", "", headers, DATA), TARGET)
    assert call.input.blobs[0].data == DATA
    other = {b"content-type": b"video/mp4"}
    with pytest.raises(UnsupportedMedia):
        ScoreDialect().decode(HttpRequest("POST", "/score", "", other, DATA), TARGET)


def test_keyed_files_are_answered_by_key():
    body = json.dumps({"input": {"one": TEXT, "two": TEXT}}).encode()
    call, form = ScoreDialect().decode(HttpRequest("POST", "/score", "", {}, body), TARGET)
    assert len(call.input.blobs) == 2
    output = Prediction({"p": np.zeros(2)}, display=[[["cat", 0.5]], [["dog", 0.25]]])
    answer = json.loads(ScoreDialect().encode(output, form, TARGET, 1.5).body)
    assert answer["result"] == [
        {"one": [["cat", 0.5]], "two": [["dog", 0.25]]},
        "Computed in 1.50 ms",
    ]
