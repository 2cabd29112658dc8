"""Networks on the cluster: from `kubectl apply` to a classified picture, and what ends in a reason instead."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def gpus(cluster: Any, *, resource: str = "nvidia.com/gpu", count: int = 1) -> Iterator[None]:
    """The node has GPUs for a while, and the taints that GPU nodes have."""
    [node] = cluster.kubectl("get", "nodes", "-o", "name").split()  # node/NAME
    taints = ["sku=gpu:NoSchedule", "nvidia.com/gpu=present:NoSchedule"]

    def set_amount(amount: str | None) -> None:
        amounts = {resource: amount}
        patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
        cluster.kubectl("patch", node, "--subresource=status", "--type=merge", "-p", patch)

    set_amount(str(count))
    try:
        cluster.kubectl("taint", *node.split("/"), *taints)
        yield
    finally:
        cluster.kubectl("taint", *node.split("/"), *(f"{taint}-" for taint in taints))
        set_amount(None)


def answering(models: Any, name: str, answer: str) -> str:
    """The URI of a score script, which needs no GPU to serve as if it had one."""
    source = f"def run(data):\n    return {answer!r}\n"
    return str(models.script(name, source))


def scorer_limits(client: Any) -> list[dict[str, str]]:
    pods = json.loads(client.kubectl("get", "pods", "-o", "json"))["items"]
    return [pod["spec"]["containers"][0]["resources"]["limits"] for pod in pods]


def test_a_gpu_that_no_node_has_is_a_reason(client: Any, models: Any) -> None:
    folder = write_model(models.folder / "colours")
    client.apply_model("m", modelURI=folder.as_uri(), framework="pytorch", device="gpu")

    condition = client.wait_for_reason("m", "NoGPU")

    assert "Insufficient nvidia.com/gpu" in condition["message"]
    assert "add GPU nodes" in condition["message"]
    pods = json.loads(client.kubectl("get", "pods", "-o", "json"))["items"]
    assert [pod["status"]["phase"] for pod in pods] == ["Pending"]
    row = client.kubectl("get", "scoringmodels", "m").splitlines()[1].split()
    assert row[1:5] == ["pytorch", "gpu", "False", "NoGPU"]


def test_a_gpu_pod_gets_one_gpu_and_says_when_it_does_not_work(
    client: Any, cluster: Any, models: Any
) -> None:
    if torch.version.cuda is not None:
        pytest.skip("this test describes the CPU build of torch")
    with gpus(cluster):
        folder = write_model(models.folder / "colours")
        client.apply_model("m", modelURI=folder.as_uri(), framework="pytorch", device="gpu")
        condition = client.wait_for_reason("m", "NoGPU")

    assert "CPU build of torch" in condition["message"]
    [limits] = scorer_limits(client)
    assert limits["nvidia.com/gpu"] == "1"


def test_a_slice_of_a_gpu_is_asked_for_by_its_name(client: Any, cluster: Any, models: Any) -> None:
    uri = answering(models, "sliced", "a slice")
    with gpus(cluster, resource="nvidia.com/mig-1g.10gb"):
        client.apply_model(
            "m",
            modelURI=uri,
            framework="python",
            device="gpu",
            gpu={"resourceName": "nvidia.com/mig-1g.10gb"},
        )
        client.wait_ready("m")
        [limits] = scorer_limits(client)
        assert json.loads(client.request("m", body=b"{}")[2]) == "a slice"

    assert limits["nvidia.com/mig-1g.10gb"] == "1"
    assert "nvidia.com/gpu" not in limits


def test_an_update_without_a_second_gpu_waits_and_says_so_or_takes_the_one_that_is_there(
    client: Any, cluster: Any, models: Any
) -> None:
    spec = {"framework": "python", "device": "gpu"}
    with gpus(cluster):
        client.apply_model("m", modelURI=answering(models, "old", "old"), **spec)
        client.wait_ready("m")
        new = answering(models, "new", "new")
        client.apply_model("m", modelURI=new, **spec)
        condition = client.wait_for_reason("m", "NoGPU")

        assert "Insufficient nvidia.com/gpu" in condition["message"]
        assert "spec.rollout.strategy to InPlace" in condition["message"]
        assert json.loads(client.request("m", body=b"{}")[2]) == "old"
        conditions = client.get("scoringmodel", "m")["status"]["conditions"]
        assert {c["type"]: c["status"] for c in conditions}["Available"] == "True"

        client.apply_model("m", modelURI=new, rollout={"strategy": "InPlace"}, **spec)
        client.wait_ready("m")
        assert json.loads(client.request("m", body=b"{}")[2]) == "new"
