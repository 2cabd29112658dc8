"""Clients from PyPI, unchanged, against the scorer: tritonclient and MLflow's scoring client; what Azure ML's expect."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gevent and mlflow warn of others' future
    import tritonclient.http as triton
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient
    from tritonclient.utils import InferenceServerException

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])


def headers():
    """New ones for each call: tritonclient writes into what it is given."""
    return {"Authorization": "Bearer test-key-1"}


FEATURES = ["sepal length", "sepal width", "petal length", "petal width"]


@pytest.fixture(scope="module")
def iris(start_scorer, iris_folder):
    return start_scorer(iris_folder, "sklearn", model_name="iris", revision="7")


@pytest.fixture(scope="module")
def named_iris(start_scorer, tmp_path_factory):
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    features, classes = load_iris(return_X_y=True)
    folder = tmp_path_factory.mktemp("named")
    frame = pd.DataFrame(features, columns=FEATURES)
    joblib.dump(LogisticRegression(max_iter=500).fit(frame, classes), folder / "model.joblib")
    return start_scorer(folder, "sklearn", model_name="iris", auth_mode="None")


@pytest.fixture
def triton_client(iris):
    client = triton.InferenceServerClient(f"127.0.0.1:{iris.port}")
    yield client
    client.close()


def make_input(rows, datatype, *, binary):
    given = triton.InferInput("X", list(rows.shape), datatype)
    given.set_data_from_numpy(rows, binary_data=binary)
    return given


def test_triton_client_sees_a_live_and_ready_server(triton_client):
    assert triton_client.is_server_live(headers=headers())
    assert triton_client.is_server_ready(headers=headers())
    assert triton_client.is_model_ready("iris", headers=headers())
    assert triton_client.is_model_ready("iris", "7", headers=headers())
    assert not triton_client.is_model_ready("other", headers=headers())


def test_triton_client_reads_the_metadata(triton_client):
    server = triton_client.get_server_metadata(headers=headers())
    assert "binary_tensor_data" in server["extensions"]
    model = triton_client.get_model_metadata("iris", headers=headers())
    assert model["inputs"] == [{"name": "X", "datatype": "FP64", "shape": [-1, 4]}]
    index = triton_client.get_model_repository_index(headers=headers())
    assert [(item["name"], item["state"]) for item in index] == [("iris", "READY")]


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize(("dtype", "datatype"), [(np.float64, "FP64"), (np.float32, "FP32")])
def test_triton_client_infers_in_json_and_in_binary(
    triton_client, binary_in, binary_out, dtype, datatype
):
    outputs = [
        triton.InferRequestedOutput("predict", binary_data=binary_out),
        triton.InferRequestedOutput("predict_proba", binary_data=binary_out),
    ]
    answer = triton_client.infer(
        "iris",
        [make_input(ROWS.astype(dtype), datatype, binary=binary_in)],
        outputs=outputs,
        request_id="42",
        headers=headers(),
    )
    assert answer.get_response()["id"] == "42"
    assert answer.as_numpy("predict").tolist() == [0, 2]
    assert np.allclose(answer.as_numpy("predict_proba").sum(axis=1), 1)


def test_triton_client_gets_everything_in_binary_when_it_names_no_output(triton_client):
    answer = triton_client.infer(
        "iris", [make_input(ROWS, "FP64", binary=True)], headers=headers(), model_version="7"
    )
    assert answer.as_numpy("predict").tolist() == [0, 2]


def test_triton_client_sends_half_precision_in_binary(triton_client):
    given = make_input(ROWS.astype(np.float16), "FP16", binary=True)
    assert triton_client.infer("iris", [given], headers=headers()).as_numpy("predict").tolist() == [
        0,
        2,
    ]


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_sends_and_gets_texts(start_scorer, tmp_path, binary):
    import joblib
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, classes = ["so good", "good ünï", "so bad", "bad"], ["yes", "yes", "nö", "nö"]
    fitted = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, classes)
    joblib.dump(fitted, tmp_path / "model.joblib")
    scorer = start_scorer(tmp_path, "sklearn", model_name="mood", workers=1, auth_mode="None")
    given = triton.InferInput("X", [2], "BYTES")
    given.set_data_from_numpy(np.array(["bad", "good ünï"], object), binary_data=binary)
    outputs = [triton.InferRequestedOutput("predict", binary_data=binary)]
    client = triton.InferenceServerClient(f"127.0.0.1:{scorer.port}")
    try:
        answer = client.infer("mood", [given], outputs=outputs).as_numpy("predict")
    finally:
        client.close()
    assert [t.decode() if isinstance(t, bytes) else t for t in answer.tolist()] == ["nö", "yes"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_triton_client_is_told_that_bodies_must_come_plain(triton_client, encoding):
    with pytest.raises(InferenceServerException, match="not supported"):
        triton_client.infer(
            "iris",
            [make_input(ROWS, "FP64", binary=True)],
            headers=headers(),
            request_compression_algorithm=encoding,
        )


def test_triton_client_reads_our_errors(triton_client):
    with pytest.raises(InferenceServerException, match="expected 4 features per row, got 3"):
        triton_client.infer(
            "iris", [make_input(ROWS[:, :3].copy(), "FP64", binary=True)], headers=headers()
        )
    with pytest.raises(InferenceServerException, match="API key"):
        triton_client.infer("iris", [make_input(ROWS, "FP64", binary=True)])
    with pytest.raises(InferenceServerException, match="other"):
        triton_client.infer("other", [make_input(ROWS, "FP64", binary=True)], headers=headers())


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame(ROWS, columns=FEATURES),
        pd.DataFrame(ROWS, columns=FEATURES)[FEATURES[::-1]],
    ],
    ids=["frame", "frame in another order"],
)
def test_mlflow_client_gets_predictions(named_iris, data):
    client = ScoringServerClient("127.0.0.1", named_iris.port)
    client.ping()
    assert client.invoke(data)["predictions"] == [0, 2]


def test_mlflow_client_sends_arrays_and_params(iris, start_scorer, iris_folder):
    scorer = start_scorer(iris_folder, "sklearn", auth_mode="None")
    client = ScoringServerClient("127.0.0.1", scorer.port)
    assert client.get_version()
    assert client.invoke(ROWS)["predictions"] == [0, 2]
    assert client.invoke(ROWS, params={"unused": 1})["predictions"] == [0, 2]
    with pytest.raises(Exception, match="error code 400"):
        client.invoke(ROWS[:, :3])


# What KServe's InferenceRESTClient 0.21 sends; the package itself would hold back pandas and protobuf.
KSERVE_HEADERS = {"accept": "*/*", "user-agent": "python-httpx/0.28.1"}
KSERVE_V1 = {"instances": [[6.8, 2.8, 4.8, 1.4], [5.1, 3.5, 1.4, 0.2]]}
KSERVE_V2 = {
    "id": "5f2f1a2e-3c7d-4a57-9d4e-3a5f0f6a4a11",
    "inputs": [
        {
            "name": "input-0",
            "shape": [2, 4],
            "datatype": "FP32",
            "data": [6.8, 2.8, 4.8, 1.4, 5.1, 3.5, 1.4, 0.2],
        }
    ],
}


def test_kserve_client_gets_v1_predictions(iris):
    reply = iris.post("/v1/models/iris:predict", KSERVE_V1, headers=KSERVE_HEADERS)
    assert (reply.status, reply.json) == (200, {"predictions": [1, 0]})
    assert iris.get("/v1/models/iris", headers=KSERVE_HEADERS).json["ready"] is True


def test_kserve_client_gets_v2_predictions(iris):
    reply = iris.post("/v2/models/iris/infer", KSERVE_V2, headers=KSERVE_HEADERS)
    assert reply.status == 200
    answer = reply.json
    assert (answer["id"], answer["model_name"]) == (KSERVE_V2["id"], "iris")
    assert answer["outputs"][0]["data"] == [1, 0]
    assert iris.get("/v2/health/live").json == {"live": True}
    assert iris.get("/v2/health/ready").json == {"ready": True}
    assert iris.get("/v2/models/iris/ready").json["ready"] is True


def test_kserve_client_sends_and_gets_binary_tensors(iris):
    head = json.dumps(
        {
            "id": "b",
            "inputs": [
                {
                    "name": "input-0",
                    "shape": [2, 4],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": 32},
                }
            ],
            "outputs": [{"name": "output-0", "parameters": {"binary_data": True}}],
        }
    ).encode()
    reply = iris.post(
        "/v2/models/iris/infer",
        head + ROWS.astype("<f4").tobytes(),
        headers={
            "Content-Type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        },
    )
    assert reply.status == 200
    length = int(reply.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(reply.body[:length])["outputs"]
    assert output["name"] == "output-0"
    assert np.frombuffer(reply.body[length:], "<i8").tolist() == [0, 2]


def test_kserve_client_finds_its_own_word_at_the_root(iris):
    reply = iris.get("/", headers=KSERVE_HEADERS, key=None)
    assert reply.json["status"] == "alive"
    assert iris.get("/", headers={"accept": "application/json"}, key=None).json == reply.json
    assert iris.get("/", headers={"accept": "*/*"}, key=None).body == b"Healthy"


def test_triton_client_reads_the_names_of_the_classes(triton_client):
    outputs = triton_client.get_model_metadata("iris", headers=headers())["outputs"]
    assert outputs[0] == {"name": "predict", "datatype": "INT64", "shape": [-1]}
    assert outputs[1]["parameters"] == {"classes": [0, 1, 2]}


# What azureml-inference-server-http 1.5 answers; test_azureml_server.py asks that server itself.
@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (
            {"x-ms-request-id": "mine"},
            {"x-ms-request-id": "mine", "x-ms-client-request-id": "mine"},
        ),
        (
            {"x-ms-client-request-id": "mine"},
            {"x-ms-request-id": "mine", "x-ms-client-request-id": "mine"},
        ),
        (
            {"x-request-id": "a", "x-ms-request-id": "b", "x-ms-client-request-id": "c"},
            {"x-request-id": "a", "x-ms-request-id": "b", "x-ms-client-request-id": "c"},
        ),
        ({"x-request-id": "a"}, {"x-request-id": "a", "x-ms-request-id": "a"}),
        ({"TraceId": "t"}, {"TraceId": "t"}),
    ],
)
def test_azure_ml_clients_get_their_ids_back(iris, sent, answered):
    for reply in (
        iris.post("/score", {"data": ROWS.tolist()}, headers=sent),
        iris.get("/version", headers=sent),
    ):
        assert reply.status == 200
        told = {name.lower(): value for name, value in reply.headers.items()}
        assert {name: told.get(name.lower()) for name in answered} == answered


@pytest.mark.parametrize("name", ["x-request-id", "x-ms-request-id", "x-ms-client-request-id"])
def test_azure_ml_clients_may_not_send_endless_ids(iris, name):
    reply = iris.post("/score", {"data": ROWS.tolist()}, headers={name: "x" * 101})
    assert (reply.status, list(reply.json)) == (431, ["message"])


def test_azure_ml_clients_get_the_inference_servers_headers_and_pages(iris):
    reply = iris.post("/score", {"data": ROWS.tolist()})
    assert reply.json == [0, 2]
    assert reply.headers["x-ms-run-function-failed"] == "False"
    assert float(reply.headers["x-ms-run-fn-exec-ms"]) >= 0
    for version in ("2", "2.0", "3", "3.0", "3.1"):
        described = iris.get(f"/swagger.json?version={version}")
        assert (described.status, described.headers["X-Ms-Run-Function-Failed"]) == (200, "False")
        assert set(described.json["paths"]) == {"/", "/score", "/swagger.json"}
    missing = iris.get("/swagger.json?version=9")
    assert missing.status == 404
    assert missing.json["message"].startswith("Swagger version [9] is not valid")
    refused = iris.request("PUT", "/score", b"{}")
    assert (refused.status, refused.json) == (405, {"message": "Method not allowed"})
    assert iris.request("OPTIONS", "/score").status == 200


@pytest.mark.parametrize("kind", ["text/csv", "text/plain", "application/x-www-form-urlencoded"])
def test_azure_ml_scripts_get_any_text_whatever_its_type(start_scorer, make_script, kind):
    script = make_script("def run(data):\n    return {'got': data}\n")
    scorer = start_scorer(script, "python", workers=1, auth_mode="None")
    reply = scorer.post("/score", "a,b\n1,ü\n".encode(), headers={"Content-Type": kind})
    assert (reply.status, reply.json) == (200, {"got": "a,b\n1,ü\n"})
    broken = scorer.post("/score", b"\xff", headers={"Content-Type": kind})
    assert (broken.status, list(broken.json)) == (400, ["message"])
    packed = {"Content-Type": kind, "Content-Encoding": "gzip"}
    assert scorer.post("/score", b"x", headers=packed).status == 415


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {"Content-Type": "multipart/form-data"}),
        ("/version", {"Content-Type": "multipart/form-data; boundary="}),
        ("/swagger.json?version=%ff", {}),
    ],
)
def test_what_the_web_framework_refuses_is_the_clients_mistake(iris, path, headers):
    reply = iris.get(path, headers=headers)
    assert (reply.status, list(reply.json)) == (400, ["message"])


def test_every_refusal_is_counted_by_its_reason(iris):
    before = iris.metric('scorer_errors_total{reason="not_found"}')
    assert iris.post("/v1/models/other:predict", {"instances": ROWS.tolist()}).status == 404
    assert iris.get("/nothing").status == 404
    assert iris.metric('scorer_errors_total{reason="not_found"}') == before + 2
