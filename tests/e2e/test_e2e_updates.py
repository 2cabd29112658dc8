"""What changes behind a model's URI, and what status says while it is fetched."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

SAYS = """
def init():
    pass

def run(data):
    return "{}"
"""
MIB = 1 << 20


def wait_for_message(client: Any, name: str, text: str) -> str:
    """Wait until the Ready condition's message holds a text."""
    for _ in range(120):
        conditions = client.get("scoringmodel", name)["status"]["conditions"]
        message = str(next(c["message"] for c in conditions if c["type"] == "Ready"))
        if text in message:
            return message
        time.sleep(0.5)
    raise AssertionError(f"{text!r} is not in {message!r}")


def test_a_change_behind_the_uri_is_reported_and_rolled_out_when_the_spec_says_so(
    client: Any, models: Any
) -> None:
    uri = models.script("changing", SAYS.format("old"))
    client.apply_model("changing", modelURI=uri, framework="python", replicas=2)
    client.wait_ready("changing")
    before = client.get("scoringmodel", "changing")["status"]
    client.kubectl("wait", "--for=create", "configmap/changing-pins", "--timeout=30s")

    models.script("changing", SAYS.format("new"))
    pods = json.loads(
        client.kubectl("get", "pods", "-l", "mlscoring.io/scoringmodel", "-o", "json")
    )
    client.kubectl("delete", "pod", pods["items"][0]["metadata"]["name"])
    message = wait_for_message(client, "changing", "has changed")
    assert before["modelDigest"].removeprefix("sha256:") in message
    # The pod that is left serves what it always served; the new one is not let in.
    assert json.loads(client.request("changing", body=b"{}")[2]) == "old"

    client.kubectl(
        *("patch", "scoringmodel", "changing", "--type=merge"),
        *("-p", '{"spec": {"updatePolicy": "Always"}}'),
    )
    reference = client.get("scoringmodel", "changing")["metadata"]["generation"]
    client.kubectl(
        *("wait", "scoringmodel/changing", "--timeout=60s"),
        f"--for=jsonpath={{.status.observedGeneration}}={reference}",
    )
    client.kubectl("rollout", "status", "deployment/changing", "--timeout=90s")
    client.wait_ready("changing")
    after = client.get("scoringmodel", "changing")["status"]
    assert json.loads(client.request("changing", body=b"{}")[2]) == "new"
    assert after["modelDigest"] != before["modelDigest"]
    assert after["revision"] != before["revision"]


@pytest.fixture
def slow_server() -> Iterator[tuple[str, threading.Event]]:
    """A server that sends a quarter of 40 MiB and then waits."""
    go_on = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(40 * MIB))
            self.end_headers()
            self.wfile.write(bytes(10 * MIB))
            self.wfile.flush()
            go_on.wait()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", go_on
    go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_status_shows_how_far_a_download_is(client: Any, slow_server: Any) -> None:
    url, _ = slow_server
    client.apply_model("large", modelURI=f"{url}/model.joblib", framework="sklearn")

    watch = client.kubectl(
        *("wait", "scoringmodel/large", "--timeout=60s"),
        "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=ModelDownloading",
    )
    assert "condition met" in watch
    message = wait_for_message(client, "large", "%")
    assert "10 of 40 MiB (25 %)" in message
