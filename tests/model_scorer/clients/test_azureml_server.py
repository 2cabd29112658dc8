"""The same requests to Azure ML's inference server and to the scorer, behind the same score script.

Runs when TEST_CLIENTS_PYTHON names an interpreter with azureml-inference-server-http; `make test-clients` builds one.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

PYTHON = os.environ.get("TEST_CLIENTS_PYTHON", "")
SERVER = Path(__file__).with_name("azureml_server.py")
START_SECONDS = 60
SCRIPT = """
import json
from azureml_inference_server_http.api.aml_response import AMLResponse

def init():
    pass

def run(data):
    if data.startswith("{"):
        asked = json.loads(data)
        if asked.get("fail"):
            raise ValueError("secret detail")
        if "status" in asked:
            return AMLResponse({"mine": 1}, asked["status"], {"x-mine": "yes"}, json_str=True)
        if "raw" in asked:
            return AMLResponse(asked["raw"], 200)
        if "text" in asked:
            return json.dumps(asked["text"])
        if "none" in asked:
            return None
        return asked
    return {"got": data}
"""
JSON = {"Content-Type": "application/json"}
IDS = ("x-request-id", "x-ms-request-id", "x-ms-client-request-id")

# Name → method, path, body, headers.
REQUESTS = {
    "json": ("POST", "/score", b'{"data": [[1, 2.5, null, "\\u00e4"]]}', JSON),
    "a returned text is encoded once more": ("POST", "/score", b'{"text": [1]}', JSON),
    "none": ("POST", "/score", b'{"none": 1}', JSON),
    "other json type": (
        "POST",
        "/score",
        b'{"data": 1}',
        {"Content-Type": "application/json; charset=utf-8"},
    ),
    "csv": ("POST", "/score", b"a,b\n1,2\n", {"Content-Type": "text/csv"}),
    "plain text": ("POST", "/score", "grün".encode(), {"Content-Type": "text/plain"}),
    "no text": ("POST", "/score", b"\xff\xfe", {"Content-Type": "text/plain"}),
    "a raising run": ("POST", "/score", b'{"fail": 1}', JSON),
    "a whole response": ("POST", "/score", b'{"status": 201}', JSON),
    "a refusal by the script": ("POST", "/score", b'{"status": 422}', JSON),
    "a failure told by the script": ("POST", "/score", b'{"status": 503}', JSON),
    "a raw response": ("POST", "/score", b'{"raw": "<b>"}', JSON),
    "query": ("GET", "/score?a=1&b=[1,2]&c=x&c=2&d=null", None, {}),
    "options": ("OPTIONS", "/score", None, {}),
    "put": ("PUT", "/score", b"{}", JSON),
    "delete": ("DELETE", "/score", None, {}),
    "health": ("GET", "/", None, {}),
    "swagger": ("GET", "/swagger.json", None, {}),
    "swagger 2.0": ("GET", "/swagger.json?version=2.0", None, {}),
    "swagger 3": ("GET", "/swagger.json?version=3", None, {}),
    "swagger 3.0": ("GET", "/swagger.json?version=3.0", None, {}),
    "swagger 3.1": ("GET", "/swagger.json?version=3.1", None, {}),
    "swagger 9": ("GET", "/swagger.json?version=9", None, {}),
    "nothing there": ("GET", "/nothing", None, {}),
    "request id": ("POST", "/score", b"{}", {**JSON, "x-request-id": "mine"}),
    "client id": ("POST", "/score", b"{}", {**JSON, "x-ms-client-request-id": "mine"}),
    "old client id": ("POST", "/score", b"{}", {**JSON, "x-ms-request-id": "mine"}),
    "all ids": (
        "POST",
        "/score",
        b"{}",
        {**JSON, "x-request-id": "a", "x-ms-request-id": "b", "x-ms-client-request-id": "c"},
    ),
    "long id": ("POST", "/score", b"{}", {**JSON, "x-request-id": "x" * 101}),
    "long client id": ("POST", "/score", b"{}", {**JSON, "x-ms-client-request-id": "x" * 101}),
    "long old client id": ("POST", "/score", b"{}", {**JSON, "x-ms-request-id": "x" * 101}),
    "trace id": ("POST", "/score", b"{}", {**JSON, "TraceId": "t-1"}),
}
# What is the same in meaning and told in other words, or told better.
OTHER_WORDS = {
    "no text",
    "put",
    "delete",
    "nothing there",
    "long id",
    "long client id",
    "long old client id",
}
COMPARED_HEADERS = ("content-type", "x-ms-run-function-failed", "x-mine", "traceid")

pytestmark = pytest.mark.skipif(not PYTHON, reason="make test-clients runs it")


def ask(port, method, path, body, headers):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        client.request(method, path, body, headers)
        answer = client.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, told, answer.read()
    finally:
        client.close()


@pytest.fixture(scope="module")
def folder(make_script):
    return make_script(SCRIPT)


@pytest.fixture(scope="module")
def ours(start_scorer, folder):
    return start_scorer(folder, "python", auth_mode="None", workers=1).port


@pytest.fixture(scope="module")
def theirs(folder, tmp_path_factory, until):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    log = tmp_path_factory.mktemp("azureml") / "log"
    command = [PYTHON, str(SERVER), "--entry_script", "score.py", "--port", str(port)]
    environ = os.environ | {"PATH": f"{Path(PYTHON).parent}:{os.environ['PATH']}"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=environ
        )

    def is_up():
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            return ask(port, "GET", "/", None, {})[0] == 200
        except ConnectionError:
            return False

    try:
        until(is_up, seconds=START_SECONDS)
        yield port
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_scorer_answers_as_azure_mls_server_does(ours, theirs, name):
    request = REQUESTS[name]
    status, headers, body = ask(ours, *request)
    their_status, their_headers, their_body = ask(theirs, *request)
    assert status == their_status, body
    if name == "options":
        assert body == their_body == b""
        return
    for header in COMPARED_HEADERS:
        if header in their_headers or name not in OTHER_WORDS:
            assert headers.get(header) == their_headers.get(header), header
    for header in IDS:
        if their_headers.get(header) in ("a", "b", "c", "mine"):
            assert headers[header] == their_headers[header]
        else:
            assert header in headers or header not in their_headers
    if name in OTHER_WORDS:
        assert set(json.loads(body)) == set(json.loads(their_body)) == {"message"}
    elif name.startswith("swagger"):
        mine, yours = json.loads(body), json.loads(their_body)
        assert mine.get("swagger") == yours.get("swagger")
        assert mine.get("openapi") == yours.get("openapi")
        if status == 200:
            assert set(read_schemas(yours)) <= set(read_schemas(mine))
            assert set(yours["paths"]) <= set(mine["paths"])
            for path, methods in yours["paths"].items():
                assert set(methods) <= set(mine["paths"][path])
        else:
            assert mine["message"].startswith("Swagger version [9] is not valid")
    elif their_headers.get("content-type") == "application/json" and their_body:
        assert json.loads(body) == json.loads(their_body)
    else:
        assert body == their_body


def read_schemas(document):
    return document.get("definitions") or document["components"]["schemas"]
