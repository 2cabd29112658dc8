"""What `model.yaml` says about a neural network: labels, activation, input shape, preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model_scorer.errors import InvalidSpec
from model_scorer.images import Preprocess, parse_preprocess
from model_scorer.runtimes.model_folder import ModelFolder

_LABEL_FILES = ("labels.txt", "synset.txt")
ACTIVATIONS = ("softmax", "sigmoid", "none")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """How a network is fed and how its answer is shown.

    Attributes:
        preprocess: how images become rows; None: the network takes numbers only.
        input_shape: shape of one row without the batch axis, or None when only the network knows.
        labels: a name for each output, or None.
        top_k: labels shown for each row, best first.
        activation: `softmax`, `sigmoid` or `none`: what makes scores of the network's outputs.
    """

    preprocess: Preprocess | None = None
    input_shape: tuple[int, ...] | None = None
    labels: tuple[str, ...] | None = None
    top_k: int = 3
    activation: str = "none"

    @property
    def classifies(self) -> bool:
        """Whether the answer is shown as the best labels instead of the bare numbers."""
        return self.labels is not None or self.preprocess is not None


def read_network_config(folder: ModelFolder) -> NetworkConfig:
    """Read a network's part of `model.yaml`, and `labels.txt` beside it.

    Keys: `preprocess` (see `model_scorer.images.preprocess`), `input: {shape: [3, 224, 224]}`, `labels` (a list, or the
    name of a file with one label a line), `topK`, `activation`. A classifier's activation is softmax unless it says
    otherwise.

    Raises:
        InvalidSpec: a wrong value; the message names the key.
    """
    config = folder.config
    preprocess, preset_labels = None, None
    if config.get("preprocess") is not None:
        if not isinstance(config["preprocess"], dict):
            raise InvalidSpec(
                "model.yaml: preprocess must be a mapping", "write `preprocess: {resize: 256, …}`"
            )
        preprocess, preset_labels = parse_preprocess(config["preprocess"])
    labels = _labels(folder, preset_labels)
    classifies = labels is not None or preprocess is not None
    activation = config.get("activation", "softmax" if classifies else "none")
    if activation not in ACTIVATIONS:
        raise InvalidSpec(
            f"model.yaml: activation is {activation!r}", f"use one of {', '.join(ACTIVATIONS)}"
        )
    top_k = config.get("topK", 3)
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise InvalidSpec(
            f"model.yaml: topK is {top_k!r}", "set topK to the number of labels to show, 3 say"
        )
    shape = _shape(config.get("input"))
    if shape is None and preprocess is not None and preprocess.size is not None:
        sides = preprocess.size
        channels = (preprocess.channels,)
        shape = channels + sides if preprocess.layout == "NCHW" else sides + channels
    return NetworkConfig(preprocess, shape, labels, top_k, activation)


def _shape(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    shape = value.get("shape") if isinstance(value, dict) else None
    if (
        not isinstance(shape, list)
        or not shape
        or not all(isinstance(side, int) and side > 0 for side in shape)
    ):
        raise InvalidSpec(
            f"model.yaml: input is {value!r}",
            "write `input: {shape: [3, 224, 224]}`, the shape of one row without the batch axis",
        )
    return tuple(shape)


def _labels(folder: ModelFolder, preset: list[str] | None) -> tuple[str, ...] | None:
    named = folder.config.get("labels")
    if isinstance(named, list):
        return tuple(str(label) for label in named)
    if named is not None:
        path = (folder.path / str(named)).resolve()
        if not path.is_relative_to(folder.path.resolve()) or not path.is_file():
            raise InvalidSpec(
                f"model.yaml: labels names {named!r}, which is not in the model folder",
                "put the file beside the model, one label a line",
            )
        return _read_labels(path.read_text(encoding="utf-8"))
    for name in _LABEL_FILES:
        if (folder.path / name).is_file():
            return _read_labels((folder.path / name).read_text(encoding="utf-8"))
    return tuple(preset) if preset is not None else None


def _read_labels(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def check_labels(config: NetworkConfig, outputs: int) -> None:
    """Compare the number of labels with the number of the network's outputs.

    Raises:
        InvalidSpec: they differ.
    """
    if config.labels is not None and len(config.labels) != outputs:
        raise InvalidSpec(
            f"{len(config.labels)} labels for a network with {outputs} outputs",
            "labels.txt needs one line for each output, in the network's order",
        )
