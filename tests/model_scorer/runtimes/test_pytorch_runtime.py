"""PyTorch files of every kind, loaded, fused and scored; and what is said of those that cannot be."""

import inspect
import io
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from model_scorer.errors import (
    BadRequest,
    InvalidInput,
    InvalidSpec,
    LoadFailed,
    MissingDependency,
    NoGPU,
    RequestError,
    ScorerError,
    UnsafePickle,
)
from model_scorer.runtimes.model_folder import open_model_folder
from model_scorer.runtimes.protocol import (
    Blob,
    BlobsInput,
    Call,
    Prediction,
    RowsInput,
    TensorsInput,
)
from model_scorer.runtimes.pytorch_runtime import find_device, load
from model_scorer.settings import Settings

# torch.jit is deprecated; its files are what users have.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Net(nn.Module):
    """Mean colour, then a linear layer."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


# What a user would put beside the weights.
NETWORK = f"import torch\nfrom torch import nn\n\n{inspect.getsource(Net)}"

IMAGE_CONFIG = {
    "architecture": "network_under_test:Net",
    "preprocess": {"resize": 16, "crop": 16, "mean": [0.5] * 3, "std": [0.25] * 3},
    "labels": ["red", "green", "blue"],
    "topK": 2,
}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def folder(path: Path, config: Mapping[str, Any], **files: bytes | str) -> Path:
    for name, content in files.items():
        target = path / name.replace("__", ".")
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    if "architecture" in config:
        (path / "network_under_test.py").write_text(NETWORK)
    (path / "model.yaml").write_text(yaml.safe_dump(dict(config)))
    return path


def load_folder(path: Path, **settings: Any) -> Any:
    return load(open_model_folder(path), Settings(framework="pytorch", model_dir=path, **settings))


def picture(colour: tuple[int, int, int] = (200, 30, 30), side: int = 24) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def save(net: nn.Module, kind: str, path: Path) -> None:
    example = torch.zeros(2, 3, 16, 16)
    if kind == "export":
        batch = torch.export.Dim("batch", min=1, max=64)
        torch.export.save(
            torch.export.export(net, (example,), dynamic_shapes=({0: batch},)), path / "model.pt2"
        )
    elif kind == "torchscript":
        torch.jit.save(torch.jit.script(net), path / "model.pt")
    elif kind == "safetensors":
        save_file(net.state_dict(), path / "model.safetensors")
    else:
        torch.save(net.state_dict(), path / "model.pth")


def expected(net: nn.Module, pixel: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    row = (np.array(pixel) / 255 - 0.5) / 0.25
    rows = torch.tensor(
        np.broadcast_to(row[:, None, None], (3, 16, 16)).copy(), dtype=torch.float32
    )
    with torch.no_grad():
        scores: np.ndarray[Any, Any] = net(rows[None]).softmax(-1)[0].numpy()
    return scores


@pytest.mark.parametrize("kind", ["export", "torchscript", "safetensors", "pth"])
def test_every_kind_of_file_gives_the_networks_own_scores(
    kind: str, net: nn.Module, tmp_path: Path
) -> None:
    config = dict(IMAGE_CONFIG)
    if kind in ("export", "torchscript"):
        del config["architecture"]
    save(net, kind, folder(tmp_path, config))
    runtime = load_folder(tmp_path)
    runtime.warm_up()

    blobs = [Blob(picture((200, 30, 30))), Blob(picture((10, 250, 10)))]
    [outcome] = runtime.execute([runtime.prepare(Call(BlobsInput(blobs)))])

    scores = outcome.tensors["scores"]
    assert np.allclose(scores[0], expected(net, (200, 30, 30)), atol=1e-5)
    assert np.allclose(scores[1], expected(net, (10, 250, 10)), atol=1e-5)
    best = IMAGE_CONFIG["labels"][int(scores[0].argmax())]
    assert outcome.display[0][0] == [best, pytest.approx(float(scores[0].max()))]
    assert [len(shown) for shown in outcome.display] == [2, 2]


@pytest.fixture
def runtime(net: nn.Module, tmp_path: Path) -> Any:
    save(net, "safetensors", folder(tmp_path, IMAGE_CONFIG))
    made = load_folder(tmp_path)
    made.warm_up()
    return made


def test_calls_of_one_group_are_scored_together_and_cut_apart_again(runtime: Any) -> None:
    calls = [Call(BlobsInput([Blob(picture((i * 20, 5, 5))) for i in range(n)])) for n in (1, 3, 2)]
    prepared = [runtime.prepare(call) for call in calls]
    assert len({item.group for item in prepared}) == 1
    together = runtime.execute(prepared)
    alone = [runtime.execute([item])[0] for item in prepared]
    for one, other in zip(together, alone, strict=True):
        assert np.allclose(one.tensors["scores"], other.tensors["scores"], atol=1e-6)


def test_a_bad_image_gets_its_error_and_the_others_their_answers(runtime: Any) -> None:
    blobs = [Blob(picture()), Blob(b"no image"), Blob(picture())]
    [outcome] = runtime.execute([runtime.prepare(Call(BlobsInput(blobs)))])

    assert isinstance(outcome, Prediction)
    assert outcome.display is not None
    assert "no JPEG" in outcome.display[1]["error"]
    assert outcome.display[0] == outcome.display[2]
    with pytest.raises(BadRequest):
        runtime.prepare(Call(BlobsInput([Blob(b"no image")])))


def test_numbers_are_taken_in_the_networks_own_shape(runtime: Any, net: nn.Module) -> None:
    rows = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = net(torch.from_numpy(rows)).softmax(-1).numpy()
    prepared = runtime.prepare(Call(TensorsInput({"input": rows})))
    [outcome] = runtime.execute([prepared])
    assert np.allclose(outcome.tensors["scores"], wanted, atol=1e-5)
    assert prepared.group != runtime.prepare(Call(BlobsInput([Blob(picture())]))).group
    with pytest.raises(InvalidInput, match=r"shape \[3, 16, 16\]"):
        runtime.prepare(Call(RowsInput([[1.0, 2.0]])))
    with pytest.raises(InvalidInput, match="shape"):
        runtime.prepare(Call(RowsInput([[1.0, 2.0], [1.0]])))
    assert wanted.shape == (2, 3)


def test_a_network_of_numbers_answers_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(4, 2)
    example = torch.zeros(2, 4)
    torch.jit.save(
        torch.jit.trace(linear, example), folder(tmp_path, {"input": {"shape": [4]}}) / "model.pt"
    )
    runtime = load_folder(tmp_path)
    runtime.warm_up()

    [outcome] = runtime.execute([runtime.prepare(Call(RowsInput([[1, 2, 3, 4]])))])

    with torch.no_grad():
        wanted = linear(torch.tensor([[1.0, 2, 3, 4]])).numpy()
    assert np.allclose(outcome.tensors["scores"], wanted, atol=1e-6)
    assert outcome.display is None


def test_bfloat16_agrees_with_float32_on_the_best_class(net: nn.Module, tmp_path: Path) -> None:
    save(net, "safetensors", folder(tmp_path, IMAGE_CONFIG))
    answers = []
    for precision in ("float32", "bfloat16"):
        runtime = load_folder(tmp_path, precision=precision)
        runtime.warm_up()
        call = Call(BlobsInput([Blob(picture((250, 0, 0))), Blob(picture((0, 0, 250)))]))
        answers.append(runtime.execute([runtime.prepare(call)])[0].tensors["scores"])
    assert (answers[0].argmax(1) == answers[1].argmax(1)).all()
    assert np.abs(answers[0] - answers[1]).max() < 0.05


def test_batches_run_side_by_side_give_the_same_answers(runtime: Any) -> None:
    prepared = runtime.prepare(Call(BlobsInput([Blob(picture())])))
    [alone] = runtime.execute([prepared])
    seen: list[Any] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(runtime.execute([prepared] * 3)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 12
    assert all(np.allclose(o.tensors["scores"], alone.tensors["scores"], atol=1e-6) for o in seen)


def wrong(path: Path, net: nn.Module, case: str) -> tuple[type[ScorerError], str]:
    """Make a model folder with one thing wrong; what must be raised, and a word of its message."""
    config = dict(IMAGE_CONFIG)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    weights = buffer.getvalue()
    if case == "truncated":
        folder(path, config, model__pth=weights[: len(weights) // 2])
        return LoadFailed, "model.pth"
    if case == "truncated-safetensors":
        save(net, "safetensors", path)
        data = (path / "model.safetensors").read_bytes()
        folder(path, config, model__safetensors=data[: len(data) // 2])
        return LoadFailed, "model.safetensors"
    if case == "empty":
        folder(path, config, model__pt=b"")
        return LoadFailed, "empty"
    if case == "no-architecture":
        del config["architecture"]
        folder(path, config, model__pth=weights)
        return InvalidSpec, "architecture"
    if case == "unknown-architecture":
        folder(path, config | {"architecture": "torchvision.models.resnet153"}, model__pth=weights)
        return InvalidSpec, "resnet153"
    if case == "unknown-package":
        folder(path, config | {"architecture": "os.system"}, model__pth=weights)
        return InvalidSpec, "os.system"
    if case == "wrong-arguments":
        folder(path, config | {"arguments": {"depth": 3}}, model__pth=weights)
        return InvalidSpec, "depth"
    if case == "other-shape":
        folder(path, config | {"arguments": {"classes": 4}}, model__pth=weights)
        return LoadFailed, r"head\.weight is \[3, 4\] instead of \[4, 4\]"
    if case == "other-keys":
        folder(path, config | {"architecture": "torchvision.models.resnet18"}, model__pth=weights)
        return LoadFailed, r"missing: conv1\.weight"
    if case == "missing-module":
        folder(path, config, model__pth=weights)
        (path / "network_that_imports.py").write_text("import a_module_nobody_has")
        folder(path, config | {"architecture": "network_that_imports:Net"}, model__pth=weights)
        return MissingDependency, "a_module_nobody_has"
    if case == "pickle":
        torch.save(net, path / "model.pth")
        folder(path, config)
        return UnsafePickle, "more than tensors"
    if case == "labels":
        folder(path, config | {"labels": ["a", "b"]}, model__pth=weights)
        return InvalidSpec, "2 labels for a network with 3 outputs"
    raise AssertionError(case)


@pytest.mark.parametrize(
    "case",
    [
        *("truncated", "truncated-safetensors", "empty", "no-architecture", "unknown-architecture"),
        *("unknown-package", "wrong-arguments", "other-shape", "other-keys", "missing-module"),
        *("pickle", "labels"),
    ],
)
def test_what_cannot_be_loaded_says_why(case: str, net: nn.Module, tmp_path: Path) -> None:
    error, word = wrong(tmp_path, net, case)
    with pytest.raises(error, match=word) as raised:
        load_folder(tmp_path).warm_up()
    assert raised.value.hint


def test_a_program_exported_on_a_gpu_names_both_ways_out(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise RuntimeError("Attempting to deserialize object on a CUDA device but there is none")

    save(net, "export", folder(tmp_path, dict(IMAGE_CONFIG)))
    monkeypatch.setattr(torch.export, "load", refuse)
    with pytest.raises(LoadFailed, match="CUDA device") as raised:
        load_folder(tmp_path)
    assert "device: gpu" in raised.value.hint


def test_torchscript_that_would_write_files_is_refused(tmp_path: Path) -> None:
    class Writer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file("weights", shared=True, size=4)

    torch.jit.save(torch.jit.script(Writer()), folder(tmp_path, {}) / "model.pt")
    with pytest.raises(UnsafePickle, match="files"):
        load_folder(tmp_path)
    load_folder(tmp_path, trust_pickle=True)


def test_no_gpu_is_a_reason_and_nothing_falls_back(net: nn.Module, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.fail("this test describes machines without a GPU")
    save(net, "safetensors", folder(tmp_path, IMAGE_CONFIG))
    with pytest.raises(NoGPU):
        load_folder(tmp_path, device="gpu")


def test_a_gpu_that_cannot_be_used_is_a_reason_with_its_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def say_and_refuse() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old", UserWarning, stacklevel=1)
        return False

    settings = Settings(framework="pytorch", device="gpu")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", say_and_refuse)
    with pytest.raises(NoGPU, match="driver on your system is too old"):
        find_device(settings)

    # The driver is there, and what runs on it is not: here, since this build of torch has no CUDA at all.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(NoGPU, match=r"cannot use one: .*CUDA"):
        find_device(settings)


def test_numbers_that_may_not_be_written_to_are_copied(runtime: Any) -> None:
    body = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32).tobytes()
    rows = np.frombuffer(body, np.float32).reshape(1, 3, 16, 16)
    # A warning of torch's, which would be an error here, is what this would otherwise end in.
    [outcome] = runtime.execute([runtime.prepare(Call(TensorsInput({"input": rows})))])
    assert outcome.tensors["scores"].shape == (1, 3)


def test_float16_is_refused_on_a_cpu(net: nn.Module, tmp_path: Path) -> None:
    save(net, "safetensors", folder(tmp_path, IMAGE_CONFIG))
    with pytest.raises(InvalidSpec, match="float16"):
        load_folder(tmp_path, precision="float16")


def test_a_network_without_preprocess_takes_no_images(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(4, 2)), folder(tmp_path, {}) / "model.pt")
    with pytest.raises(RequestError, match="no images"):
        load_folder(tmp_path).prepare(Call(BlobsInput([Blob(picture())])))


class Deep(nn.Module):
    """Enough convolutions that oneDNN finds something to fuse."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1)]
        for _ in range(3):
            layers += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


def load_slow(
    path: Path, monkeypatch: pytest.MonkeyPatch, config: Mapping[str, Any], **settings: Any
) -> tuple[Any, nn.Module]:
    """A runtime that takes its network for a slow one, and the network."""
    monkeypatch.setattr("model_scorer.runtimes.pytorch_engine._SLOW_ROW_SECONDS", 0.0)
    torch.manual_seed(0)
    deep = Deep().eval()
    folder(path, config)
    # TorchScript, as every other kind of file, is compiled anew.
    torch.jit.save(torch.jit.trace(deep, torch.zeros(2, 3, 16, 16)), path / "model.pt")
    runtime = load_folder(path, workers=4, **settings)
    runtime.warm_up()
    return runtime, deep


SLOW_CONFIG = {key: value for key, value in IMAGE_CONFIG.items() if key != "architecture"}


def test_a_slow_network_is_compiled_for_single_rows_and_answers_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, deep = load_slow(tmp_path, monkeypatch, SLOW_CONFIG)
    assert runtime.info.max_batch_rows == 1

    pixels = [(i * 40, 90, 200 - i * 30) for i in range(6)]
    wanted = [expected(deep, pixel) for pixel in pixels]
    together = Call(BlobsInput([Blob(picture(pixel)) for pixel in pixels]))
    [outcome] = runtime.execute([runtime.prepare(together)])
    assert np.allclose(outcome.tensors["scores"], wanted, atol=1e-5)

    # Side by side: one gets all cores, the others what is left, none another's scores.
    answers: dict[int, Any] = {}

    def ask(place: int) -> None:
        call = Call(BlobsInput([Blob(picture(pixels[place]))]))
        for _ in range(5):
            answers[place] = runtime.execute([runtime.prepare(call)])[0].tensors["scores"][0]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.allclose([answers[place] for place in range(6)], wanted, atol=1e-5)

    rows = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    [outcome] = runtime.execute([runtime.prepare(Call(TensorsInput({"input": rows})))])
    with torch.no_grad():
        assert np.allclose(
            outcome.tensors["scores"], deep(torch.from_numpy(rows)).softmax(-1).numpy(), atol=1e-5
        )
    runtime.close()


def test_images_of_any_size_are_not_compiled_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = SLOW_CONFIG | {"preprocess": {"resize": None, "crop": None}}
    runtime, _ = load_slow(tmp_path, monkeypatch, loose)
    assert runtime.info.max_batch_rows == 4
    for side in (16, 20, 31):
        [outcome] = runtime.execute([runtime.prepare(Call(BlobsInput([Blob(picture(side=side))])))])
        assert outcome.tensors["scores"].shape == (1, 3)


def test_a_compiled_network_that_answers_otherwise_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(core: nn.Module, rows: torch.Tensor) -> Any:
        return lambda batch: core(batch) + 0.5

    monkeypatch.setattr("model_scorer.runtimes.pytorch_engine._trace", spoil)
    runtime, deep = load_slow(tmp_path, monkeypatch, SLOW_CONFIG)
    assert runtime.info.max_batch_rows == 4
    [outcome] = runtime.execute([runtime.prepare(Call(BlobsInput([Blob(picture())])))])
    assert np.allclose(outcome.tensors["scores"][0], expected(deep, (200, 30, 30)), atol=1e-5)
