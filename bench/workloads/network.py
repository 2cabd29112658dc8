"""ResNet-152 as one would write it for any server: Pillow, torchvision's preprocessing, eager PyTorch, the top three."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from workloads.application import image_bytes

PRESET = "ResNet152_Weights.IMAGENET1K_V2"
RESIZE, CROP = 232, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_torchvision() -> Any:
    """Import torchvision; its wheel's operators are for CUDA, beside a CPU build of torch they are only declared."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        vars(torchvision)["_declared_operators"] = library
    return torchvision


def load_network(folder: Path) -> tuple[torch.nn.Module, list[str]]:
    """The network in evaluation mode, and its labels."""
    models = load_torchvision().models
    architecture = (folder / "architecture.txt").read_text().strip()
    network = getattr(models, architecture)(weights=None)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval(), list(models.get_weight(PRESET).meta["categories"])


def preprocess(data: bytes) -> torch.Tensor:
    """Image bytes to a normalised float32 tensor of shape (3, 224, 224)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = RESIZE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - CROP) // 2, (image.height - CROP) // 2
    pixels = np.asarray(image.crop((left, top, left + CROP, top + CROP)), np.float32) / 255
    return torch.from_numpy(((pixels - MEAN) / STD).astype(np.float32).transpose(2, 0, 1).copy())


class NetworkApplication:
    """`{"input": {"image": "<base64>"}}` or a raw image to `[[label, probability], …]`, best first."""

    def __init__(self, folder: Path) -> None:
        self.network, self.labels = load_network(folder)

    def decode(self, document: Any) -> torch.Tensor:
        """A row of the network's input."""
        return preprocess(image_bytes(document))

    def score_many(self, payloads: Sequence[torch.Tensor]) -> list[Any]:
        """The three best labels of each image."""
        with torch.inference_mode():
            scores = self.network(torch.stack(list(payloads))).softmax(1)
        values, places = scores.topk(3, dim=1)
        return [
            [[self.labels[i], p] for i, p in zip(row, column, strict=True)]
            for row, column in zip(places.tolist(), values.tolist(), strict=True)
        ]
