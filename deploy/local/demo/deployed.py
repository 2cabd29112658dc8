"""A ScoringModel on the local cluster: deployed from its YAML, and reached as a client on this machine reaches it."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from stages import DemoError, run, stage

from local_cluster.up import LocalCluster

ROOT = Path(__file__).resolve().parents[3]
READY_TIMEOUT_SECONDS = 120
# URL_PORT in deploy/overlays/local/settings.yaml.
_OVERLAY_HTTPS_PORT = 8443


@dataclass(frozen=True, slots=True)
class Request:
    """What an example posts to `/score`."""

    body: bytes
    content_type: str


class Scorer:
    """The deployed model: through the HTTPS ingress, by its own certificate."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        model = json.loads(cluster.kubectl("get", "scoringmodel", name, "-o", "json"))
        self.url: str = model["status"]["url"]
        self.host = self.url.removeprefix("https://").split(":")[0].split("/")[0]
        self.key = self._secret(f"{name}-keys", "primary").decode()
        self.certificate = self._secret(f"{name}-tls", "tls.crt").decode()

    def _secret(self, name: str, key: str) -> bytes:
        secret = json.loads(self.cluster.kubectl("get", "secret", name, "-o", "json"))
        return base64.b64decode(secret["data"][key])

    def score(self, request: Request, key: str | None) -> tuple[int, Any]:
        """POST to /score over HTTPS, the certificate verified against the Secret's; (status, answer)."""
        context = ssl.create_default_context(cadata=self.certificate)
        raw = socket.create_connection(("127.0.0.1", self.cluster.https_port), timeout=30)
        connection = http.client.HTTPConnection(self.host)
        connection.sock = context.wrap_socket(raw, server_hostname=self.host)
        headers = {"Content-Type": request.content_type}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connection.request("POST", "/score", request.body, headers)
        answer = connection.getresponse()
        body = json.loads(answer.read() or b"null")
        connection.close()
        return answer.status, body

    def plain_http(self) -> tuple[int, str]:
        """GET / by plain HTTP: (status, where it redirects to)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.cluster.http_port, timeout=30)
        connection.request("GET", "/", headers={"Host": self.host})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, answer.getheader("Location", "")


def install_operator(cluster: LocalCluster) -> None:
    """Install CRD and operator, and wait until the operator runs."""
    with stage("Installing the operator (kubectl apply -k deploy/overlays/local)"):
        cluster.kubectl("apply", "-k", str(ROOT / "deploy" / "overlays" / "local"))
        if cluster.https_port != _OVERLAY_HTTPS_PORT:
            # Somebody has that port already: the models' URLs must name the one that the ingress got instead.
            cluster.kubectl(
                *("set", "env", "deployment/scoring-operator", "-n", "scoring-system"),
                f"URL_PORT={cluster.https_port}",
            )
        cluster.kubectl(
            "wait", "--for=condition=Established", "crd/scoringmodels.mlscoring.io", "--timeout=30s"
        )
        cluster.kubectl(
            *("rollout", "status", "deployment/scoring-operator"),
            *("-n", "scoring-system", "--timeout=60s"),
        )


def deploy(cluster: LocalCluster, example: Path, model: Path) -> Scorer:
    """Apply an example's ScoringModel and wait until it is ready, kubectl itself showing how.

    Args:
        cluster: running, with the operator.
        example: folder with `scoringmodel.yaml`; the one line changed that differs from a real cluster is where the model is.
        model: the model folder on this machine.
    """
    manifest = yaml.safe_load((example / "scoringmodel.yaml").read_text())
    manifest["spec"]["modelURI"] = model.as_uri()
    name = manifest["metadata"]["name"]
    path = cluster.state_dir / f"{name}.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    print(f"▸ kubectl apply -f {path}")
    print("".join(f"    {line}\n" for line in path.read_text().splitlines()), end="")
    began = time.monotonic()
    cluster.kubectl("apply", "-f", str(path))
    watch = subprocess.Popen(
        [*cluster.kubectl_command, "get", "scoringmodels", name, "--watch"],
        stderr=subprocess.DEVNULL,
    )
    try:
        run(
            [
                *cluster.kubectl_command,
                *("wait", "--for=condition=Ready", f"scoringmodel/{name}"),
                f"--timeout={READY_TIMEOUT_SECONDS}s",
            ],
            "waiting for the model",
        )
    except DemoError as err:
        raise DemoError(f"{err}\n{cluster.kubectl('describe', 'scoringmodel', name)}") from None
    finally:
        watch.terminate()
        watch.wait()
    print(f"✓ kubectl apply → Ready ({time.monotonic() - began:.1f} s)")
    return Scorer(cluster, name)


def prove(scorer: Scorer, request: Request) -> list[str]:
    """Check what must not work. Returns one sentence for each thing that did not hold."""
    wrong: list[str] = []
    for name, key in (("a wrong", "x" * 32), ("a missing", None)):
        status, _ = scorer.score(request, key)
        if status != 401:
            wrong.append(f"{name} API key was answered with {status} instead of 401")
    status, location = scorer.plain_http()
    if status != 308 or not location.startswith("https://"):
        wrong.append(f"plain HTTP was answered with {status} {location!r} instead of 308 to https")
    try:
        scorer.certificate, kept = "", scorer.certificate
        scorer.score(request, scorer.key)
        wrong.append("a client that does not trust the model's certificate was served")
    except ssl.SSLCertVerificationError:
        scorer.certificate = kept
    table = scorer.cluster.kubectl("get", "scoringmodels", scorer.name)
    row = table.splitlines()[-1].split()
    if "True" not in row or "Ready" not in row:
        wrong.append(f"kubectl get scoringmodels did not say Ready:\n{table}")
    return wrong
