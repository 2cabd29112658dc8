"""MLflow's registry and runs, against its own server; runs when TEST_MLFLOW holds the path of the `mlflow` command."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from model_scorer.errors import ModelNotFound, ModelUnreachable

FILES = {"MLmodel": b"flavors: {}\n", "model.pkl": os.urandom(300_000), "data/a b.txt": b"x"}

pytestmark = pytest.mark.filterwarnings("default")  # stages are deprecated, and still in use


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """MLflow's server, with its database and artifacts in a folder."""
    port = free_port()
    command = [os.environ["TEST_MLFLOW"], "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "startup complete" in line.lower() or re.search(r"running on http", line, re.I):
                break
        else:
            pytest.fail(f"mlflow ended before it listened: {said}")
        yield f"http://127.0.0.1:{port}"
        os.killpg(process.pid, 15)
        process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture(scope="module")
def run(server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a model, registered twice: version 1 is old, version 2 has the alias and a stage."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    client = MlflowClient(server)
    folder = tmp_path_factory.mktemp("model")
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (tmp_path_factory.getbasetemp() / "old.txt").write_bytes(b"old")
    experiment = client.create_experiment("faq")
    old = client.create_run(experiment).info.run_id
    client.log_artifact(old, str(tmp_path_factory.getbasetemp() / "old.txt"), "model")
    new = client.create_run(experiment).info.run_id
    client.log_artifacts(new, str(folder), "model")
    client.create_registered_model("faq")
    for run_id in (old, new):
        source = client.get_run(run_id).info.artifact_uri + "/model"
        client.create_model_version("faq", source, run_id)
    client.set_registered_model_alias("faq", "champion", "2")
    client.transition_model_version_stage("faq", "2", "Production")
    return str(new)


@pytest.fixture
def fetch(server: str, run: str, fetching: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(server)
    yield fetching
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(
    "uri", ["models:/faq/2", "models:/faq@champion", "models:/faq/Production", "models:/faq/latest"]
)
def test_a_version_an_alias_and_a_stage_are_fetched(uri: str, fetch: Any) -> None:
    fetched = fetch(uri)
    assert fetch.files == FILES
    assert fetched.size_bytes == sum(map(len, FILES.values()))


def test_an_older_version_is_fetched(fetch: Any) -> None:
    fetch("models:/faq/1")
    assert fetch.files == {"old.txt": b"old"}


def test_a_runs_artifacts_are_fetched(run: str, fetch: Any) -> None:
    fetch(f"runs:/{run}/model")
    assert fetch.files == FILES


@pytest.mark.parametrize("uri", ["models:/faq/2/data", "models:/faq@champion/data"])
def test_a_folder_of_a_version_is_fetched(uri: str, fetch: Any) -> None:
    fetch(uri)
    assert fetch.files == {"a b.txt": b"x"}


@pytest.mark.parametrize(
    "uri",
    ["models:/faq/9", "models:/rose/1", "models:/faq@loser", "runs:/0123456789abcdef/model"],
)
def test_what_the_registry_does_not_have_is_not_found(uri: str, fetch: Any) -> None:
    with pytest.raises(ModelNotFound, match=re.escape(uri)):
        fetch(uri)
    fetch.assert_empty()


def test_a_path_that_a_run_does_not_have_is_not_found(run: str, fetch: Any) -> None:
    with pytest.raises(ModelNotFound):
        fetch(f"runs:/{run}/nothing")
    fetch.assert_empty()


def test_a_registry_that_is_down_is_unreachable(
    fetching: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(url)
    with pytest.raises(ModelUnreachable):
        fetching("models:/faq/1")
    mlflow.set_tracking_uri(None)
