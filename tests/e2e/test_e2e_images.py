"""Networks on the cluster: from `kubectl apply` to a classified picture, and what ends in a reason instead."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

# torch.jit is deprecated; its files are what users have.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NETWORK = """
from torch import nn


class MeanColour(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, pictures):
        return self.head(pictures.mean((2, 3)))
"""
CONFIG = {
    "architecture": "network:MeanColour",
    "preprocess": {"resize": [16, 16], "crop": None, "mean": 0, "std": 1},
    "labels": ["red", "green", "blue"],
}
# Each colour's own share of the picture decides.
WEIGHTS = {"head.weight": torch.eye(3) * 10, "head.bias": torch.zeros(3)}


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_model(
    folder: Path, weights: dict[str, torch.Tensor] | None = None, **config: Any
) -> Path:
    """A model folder of the network; keywords replace what its model.yaml says."""
    folder.mkdir(exist_ok=True)
    save_file(weights or WEIGHTS, folder / "model.safetensors")
    (folder / "network.py").write_text(NETWORK)
    (folder / "model.yaml").write_text(yaml.safe_dump(CONFIG | config))
    return folder


def test_a_network_goes_from_yaml_to_a_classified_picture(client: Any, models: Any) -> None:
    folder = write_model(models.folder / "colours")
    client.apply_model("colours", modelURI=folder.as_uri(), framework="pytorch")
    client.wait_ready("colours")

    for label, colour in (("red", (250, 10, 10)), ("blue", (10, 10, 250))):
        status, headers, body = client.request(
            "colours", body=picture(colour), content_type="image/png"
        )
        assert status == 200, body
        assert headers["content-type"].startswith("application/json")
        [answer] = json.loads(body)
        assert answer[0][0] == label
        assert answer[0][1] > 0.9

    status, _, body = client.request("colours", body=b"no picture", content_type="image/png")
    assert status == 400
    assert "no JPEG, PNG or WebP" in json.loads(body)["message"]


def truncate(folder: Path) -> None:
    write_model(folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def misname(folder: Path) -> None:
    write_model(folder, architecture="torchvision.models.resnet153")


def misfit(folder: Path) -> None:
    write_model(folder, weights={"head.weight": torch.eye(4), "tail.bias": torch.zeros(3)})


def mislabel(folder: Path) -> None:
    write_model(folder, labels=["red", "green"])


def trace_for_gpu(folder: Path) -> None:
    """TorchScript as tracing on a GPU writes it: with the device in its code."""
    folder.mkdir(exist_ok=True)

    class OnGpu(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows + torch.zeros(1, device="cuda")

    torch.jit.save(torch.jit.script(OnGpu()), folder / "model.pt")


@pytest.mark.parametrize(
    ("make", "reason", "words"),
    [
        (truncate, "LoadFailed", ["model.safetensors", "truncated"]),
        (misname, "InvalidSpec", ["resnet153"]),
        (misfit, "LoadFailed", ["missing: head.bias", "unknown: tail.bias", "[4, 4] instead of [3, 3]"]),
        (mislabel, "InvalidSpec", ["2 labels", "3 outputs"]),
        (trace_for_gpu, "LoadFailed", ["cuda", "device: gpu"]),
    ],
)  # fmt: skip
def test_a_network_that_cannot_serve_says_why(
    client: Any, tmp_path: Path, make: Callable[[Path], None], reason: str, words: list[str]
) -> None:
    make(tmp_path / "model")
    client.apply_model("m", modelURI=(tmp_path / "model").as_uri(), framework="pytorch")

    condition = client.wait_for_reason("m", reason)

    assert condition["status"] == "False"
    for word in words:
        assert word in condition["message"]
    row = client.kubectl("get", "scoringmodels", "m").splitlines()[1].split()
    assert row[1:5] == ["pytorch", "cpu", "False", reason]


def test_a_gpu_that_no_node_has_is_a_reason(client: Any, models: Any) -> None:
    folder = write_model(models.folder / "colours")
    client.apply_model("m", modelURI=folder.as_uri(), framework="pytorch", device="gpu")

    condition = client.wait_for_reason("m", "Unschedulable", "NoGPU")

    assert "nvidia.com/gpu" in condition["message"]
    pods = json.loads(client.kubectl("get", "pods", "-o", "json"))["items"]
    assert [pod["status"]["phase"] for pod in pods] == ["Pending"]


def test_a_gpu_pod_gets_one_gpu_and_says_when_it_does_not_work(
    client: Any, cluster: Any, models: Any
) -> None:
    if torch.version.cuda is not None:
        pytest.skip("this test describes the CPU build of torch")
    [node] = cluster.kubectl("get", "nodes", "-o", "name").split()
    give = (
        '{"status": {"capacity": {"nvidia.com/gpu": "1"}, "allocatable": {"nvidia.com/gpu": "1"}}}'
    )
    take = give.replace('"1"', "null")
    cluster.kubectl("patch", node, "--subresource=status", "--type=merge", "-p", give)
    try:
        folder = write_model(models.folder / "colours")
        client.apply_model("m", modelURI=folder.as_uri(), framework="pytorch", device="gpu")
        condition = client.wait_for_reason("m", "NoGPU")
    finally:
        cluster.kubectl("patch", node, "--subresource=status", "--type=merge", "-p", take)

    assert "CPU build of torch" in condition["message"]
    [pod] = json.loads(client.kubectl("get", "pods", "-o", "json"))["items"]
    [scorer] = pod["spec"]["containers"]
    assert scorer["resources"]["limits"]["nvidia.com/gpu"] == "1"
