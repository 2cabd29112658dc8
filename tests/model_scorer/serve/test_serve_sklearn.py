"""The server over real sockets with a scikit-learn model: routes, dialects, keys, errors, metrics."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture(scope="module")
def iris(start_scorer, iris_folder):
    return start_scorer(
        iris_folder,
        "sklearn",
        model_name="iris",
        revision="r7",
        max_body_bytes=100_000,
        sample={"request": {"data": [ROW]}, "expect": [0]},
    )


def test_score_answers_as_azure_ml_does(iris):
    reply = iris.post("/score", {"data": [ROW, [6.7, 3.0, 5.2, 2.3]]})
    assert (reply.status, reply.json) == (200, [0, 2])
    assert reply.headers["x-ms-run-function-failed"] == "False"
    assert float(reply.headers["x-ms-run-fn-exec-ms"]) > 0
    assert reply.headers["x-model-revision"] == "r7"
    assert reply.headers["x-request-id"] == reply.headers["x-ms-request-id"]


def test_score_answers_as_the_flask_servers_do(iris):
    reply = iris.post("/score", {"input": [ROW]})
    answer, timing = reply.json["result"]
    assert answer == [0]
    assert timing.startswith("Computed in ")
    assert timing.endswith(" ms")


@pytest.mark.parametrize(
    ("path", "body", "read"),
    [
        ("/score", {"data": [ROW]}, lambda j: j),
        ("/score", {"data": ROW}, lambda j: j),
        ("/score", {"instances": [ROW]}, lambda j: j["predictions"]),
        ("/api/v1/service/iris/score", {"data": [ROW]}, lambda j: j),
        ("/v1/models/iris:predict", {"instances": [ROW]}, lambda j: j["predictions"]),
        ("/v1/models/iris:predict", {"inputs": [ROW]}, lambda j: j["predictions"]),
        ("/v1/models/iris%3Apredict", {"inputs": [ROW]}, lambda j: j["predictions"]),
        ("/invocations", {"inputs": [ROW]}, lambda j: j["predictions"]),
        ("/invocations", {"instances": [ROW]}, lambda j: j["predictions"]),
        ("/predictions/iris", [ROW], lambda j: j),
        (
            "/v2/models/iris/infer",
            {"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP64", "data": ROW}]},
            lambda j: j["outputs"][0]["data"],
        ),
        (
            "/v2/models/iris/versions/r7/infer",
            {"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [ROW]}]},
            lambda j: j["outputs"][0]["data"],
        ),
    ],
)
def test_same_row_gives_the_same_answer_in_every_dialect(iris, path, body, read):
    reply = iris.post(path, body)
    assert reply.status == 200
    assert read(reply.json) == [0]


def test_v2_binary_goes_both_ways(iris):
    head = json.dumps(
        {
            "id": "42",
            "parameters": {"binary_data_output": True},
            "inputs": [
                {
                    "name": "X",
                    "shape": [2, 4],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": 32},
                }
            ],
            "outputs": [
                {"name": "predict_proba"},
                {"name": "predict", "parameters": {"binary_data": False}},
            ],
        }
    ).encode()
    rows = struct.pack("<8f", *ROW, 6.7, 3.0, 5.2, 2.3)
    reply = iris.post(
        "/v2/models/iris/infer",
        head + rows,
        headers={
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        },
    )
    assert reply.status == 200
    length = int(reply.headers["Inference-Header-Content-Length"])
    answer = json.loads(reply.body[:length])
    assert answer["id"] == "42"
    proba, labels = answer["outputs"]
    assert labels["data"] == [0, 2]
    assert proba["shape"] == [2, 3]
    assert proba["parameters"]["binary_data_size"] == len(reply.body) - length
    values = np.frombuffer(reply.body[length:], "<f8").reshape(2, 3)
    assert np.allclose(values.sum(axis=1), 1)


def test_v2_metadata_tells_inputs_and_outputs(iris):
    answer = iris.get("/v2/models/iris").json
    assert answer["inputs"] == [{"name": "X", "datatype": "FP64", "shape": [-1, 4]}]
    assert answer["outputs"] == [
        {"name": "predict", "datatype": "INT64", "shape": [-1]},
        {
            "name": "predict_proba",
            "datatype": "FP64",
            "shape": [-1, 3],
            "parameters": {"classes": [0, 1, 2]},
        },
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/score", b"{", 400, "not valid JSON"),
        ("/score", b"", 400, "empty"),
        ("/score", b"\xff\xfe", 400, "not valid JSON"),
        ("/score", {}, 400, "missing key"),
        ("/score", "7", 400, "expected a JSON object"),
        ("/score", {"data": []}, 400, "empty"),
        ("/score", {"data": [[1, 2, 3]]}, 400, "expected 4 features per row, got 3"),
        ("/score", {"data": [[1, 2, 3, 4], [1, 2, 3]]}, 400, "row 1: expected 4 features"),
        ("/score", {"data": [["a", 1, 2, 3]]}, 400, "row 0, column 0: expected a number"),
        ("/score", {"data": [[[1], [2], [3], [4]]]}, 400, "expected a number"),
        ("/score", {"data": [{"a": 1}]}, 400, "no column names"),
        ("/score", {"data": [[10**30, 1, 2, "x"]]}, 400, "expected a number"),
        ("/v1/models/iris:predict", {"x": 1}, 400, "instances"),
        ("/v1/models/iris:predict", {"instances": 1}, 400, "list"),
        ("/v2/models/iris/infer", {}, 400, "inputs"),
        (
            "/v2/models/iris/infer",
            {"inputs": [{"name": "X", "shape": [10**9, 4], "datatype": "FP32", "data": [1]}]},
            400,
            "has 4000000000 elements, data has 1",
        ),
        (
            "/v2/models/iris/infer",
            {"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]},
            400,
            "expected 4 features per row, got 3",
        ),
        (
            "/v2/models/iris/infer",
            {"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP99", "data": ROW}]},
            400,
            "unknown datatype",
        ),
        ("/invocations", {"instances": [ROW], "inputs": [ROW]}, 400, "exactly one"),
        ("/predictions/iris", {"nothing": 1}, 400, "no column names"),
    ],
)
def test_malformed_input_is_a_4xx_in_the_dialects_form(iris, path, body, status, words):
    reply = iris.post(path, body)
    assert reply.status == status
    told = reply.json
    assert words in (told.get("message") or told.get("error"))
    if path.startswith(("/v1", "/v2")):
        assert set(told) == {"error"}
    assert b"Traceback" not in reply.body
    assert iris.post("/score", {"data": [ROW]}).status == 200


def test_other_content_types_get_415(iris):
    reply = iris.post("/score", '{"data": []}', headers={"Content-Type": "text/plain"})
    assert reply.status == 415
    assert "text/plain" in reply.json["message"]


def test_compressed_bodies_get_415(iris):
    reply = iris.post("/score", b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert reply.status == 415


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "api-key"])
def test_both_keys_open_the_port_in_each_header(iris, header):
    for key in ("test-key-1", "test-key-2"):
        value = f"Bearer {key}" if header == "Authorization" else key
        assert iris.post("/score", {"data": [ROW]}, key=None, headers={header: value}).status == 200


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/score", "message"),
        ("/v1/models/iris:predict", "error"),
        ("/v2/models/iris/infer", "error"),
        ("/v2", "error"),
        ("/invocations", "error_code"),
        ("/predictions/iris", "type"),
        ("/version", "message"),
        ("/nothing/here", "message"),
    ],
)
def test_without_the_right_key_everything_but_health_is_401_in_the_dialects_form(iris, path, form):
    for key in (None, "wrong"):
        reply = iris.post(path, {"data": [ROW]}, key=key)
        assert reply.status == 401
        assert form in reply.json
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")


def test_health_is_open(iris):
    reply = iris.get("/", key=None)
    assert (reply.status, reply.body) == (200, b"Healthy")


def test_plain_http_at_the_proxy_is_sent_to_https(iris):
    reply = iris.post(
        "/score?a=1",
        {"data": [ROW]},
        key=None,
        headers={"X-Forwarded-Proto": "http", "Host": "faq.example.com"},
    )
    assert reply.status == 308
    assert reply.headers["Location"] == "https://faq.example.com/score?a=1"


def test_unknown_models_get_404_that_names_the_known_one(iris):
    for path in ("/v1/models/other:predict", "/v2/models/other/infer", "/predictions/other"):
        reply = iris.post(path, {"instances": [ROW]})
        assert reply.status == 404
        assert "iris" in reply.body.decode()


def test_other_methods_get_405(iris):
    reply = iris.request("DELETE", "/score")
    assert (reply.status, reply.json) == (405, {"message": "Method not allowed"})
    assert "POST" in reply.headers["Allow"]


def test_get_score_takes_the_query_as_the_body(iris):
    assert iris.get("/score?data=[[5.1,3.5,1.4,0.2]]").json == [0]


def test_request_ids_are_echoed(iris):
    reply = iris.post(
        "/score",
        {"data": [ROW]},
        headers={"x-request-id": "my-id", "x-ms-client-request-id": "client"},
    )
    assert reply.headers["x-request-id"] == "my-id"
    assert reply.headers["x-ms-client-request-id"] == "client"
    assert reply.headers["x-ms-request-id"] == "client"


def test_endless_request_ids_get_431(iris):
    assert iris.post("/score", {}, headers={"x-request-id": "x" * 101}).status == 431


def test_descriptions_name_the_features(iris):
    document = iris.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    rows = document["components"]["schemas"]["Rows"]
    assert rows["items"]["minItems"] == 4
    assert iris.get("/swagger.json").json["swagger"] == "2.0"
    assert iris.get("/swagger.json?version=3").json["openapi"] == "3.0.3"
    assert iris.get("/swagger.json?version=9").status == 404


def test_metrics_count_requests_by_dialect_and_code(iris):
    before = iris.metric('scorer_requests_total{code="400",dialect="score"}')
    assert iris.post("/score", {}).status == 400
    assert iris.metric('scorer_requests_total{code="400",dialect="score"}') == before + 1
    text = iris.probe("/metrics").body.decode()
    assert 'revision="r7"' in text
    assert 'scorer_load_duration_seconds{phase="load"}' in text
    assert "scorer_batch_rows_bucket" in text


def test_probes_answer_without_a_key(iris):
    for path in ("/livez", "/readyz", "/startupz"):
        assert iris.probe(path).status == 200


def test_changed_keys_are_used_without_a_restart(start_scorer, iris_folder, until):
    scorer = start_scorer(iris_folder, "sklearn", workers=1)
    (scorer.keys_dir / "primary").write_text("rotated")
    until(lambda: scorer.post("/score", {"data": [ROW]}, key="rotated").status == 200)
    assert scorer.post("/score", {"data": [ROW]}, key="test-key-1").status == 401
    (scorer.keys_dir / "primary").unlink()
    (scorer.keys_dir / "secondary").unlink()
    until(lambda: scorer.probe("/readyz").status == 503)
    assert "holds no key" in scorer.probe("/readyz").json["reason"]


def test_logs_are_json_lines_without_keys_and_payloads(iris, until):
    iris.post("/score", {"data": [[5.125, 3.0, 1.0, 0.125]]})
    until(lambda: '"logger":"access"' in iris.log())
    assert iris.records()
    assert "test-key-1" not in iris.log()
    assert "5.125" not in iris.log()


def test_sigterm_ends_with_exit_code_0(start_scorer, iris_folder):
    scorer = start_scorer(iris_folder, "sklearn")
    assert scorer.stop() == 0
