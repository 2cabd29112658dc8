"""Models of registries, from `kubectl apply` to a scored request: the Hugging Face Hub, by a server that speaks its API, and
MLflow, by its own server (`make test-mlflow`)."""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

FILES = {
    "score.py": b"import pathlib\nlabels = pathlib.Path(__file__).parent / 'labels' / 'a b.txt'\n"
    b"def init(): pass\ndef run(data): return labels.read_text()\n",
    "labels/a b.txt": b"from a registry",
}


def load(name: str) -> ModuleType:
    """The servers of the fetcher's own tests."""
    path = Path(__file__).parents[1] / "model_scorer" / "fetch" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_for_e2e", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub() -> Iterator[Any]:
    module = load("test_fetch_from_hub")
    with module.running("127.0.0.1") as started:
        started.token = module.TOKEN
        yield started


def make_secret(client: Any, name: str, **values: str) -> None:
    literals = [f"--from-literal={key}={value}" for key, value in values.items()]
    client.kubectl("create", "secret", "generic", name, *literals)


def test_a_model_of_the_hub_is_served_and_its_token_is_told_nobody(client: Any, hub: Any) -> None:
    hub.commit(FILES, "v3")
    make_secret(client, "hub", HF_ENDPOINT=hub.url, HF_TOKEN=hub.token)
    storage = {"secretName": "hub"}
    client.apply_model("m", modelURI="hf://acme/faq@v3", framework="python", storage=storage)
    client.apply_model("lost", modelURI="hf://acme/faq@v4", framework="python", storage=storage)
    client.wait_ready("m")

    status, headers, body = client.request("m", body=b"{}")
    assert (status, json.loads(body)) == (200, "from a registry")
    assert headers["x-model-digest"].startswith("sha256:")
    client.wait_for_reason("lost", "ModelNotFound")
    told = client.kubectl("get", "scoringmodel,deployment,pod,event", "-o", "yaml")
    told += client.kubectl("logs", "deployment/m", "-c", "fetch")
    assert hub.token not in told


@pytest.fixture(scope="module")
def tracking() -> ModuleType:
    if not os.environ.get("TEST_MLFLOW"):
        pytest.skip("needs MLflow's server: make test-mlflow")
    return load("test_fetch_from_mlflow")


@pytest.fixture(scope="module")
def mlflow_server(tracking: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracking.serving(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.mark.filterwarnings("default")
def test_a_model_of_mlflow_is_served_by_its_alias(
    client: Any, mlflow_server: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    registry = MlflowClient(mlflow_server)
    run = registry.create_run(registry.create_experiment("faq")).info
    registry.log_artifacts(run.run_id, str(tmp_path), "model")
    registry.create_registered_model("faq")
    registry.create_model_version("faq", f"{run.artifact_uri}/model", run.run_id)
    registry.set_registered_model_alias("faq", "champion", "1")
    make_secret(client, "mlflow", MLFLOW_TRACKING_URI=mlflow_server)
    common = {"framework": "python", "storage": {"secretName": "mlflow"}}

    client.apply_model("alias", modelURI="models:/faq@champion", **common)
    client.apply_model("run", modelURI=f"runs:/{run.run_id}/model", **common)
    client.apply_model("lost", modelURI="models:/faq/7", **common)

    for name in ("alias", "run"):
        client.wait_ready(name)
        status, _, body = client.request(name, body=b"{}")
        assert (status, json.loads(body)) == (200, "from a registry")
    client.wait_for_reason("lost", "ModelNotFound")
