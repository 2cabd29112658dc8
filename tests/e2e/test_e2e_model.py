"""From `kubectl apply` to a scored request, and everything that keeps it so."""

import json
import time
from typing import Any

import pytest

ECHO = """
import json

def init():
    pass

def run(data):
    return {"echo": json.loads(data)}
"""


def test_a_sklearn_model_goes_from_yaml_to_an_https_answer(client: Any, models: Any) -> None:
    client.apply_model(
        "iris",
        modelURI=models.iris.as_uri(),
        framework="sklearn",
        test={"request": {"data": [[5.1, 3.5, 1.4, 0.2]]}, "expect": [0]},
    )
    client.wait_ready("iris")

    status, headers, body = client.request("iris", body=b'{"data": [[5.1, 3.5, 1.4, 0.2]]}')

    assert (status, json.loads(body)) == (200, [0])
    assert headers["content-type"].startswith("application/json")


def test_wrong_and_missing_keys_are_refused_and_plain_http_is_redirected(
    client: Any, models: Any
) -> None:
    client.apply_model("echo", modelURI=models.script("echo", ECHO), framework="python")
    client.wait_ready("echo")

    assert client.request("echo", body=b"{}", key="x" * 32)[0] == 401
    assert client.request("echo", body=b"{}", key=None)[0] == 401
    assert client.request("echo", body=b"{}")[0] == 200
    secondary = client.secret("echo-keys", "secondary").decode()
    assert client.request("echo", body=b"{}", key=secondary)[0] == 200


@pytest.mark.parametrize(
    ("body", "content_type", "statuses"),
    [
        (b"{broken", "application/json", {400}),
        (b"\xff\xfe", "application/json", {400}),
        (b"", "application/json", {400}),
        (b'{"data": [[1, 2]]}', "application/json", {400, 422}),
        (b'{"nothing": 1}', "application/json", {400, 422}),
        (b'{"data": [[5.1, 3.5, 1.4, 0.2]]}', "image/x-unknown", {400, 415}),
        (b"[" * 100_000, "application/json", {400}),
        (b" " * 2_000_000, "application/json", {413}),
    ],
    ids=["broken", "not-utf8", "empty", "width", "no-key", "type", "deep", "large"],
)
def test_bad_requests_get_a_4xx_and_the_server_goes_on(
    shared_iris: Any, body: bytes, content_type: str, statuses: set[int]
) -> None:
    status, _, answer = shared_iris.request("iris", body=body, content_type=content_type)

    assert status in statuses, answer
    assert b"Traceback" not in answer
    assert json.loads(answer)
    good = shared_iris.request("iris", body=b'{"data": [[5.1, 3.5, 1.4, 0.2]]}')
    assert good[0] == 200


@pytest.fixture(scope="module")
def shared_iris(shared_client: Any, models: Any) -> Any:
    shared_client.apply_model(
        "iris",
        modelURI=models.iris.as_uri(),
        framework="sklearn",
        limits={"requestBytes": 1_000_000},
    )
    shared_client.wait_ready("iris")
    return shared_client


def test_children_come_back_and_go_with_the_model(client: Any, models: Any) -> None:
    client.apply_model("echo", modelURI=models.script("echo", ECHO), framework="python")
    client.wait_ready("echo")
    uid = client.get("service", "echo")["metadata"]["uid"]

    client.kubectl("delete", "service", "echo")
    client.kubectl("wait", "--for=create", "service/echo", "--timeout=30s")
    assert client.get("service", "echo")["metadata"]["uid"] != uid
    client.kubectl("set", "image", "deployment/echo", "scorer=elsewhere/scorer:9")
    client.kubectl(
        *("wait", "deployment/echo", "--timeout=30s"),
        "--for=jsonpath={.spec.template.spec.containers[0].image}=mlscoring/scorer:0.1.0",
    )

    client.kubectl("delete", "scoringmodel", "echo")
    for kind in ("deployment", "service", "ingress", "poddisruptionbudget", "serviceaccount"):
        client.kubectl("wait", "--for=delete", f"{kind}/echo", "--timeout=30s")
    client.kubectl("wait", "--for=delete", "secret/echo-keys", "secret/echo-tls", "--timeout=30s")


def test_a_field_removed_from_the_spec_disappears_from_the_children(
    client: Any, models: Any
) -> None:
    uri = models.script("echo", ECHO)
    client.apply_model(
        "echo",
        modelURI=uri,
        framework="python",
        autoscaling={"minReplicas": 1, "maxReplicas": 2},
        env=[{"name": "COLOUR", "value": "blue"}],
    )
    client.wait_ready("echo")
    client.kubectl("get", "horizontalpodautoscaler", "echo")

    client.apply_model("echo", modelURI=uri, framework="python")

    client.kubectl("wait", "--for=delete", "horizontalpodautoscaler/echo", "--timeout=30s")
    client.wait_ready("echo")
    container = client.get("deployment", "echo")["spec"]["template"]["spec"]["containers"][0]
    assert "COLOUR" not in {item["name"] for item in container["env"]}


def test_kubectl_scale_scales_the_model(client: Any, models: Any) -> None:
    client.apply_model("echo", modelURI=models.script("echo", ECHO), framework="python", replicas=1)
    client.wait_ready("echo")

    client.kubectl("scale", "scoringmodel/echo", "--replicas=2")

    client.kubectl(
        "wait", "scoringmodel/echo", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=60s"
    )


def test_the_table_says_what_serves_and_where(client: Any, models: Any) -> None:
    client.apply_model("echo", modelURI=models.script("echo", ECHO), framework="python")
    client.wait_ready("echo")

    header, row = client.kubectl("get", "scoringmodels").splitlines()

    assert header.split() == [
        "NAME",
        "FRAMEWORK",
        "DEVICE",
        "READY",
        "REASON",
        "REPLICAS",
        "URL",
        "AGE",
    ]
    assert row.split()[:5] == ["echo", "python", "cpu", "True", "Ready"]


def test_a_new_key_is_picked_up_without_a_restart(client: Any, models: Any) -> None:
    client.apply_model("echo", modelURI=models.script("echo", ECHO), framework="python")
    client.wait_ready("echo")
    pods = client.kubectl("get", "pods", "-o", "name")

    client.kubectl("delete", "secret", "echo-keys")
    client.kubectl("wait", "--for=create", "secret/echo-keys", "--timeout=30s")

    key = client.secret("echo-keys", "primary").decode()
    deadline = time.monotonic() + 60
    while client.request("echo", body=b"{}", key=key)[0] != 200:
        assert time.monotonic() < deadline, "the new key was not accepted within a minute"
    assert client.kubectl("get", "pods", "-o", "name") == pods
