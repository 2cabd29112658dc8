"""PyTorch files to modules, without running anything that a file brings along.

Three kinds of file: a `torch.export` program (`.pt2`), TorchScript, or weights (`.safetensors`, or a state dict loaded
with `weights_only`) for an architecture that `model.yaml` names.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from model_scorer.errors import InvalidSpec, LoadFailed, MissingDependency, UnsafePickle
from model_scorer.runtimes.model_folder import ModelFolder
from model_scorer.runtimes.pytorch_export_gate import check_export

SUFFIXES = (".pt2", ".pt", ".pth", ".safetensors", ".bin")
_SHOWN_KEYS = 5
_SCRIPT_FILES = re.compile(rb"\b(from_file|torch\.(save|load)|ops\.aten\.(save|load))\s*\(")


def load_module(
    folder: ModelFolder, device: torch.device, *, trust: bool = False
) -> tuple[torch.nn.Module, str]:
    """Load the folder's network.

    Args:
        folder: the model folder.
        device: where the network goes.
        trust: whoever deployed the model vouches for it (`trustPickle`).

    Returns:
        The module in evaluation mode on the device, and its platform: `pytorch_export`, `pytorch_torchscript` or
        `pytorch_weights`.

    Raises:
        LoadFailed: truncated, no PyTorch file, or it does not fit the architecture.
        InvalidSpec: weights without an architecture, or one that does not exist.
        UnsafePickle: a state dict that wants more than tensors.
        MissingDependency: the architecture's package is not installed.
    """
    path = folder.find_model_file(SUFFIXES)
    kind = _kind_of(path)
    if kind == "pytorch_export":
        module = _load_export(path, device, trust=trust)
    elif kind == "pytorch_torchscript":
        module = _load_torchscript(path, device, trust=trust)
    else:
        module = _load_weights(folder, path, device)
    return module, kind


def _kind_of(path: Path) -> str:
    if path.suffix == ".pt2":
        return "pytorch_export"
    if path.suffix == ".safetensors":
        return "pytorch_weights"
    if not zipfile.is_zipfile(path):
        if path.stat().st_size == 0:
            raise LoadFailed(f"{path.name} is empty", "upload the file again")
        return "pytorch_weights"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        return "pytorch_torchscript"
    if any(name.endswith(("archive_format", "models/model.json")) for name in names):
        return "pytorch_export"
    return "pytorch_weights"


def _load_export(path: Path, device: torch.device, *, trust: bool) -> torch.nn.Module:
    check_export(path, trust=trust)
    try:
        program = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        # Guards are Python source in the archive; the runtime checks the shapes of rows itself.
        module: torch.nn.Module = program.module(check_guards=False)
    except Exception as err:
        raise LoadFailed(
            f"{path.name} is no torch.export program that torch {torch.__version__} can read: "
            f"{_first_line(err)}",
            "it was exported on a GPU: set `device: gpu`, or export it again on the CPU"
            if device.type == "cpu" and "cuda" in str(err).lower()
            else "save it again with torch.export.save in this version, and check the upload",
        ) from err
    return module


def _load_torchscript(path: Path, device: torch.device, *, trust: bool) -> torch.nn.Module:
    with zipfile.ZipFile(path) as archive:
        sources = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    # TorchScript is read by torch's own parser and unpickler, which know no Python; these are its ways to files.
    if not trust and any(_SCRIPT_FILES.search(source) for source in sources):
        raise UnsafePickle(
            f"{path.name} reads or writes files when it is run; it was not loaded",
            "if you trust whoever made the file, set spec.trustPickle: true; otherwise save the network without it",
        )
    if device.type == "cpu" and any(b'torch.device("cuda' in source for source in sources):
        raise LoadFailed(
            f"{path.name} was traced on a GPU: its code names the device cuda",
            "set `device: gpu`, or trace it again on the CPU",
        )
    try:
        module: torch.nn.Module = torch.jit.load(str(path), map_location=device)
    except Exception as err:
        raise LoadFailed(
            f"{path.name} is no TorchScript file that torch {torch.__version__} can read: "
            f"{_first_line(err)}",
            "save it again with torch.jit.save, and check the upload",
        ) from err
    return module.eval()


def _load_weights(folder: ModelFolder, path: Path, device: torch.device) -> torch.nn.Module:
    name = folder.config.get("architecture")
    if not isinstance(name, str) or not name:
        raise InvalidSpec(
            f"{path.name} holds weights only, and model.yaml names no architecture",
            "write `architecture: torchvision.models.resnet152`, or `architecture: network:Net` for the class Net "
            "in network.py beside it",
        )
    arguments = folder.config.get("arguments") or {}
    if not isinstance(arguments, dict):
        raise InvalidSpec(
            f"model.yaml: arguments is {arguments!r}", "write `arguments: {num_classes: 10}`"
        )
    weights = _read_weights(path)
    factory = _find_architecture(folder, name)
    try:
        module = factory(**arguments)
    except Exception as err:
        raise InvalidSpec(
            f"architecture {name} cannot be made with {arguments}: {_first_line(err)}",
            "correct `arguments` in model.yaml",
        ) from err
    if not isinstance(module, torch.nn.Module):
        raise InvalidSpec(f"architecture {name} is no torch.nn.Module", "name a network")
    _fill(module, weights, path.name, name)
    return module.eval().to(device)


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        document = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as err:
        raise MissingDependency(
            f"{path.name} needs the module {err.name!r}", "use the PyTorch image of the scorer"
        ) from err
    except Exception as err:
        text = str(err)
        if "Weights only load failed" in text or "Unsupported global" in text:
            raise UnsafePickle(
                f"{path.name} holds more than tensors: {_unsupported(text)}",
                "save `model.state_dict()` alone, better as .safetensors",
            ) from err
        raise LoadFailed(
            f"{path.name} is truncated or no file of weights: {_first_line(err)}",
            "upload it again; sha256 in the spec tells a broken upload at once",
        ) from err
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            document = document[key]
    if not isinstance(document, dict):
        raise LoadFailed(
            f"{path.name} holds a {type(document).__name__}, not a state dict",
            "save `model.state_dict()`",
        )
    return {str(key).removeprefix("module."): value for key, value in document.items()}


def _find_architecture(folder: ModelFolder, name: str) -> Any:
    module_name, _, attribute = name.rpartition(":" if ":" in name else ".")
    if not module_name:
        raise InvalidSpec(
            f"model.yaml: architecture is {name!r}", "write package.module.name or file:Class"
        )
    own = folder.path / f"{module_name}.py"
    try:
        if own.is_file():
            if str(folder.path) not in sys.path:
                sys.path.insert(0, str(folder.path))
            module = importlib.import_module(module_name)
        elif module_name.split(".")[0] == "torchvision":
            from model_scorer.images.torchvision_ops import torchvision

            torchvision()
            module = importlib.import_module(module_name)
        else:
            raise InvalidSpec(
                f"model.yaml: architecture {name!r} is neither in torchvision nor in the model folder",
                f"put {module_name}.py beside the weights, or name one of torchvision.models",
            )
    except ModuleNotFoundError as err:
        raise MissingDependency(
            f"architecture {name} needs the module {err.name!r}, which this image lacks",
            "use an image that has it",
        ) from err
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = [key for key, item in vars(module).items() if inspect.isfunction(item)]
        close = [key for key in known if key[:3] == attribute[:3]]
        raise InvalidSpec(
            f"model.yaml: {module_name} has no architecture {attribute!r}",
            f"similar names: {', '.join(sorted(close)[:8])}" if close else "check the name",
        )
    return factory


def _fill(module: torch.nn.Module, weights: dict[str, Any], file: str, name: str) -> None:
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in weights]
    extra = [key for key in weights if key not in wanted]
    shapes = [
        f"{key} is {list(weights[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]
    # Counters that no forward pass reads; older files do not have them.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or extra or shapes:
        parts = [
            f"{label}: {', '.join(keys[:_SHOWN_KEYS])}{' …' if len(keys) > _SHOWN_KEYS else ''}"
            for label, keys in (("missing", missing), ("unknown", extra), ("shape", shapes))
            if keys
        ]
        raise LoadFailed(
            f"{file} does not fit {name}: {'; '.join(parts)}",
            "name the architecture and arguments that these weights were trained with",
        )
    module.load_state_dict(weights, strict=False)


def _first_line(err: Exception) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"{type(err).__name__}: {lines[0][:300]}" if lines else type(err).__name__


def _unsupported(text: str) -> str:
    for line in text.splitlines():
        if "Unsupported" in line or "GLOBAL" in line:
            return line.strip()[:300]
    return "it needs code to be unpickled"
