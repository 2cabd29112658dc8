"""S3, by moto's server, from `kubectl apply` to a scored request; `make test-s3` runs it.

The scorer's image is here an environment of its own, as botocore and the operator's Kubernetes client want different
versions of python-dateutil: `TEST_S3_PYTHON` is its interpreter.
"""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_cluster.up import LocalCluster

PYTHON = os.environ.get("TEST_S3_PYTHON", "")
if not PYTHON:
    pytest.skip("needs an S3 server: make test-s3", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "local/scorer-s3"
SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""
FILES = {
    "score.py": "import pathlib\nlabels = pathlib.Path(__file__).parent / 'labels' / 'a b.txt'\n"
    "def init(): pass\ndef run(data): return labels.read_text()\n",
    "labels/a%20b.txt": "from S3",
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with subprocess.Popen(
        [PYTHON, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        put(f"{url}/models", "")
        for name, text in FILES.items():
            put(f"{url}/models/greeting/1/{name}", text)
        yield url
        process.stdin.close()


def put(url: str, text: str) -> None:
    # urllib calls a body a form, and the server would read it as one.
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, text.encode(), headers, method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        pass


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster whose image map has the scorer with s3fs beside the usual one."""
    images = tmp_path_factory.mktemp("images") / "images.yaml"
    builtin = ROOT / "deploy" / "local" / "local_cluster" / "images" / "images.yaml"
    scorer = yaml.safe_load(builtin.read_text())["images"]["mlscoring/scorer"]
    scorer["entrypoint"] = [PYTHON, "-m", "model_scorer"]
    images.write_text(yaml.safe_dump({"images": {IMAGE: scorer}}))
    with LocalCluster(tmp_path_factory.mktemp("cluster"), images=images) as running:
        running.kubectl("apply", "-k", str(ROOT / "deploy" / "overlays" / "local"))
        running.kubectl(
            *("rollout", "status", "deployment/scoring-operator"),
            *("-n", "scoring-system", "--timeout=60s"),
        )
        yield running


def make_secret(client: Any, name: str, endpoint: str) -> None:
    client.kubectl(
        *("create", "secret", "generic", name),
        f"--from-literal=AWS_ENDPOINT_URL={endpoint}",
        "--from-literal=AWS_ACCESS_KEY_ID=someone",
        "--from-literal=AWS_SECRET_ACCESS_KEY=hidden-word",
        "--from-literal=AWS_DEFAULT_REGION=us-east-1",
    )


def test_a_model_in_s3_is_served(client: Any, endpoint: str) -> None:
    make_secret(client, "store", endpoint)

    client.apply_model(
        "m",
        modelURI="s3://models/greeting/1/",
        framework="python",
        image=f"{IMAGE}:1",
        storage={"secretName": "store"},
    )
    client.wait_ready("m")

    status, headers, body = client.request("m", body=b"{}")
    assert (status, json.loads(body)) == (200, "from S3")
    assert headers["x-model-digest"].startswith("sha256:")
    told = client.kubectl("get", "scoringmodel,deployment,pod,event", "-o", "yaml")
    told += client.kubectl("logs", "deployment/m", "-c", "fetch")
    assert "hidden-word" not in told


def test_a_missing_key_and_a_missing_library_are_told_apart(client: Any, endpoint: str) -> None:
    make_secret(client, "store", endpoint)
    common = {"framework": "python", "storage": {"secretName": "store"}}
    client.apply_model("missing", modelURI="s3://models/greeting/2/", image=f"{IMAGE}:1", **common)
    client.apply_model("plain", modelURI="s3://models/greeting/1/", **common)
    client.wait_for_reason("missing", "ModelNotFound")
    condition = client.wait_for_reason("plain", "MissingDependency")
    assert "s3fs" in condition["message"]
