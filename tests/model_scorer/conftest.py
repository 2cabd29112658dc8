"""A scorer as a subprocess on free ports, and the small models that it serves."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60.0


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Scorer:
    """A running `serve`, and what a client needs to talk to it."""

    process: subprocess.Popen[bytes]
    log_path: Path
    termination_path: Path
    keys_dir: Path
    port: int = 0
    probe_port: int = 0
    key: str = "test-key-1"
    extra: dict[str, str] = field(default_factory=dict)

    def log(self) -> str:
        return self.log_path.read_text()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines()]

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | Any = None,
        headers: dict[str, str] | None = None,
        *,
        key: str | None = "",
        port: int | None = None,
    ) -> Reply:
        if body is not None and not isinstance(body, bytes | str):
            body = json.dumps(body)
        sent = {"Content-Type": "application/json"} if body is not None else {}
        if key is not None:
            sent["Authorization"] = f"Bearer {key or self.key}"
        sent.update(headers or {})
        client = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
        try:
            client.request(method, path, body, sent)
            answer = client.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            client.close()

    def post(self, path: str, body: Any, **options: Any) -> Reply:
        return self.request("POST", path, body, **options)

    def get(self, path: str, **options: Any) -> Reply:
        return self.request("GET", path, **options)

    def probe(self, path: str) -> Reply:
        return self.request("GET", path, port=self.probe_port, key=None)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def metric(self, name: str) -> float:
        text = self.probe("/metrics").body.decode()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith(name) and not line.startswith("#")
        )

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def wait_until(check: Callable[[], Any], *, seconds: float = START_SECONDS) -> Any:
    """Poll until a check gives something; the only way to see another process's state change."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not so within {seconds} s")


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture(scope="session")
def start_scorer(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Scorer]]:
    """Start `serve` for a model folder; keyword arguments become SCORER_ variables."""
    running: list[Scorer] = []

    def start(model_dir: Path, framework: str, *, wait: bool = True, **settings: Any) -> Scorer:
        folder = tmp_path_factory.mktemp("scorer")
        keys = folder / "keys"
        keys.mkdir()
        (keys / "primary").write_text("test-key-1\n")
        (keys / "secondary").write_text("test-key-2")
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SCORER_")}
        environ |= {
            "SCORER_MODEL_DIR": str(model_dir),
            "SCORER_FRAMEWORK": framework,
            "SCORER_ADDRESS": "127.0.0.1",
            "SCORER_PORT": "0",
            "SCORER_PROBE_PORT": "0",
            "SCORER_KEYS_DIR": str(keys),
            "SCORER_WORKERS": "2",
            "SCORER_DRAIN_SECONDS": "0",
            "SCORER_TERMINATION_LOG": str(folder / "termination"),
        }
        environ |= {
            f"SCORER_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in settings.items()
        }
        log_path = folder / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "model_scorer", "serve"],
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )
        scorer = Scorer(process, log_path, folder / "termination", keys)
        running.append(scorer)

        def ports() -> bool:
            found = re.search(r'"port": (\d+), "probe_port": (\d+)', scorer.log())
            if found:
                scorer.port, scorer.probe_port = int(found[1]), int(found[2])
            return bool(found) or process.poll() is not None

        wait_until(ports)
        if wait:

            def ready() -> bool:
                if process.poll() is not None:
                    raise AssertionError(f"the scorer ended:\n{scorer.log()[-3000:]}")
                return '"message": "ready"' in scorer.log()

            wait_until(ready)
        return scorer

    yield start
    for scorer in running:
        if scorer.process.poll() is None:
            scorer.process.kill()
            scorer.process.wait()


@pytest.fixture(scope="session")
def iris_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logistic regression on iris, fitted without column names."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("iris")
    features, classes = load_iris(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=500).fit(features, classes), folder / "model.joblib")
    return folder


@pytest.fixture(scope="session")
def make_script(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model folder with nothing but a score.py of this text."""

    def make(text: str, **files: str) -> Path:
        folder = tmp_path_factory.mktemp("script")
        (folder / "score.py").write_text(text)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(content)
        return folder

    return make
