"""One local cluster with the operator in it, shared by all end-to-end tests of a run."""

import base64
import http.client
import http.server
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pytest
import yaml
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from local_cluster.up import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
# Under importlib mode nothing puts the operator tests' own modules on the path.
sys.path.append(str(ROOT / "tests" / "scoring_operator"))
from operator_role import granted  # noqa: E402


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A running cluster with CRD and operator installed from deploy/overlays/local."""
    with LocalCluster(tmp_path_factory.mktemp("cluster")) as running:
        running.kubectl("apply", "-k", str(ROOT / "deploy" / "overlays" / "local"))
        running.kubectl(
            *("rollout", "status", "deployment/scoring-operator"),
            *("-n", "scoring-system", "--timeout=60s"),
        )
        yield running
        for verb, resource, code in operator_calls(running):
            assert may_call(verb, resource, code), f"the Role does not allow {verb} {resource}"


def operator_calls(cluster: LocalCluster) -> set[tuple[str, str, str]]:
    """Verb, resource and status of the calls that the running operators have made, from their metrics."""
    pods = cluster.kubectl(
        *("get", "pods", "-n", "scoring-system", "-l", "app.kubernetes.io/name=scoring-operator"),
        *("--field-selector", "status.phase=Running", "-o", "jsonpath={.items[*].status.podIP}"),
    ).split()
    assert pods, "no operator runs any more"
    pattern = re.compile(
        r'^scoring_operator_api_calls_total\{code="(\d+)",resource="([a-z]+)",verb="([A-Z]+)"\}',
        re.M,
    )
    found = set()
    for address in pods:
        with urllib.request.urlopen(f"http://{address}:8080/metrics", timeout=10) as answer:
            found |= {
                (verb, what, code) for code, what, verb in pattern.findall(answer.read().decode())
            }
    assert ("WATCH", "scoringmodels", "200") in found
    return found


def may_call(verb: str, resource: str, code: str) -> bool:
    """Whether a rule of the operator's roles grants it; metrics do not tell get from list, nor subresources."""
    verbs = {"GET": ("get", "list"), "WATCH": ("watch",), "POST": ("create",), "PUT": ("update",)}
    wanted = (
        ("create", "patch")
        if (verb, code) == ("PATCH", "201")
        else verbs.get(verb, (verb.lower(),))
    )
    granted_verbs = {p.verb for p in granted() if p.resource.partition("/")[0] == resource}
    allows = all if verb == "PATCH" else any
    return resource == "discovery" or allows(word in granted_verbs for word in wanted)


@dataclass
class Models:
    """Models in a folder, and the same folder behind an HTTP server that misbehaves under some paths."""

    folder: Path
    url: str

    def script(self, name: str, source: str) -> str:
        """A model folder that is a score.py alone; returns its file: URI."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "score.py").write_text(source)
        return folder.as_uri()

    @property
    def iris(self) -> Path:
        """A logistic regression on iris, saved with joblib."""
        path = self.folder / "iris.joblib"
        if not path.exists():
            features, target = load_iris(return_X_y=True)
            joblib.dump(LogisticRegression(max_iter=1000).fit(features, target), path)
        return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    folder = tmp_path_factory.mktemp("models")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def do_GET(self) -> None:
            if self.path.startswith("/forbidden"):
                self.send_error(403)
            else:
                super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Models(folder, f"http://127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    thread.join()
    server.server_close()


class Client:
    """What a person does with kubectl and curl, in one namespace of the cluster."""

    def __init__(self, cluster: LocalCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl(*arguments, "-n", self.namespace)

    def try_apply(self, manifest: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """`kubectl apply -f -`; never raises."""
        return subprocess.run(
            [*self.cluster.kubectl_command, "apply", "-n", self.namespace, "-f", "-"],
            input=yaml.safe_dump(manifest),
            capture_output=True,
            text=True,
            check=False,
        )

    def apply_model(self, name: str, **spec: Any) -> None:
        done = self.try_apply(scoring_model(name, **spec))
        assert done.returncode == 0, done.stderr

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", kind, name, "-o", "json")))

    def wait_for_reason(
        self, name: str, *reasons: str, timeout_seconds: int = 60
    ) -> dict[str, Any]:
        """Wait, by kubectl's own watch, until the Ready condition has one of the reasons."""
        path = "{.status.conditions[?(@.type=='Ready')].reason}{'\\n'}"
        watch = subprocess.Popen(
            [
                *self.cluster.kubectl_command,
                *("get", "scoringmodel", name, "-n", self.namespace),
                *("--watch", "-o", f"jsonpath={path}", f"--request-timeout={timeout_seconds}s"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watch.stdout is not None
        seen = []
        for line in watch.stdout:
            seen.append(line.strip())
            if line.strip() in reasons:
                break
        watch.kill()
        watch.wait()
        watch.stdout.close()
        assert seen, "the watch ended without a line"
        assert seen[-1] in reasons, f"{name}: saw {seen}, wanted one of {reasons}"
        conditions = self.get("scoringmodel", name)["status"]["conditions"]
        return next(item for item in conditions if item["type"] == "Ready")

    def wait_ready(self, name: str) -> None:
        self.kubectl("wait", "--for=condition=Ready", f"scoringmodel/{name}", "--timeout=90s")

    def secret(self, name: str, key: str) -> bytes:
        return base64.b64decode(self.get("secret", name)["data"][key])

    def request(
        self,
        name: str,
        path: str = "/score",
        body: bytes | None = None,
        *,
        key: str | None = "",
        content_type: str = "application/json",
        method: str = "POST",
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTPS request through the ingress; `key` "" means the model's own primary key."""
        host = (
            self.get("scoringmodel", name)["status"]["url"].removeprefix("https://").split(":")[0]
        )
        context = ssl.create_default_context(cadata=self.secret(f"{name}-tls", "tls.crt").decode())
        raw = socket.create_connection(("127.0.0.1", self.cluster.https_port), timeout=30)
        connection = http.client.HTTPConnection(host)
        connection.sock = context.wrap_socket(raw, server_hostname=host)
        headers = {"Content-Type": content_type}
        if key is not None:
            own = self.secret(f"{name}-keys", "primary").decode()
            headers["Authorization"] = f"Bearer {key or own}"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text


def scoring_model(name: str, **spec: Any) -> dict[str, Any]:
    """A ScoringModel manifest."""
    return {
        "apiVersion": "mlscoring.io/v1",
        "kind": "ScoringModel",
        "metadata": {"name": name},
        "spec": spec,
    }


@pytest.fixture(scope="module")
def shared_client(cluster: LocalCluster, request: pytest.FixtureRequest) -> Client:
    """A client in a namespace that the tests of one module share."""
    namespace = request.module.__name__.replace("_", "-").replace(".", "-")[-60:]
    cluster.kubectl("create", "namespace", namespace)
    return Client(cluster, namespace)


@pytest.fixture
def client(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client in a namespace of the test's own, which goes away with the test."""
    words = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())
    namespace = f"t-{words[-50:].strip('-')}"
    cluster.kubectl("create", "namespace", namespace)
    yield Client(cluster, namespace)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
