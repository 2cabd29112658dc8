"""The main job on one machine: from a trained model and ten lines of YAML to an answer over HTTPS.

Starts the local cluster, installs the operator into it, trains the FAQ example, applies its ScoringModel, waits for it,
asks it a question through the HTTPS ingress, and says what to try next. With `--once` it also proves what must not work
(wrong and missing keys, plain HTTP, another certificate) and ends; the exit code says whether everything held.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from local_cluster.up import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
FAQ = ROOT / "examples" / "faq"
QUESTION = "my click handlers made in a loop all print the same number, why?"
READY_TIMEOUT_SECONDS = 120


class DemoError(Exception):
    """A stage of the demo failed; the message says which and what to look at."""


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Print a stage when it begins and how long it took when it ends."""
    live = sys.stdout.isatty()
    print(f"▸ {title} …", end="" if live else "\n", flush=True)
    began = time.monotonic()
    yield
    took = f"{time.monotonic() - began:.1f} s"
    print(f"\r✓ {title} ({took})" + " " * 8 if live else f"✓ {title} ({took})", flush=True)


def run(command: list[str], what: str) -> str:
    """Run a command and return its output; a failure becomes a DemoError with the command's own words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise DemoError(f"{what} failed: {' '.join(command)}\n{words}")
    return done.stdout


class Scorer:
    """The deployed model as a client on this machine sees it: through the HTTPS ingress, by its own certificate."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        model = json.loads(cluster.kubectl("get", "scoringmodel", "faq", "-o", "json"))
        self.url: str = model["status"]["url"]
        self.host = self.url.removeprefix("https://").split(":")[0].split("/")[0]
        self.key = self._secret("faq-keys", "primary").decode()
        self.certificate = self._secret("faq-tls", "tls.crt").decode()

    def _secret(self, name: str, key: str) -> bytes:
        secret = json.loads(self.cluster.kubectl("get", "secret", name, "-o", "json"))
        return base64.b64decode(secret["data"][key])

    def score(self, question: str, key: str | None) -> tuple[int, Any]:
        """POST a question to /score over HTTPS, the certificate verified against the Secret's; (status, answer)."""
        context = ssl.create_default_context(cadata=self.certificate)
        raw = socket.create_connection(("127.0.0.1", self.cluster.https_port), timeout=30)
        connection = http.client.HTTPConnection(self.host)
        connection.sock = context.wrap_socket(raw, server_hostname=self.host)
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connection.request("POST", "/score", json.dumps({"input": question}), headers)
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


def train(out: Path) -> subprocess.Popen[str]:
    """Start the FAQ example's training beside everything else."""
    return subprocess.Popen(
        [sys.executable, str(FAQ / "train.py"), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def render_model(model: Path) -> str:
    """The example's ScoringModel with the one line changed that differs from a real cluster: where the model is."""
    manifest = yaml.safe_load((FAQ / "scoringmodel.yaml").read_text())
    manifest["spec"]["modelURI"] = model.as_uri()
    text: str = yaml.safe_dump(manifest, sort_keys=False)
    return text


def watch_model(cluster: LocalCluster) -> subprocess.Popen[bytes]:
    """Let kubectl itself show the model becoming ready."""
    return subprocess.Popen(
        [*cluster.kubectl_command, "get", "scoringmodels", "faq", "--watch"],
        stderr=subprocess.DEVNULL,
    )


def show_matches(answer: Any) -> None:
    """Print the five best matches as a table."""
    titles = dict(
        line.split("\t")[:3:2]
        for line in (FAQ / "data" / "questions.tsv").read_text().splitlines()[1:]
    )
    triples, timing = answer["result"]
    print(f"\n  {QUESTION}\n\n  {'score':>6}  {'question':<9} matched question")
    for question_id, _answer_id, probability in triples[:5]:
        title = titles.get(str(question_id), "")
        print(f"  {probability:6.3f}  {question_id!s:<9} {title[:84]}")
    print(f"\n  {timing}\n")


def prove(scorer: Scorer) -> list[str]:
    """Check what must not work. Returns one sentence for each thing that did not hold."""
    wrong: list[str] = []
    for name, key in (("a wrong", "x" * 32), ("a missing", None)):
        status, _ = scorer.score(QUESTION, key)
        if status != 401:
            wrong.append(f"{name} API key was answered with {status} instead of 401")
    status, location = scorer.plain_http()
    if status != 308 or not location.startswith("https://"):
        wrong.append(f"plain HTTP was answered with {status} {location!r} instead of 308 to https")
    try:
        scorer.certificate, kept = "", scorer.certificate
        scorer.score(QUESTION, scorer.key)
        wrong.append("a client that does not trust the model's certificate was served")
    except ssl.SSLCertVerificationError:
        scorer.certificate = kept
    table = scorer.cluster.kubectl("get", "scoringmodels", "faq")
    row = table.splitlines()[-1].split()
    if "True" not in row or "Ready" not in row:
        wrong.append(f"kubectl get scoringmodels did not say Ready:\n{table}")
    return wrong


def show_next(scorer: Scorer) -> None:
    """Say what to try next, as commands that work when pasted."""
    kubeconfig = scorer.cluster.kubeconfig
    port = scorer.cluster.https_port
    print(
        f"""Try next, in another terminal:

  export KUBECONFIG={kubeconfig}
  export PATH={Path(sys.executable).parent}:$PATH
  kubectl get scoringmodels -o wide
  kubectl describe scoringmodel faq
  kubectl get all,ingress,secret
  KEY=$(kubectl get secret faq-keys -o jsonpath='{{.data.primary}}' | base64 -d)
  kubectl get secret faq-tls -o jsonpath='{{.data.tls\\.crt}}' | base64 -d > faq.crt
  curl --cacert faq.crt --resolve {scorer.host}:{port}:127.0.0.1 {scorer.url}/score \\
    -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \\
    -d '{{"input": "how do i wait for two promises at once"}}'
"""
    )


def demonstrate(cluster: LocalCluster, training: subprocess.Popen[str], model: Path) -> Scorer:
    """Everything from a running cluster to a scored question."""
    with stage("Installing the operator (kubectl apply -k deploy/overlays/local)"):
        cluster.kubectl("apply", "-k", str(ROOT / "deploy" / "overlays" / "local"))
        cluster.kubectl(
            "wait", "--for=condition=Established", "crd/scoringmodels.mlscoring.io", "--timeout=30s"
        )
        cluster.kubectl(
            "rollout",
            "status",
            "deployment/scoring-operator",
            "-n",
            "scoring-system",
            "--timeout=60s",
        )
    with stage("Training the FAQ model"):
        output, _ = training.communicate()
        if training.returncode:
            raise DemoError(f"training failed:\n{output}")
    print("".join(f"    {line}\n" for line in output.splitlines()[-5:]), end="")

    manifest = cluster.state_dir / "faq.yaml"
    manifest.write_text(render_model(model))
    print(f"▸ kubectl apply -f {manifest}")
    print("".join(f"    {line}\n" for line in manifest.read_text().splitlines()), end="")
    began = time.monotonic()
    cluster.kubectl("apply", "-f", str(manifest))
    watch = watch_model(cluster)
    try:
        run(
            [
                *cluster.kubectl_command,
                *("wait", "--for=condition=Ready", "scoringmodel/faq"),
                f"--timeout={READY_TIMEOUT_SECONDS}s",
            ],
            "waiting for the model",
        )
    except DemoError as err:
        raise DemoError(f"{err}\n{cluster.kubectl('describe', 'scoringmodel', 'faq')}") from None
    finally:
        watch.terminate()
        watch.wait()
    print(f"✓ kubectl apply → Ready ({time.monotonic() - began:.1f} s)")
    scorer = Scorer(cluster)
    with stage(f"Asking over HTTPS: POST {scorer.url}/score"):
        status, answer = scorer.score(QUESTION, scorer.key)
    if status != 200:
        raise DemoError(f"the question was answered with {status}: {answer}")
    show_matches(answer)
    return scorer


def wait_for_interrupt() -> None:
    """Stay up until Ctrl-C or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


def main() -> int:
    """Parse the arguments, run the demo, stop everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="prove everything, then stop")
    parser.add_argument(
        "--state",
        type=Path,
        default=ROOT / ".local-cluster" / "demo",
        help="state folder of the cluster",
    )
    options = parser.parse_args()
    began = time.monotonic()
    os.chdir(ROOT)
    # Each demo starts from nothing: what is left of an earlier one would hide a step that no longer works.
    shutil.rmtree(options.state, ignore_errors=True)
    model = FAQ / "model"
    training = train(model)
    try:
        with stage("Starting the local cluster"):
            # The ports that the overlay for the local cluster has in its URLs, or the next free ones.
            cluster = LocalCluster(options.state, api_port=None, http_port=None, https_port=None)
            cluster.start()
        try:
            scorer = demonstrate(cluster, training, model)
            print(f"✓ From nothing to a scored question in {time.monotonic() - began:.1f} s\n")
            if options.once:
                wrong = prove(scorer)
                for sentence in wrong:
                    print(f"✗ {sentence}", file=sys.stderr)
                if not wrong:
                    print("✓ Keys, certificate, redirect and status are as they must be")
                return 1 if wrong else 0
            show_next(scorer)
            print("Ctrl-C stops everything.")
            wait_for_interrupt()
            return 0
        finally:
            with stage("Stopping the local cluster"):
                cluster.stop()
    except DemoError as err:
        print(f"\n✗ {err}\n  Logs: {options.state / 'logs'}", file=sys.stderr)
        return 1
    finally:
        training.kill()
        training.wait()


if __name__ == "__main__":
    sys.exit(main())
