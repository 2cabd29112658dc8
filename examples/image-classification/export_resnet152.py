"""Write the model folder of ResNet-152: torchvision's ImageNet weights, or random ones when they cannot be downloaded."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
PRESET = "ResNet152_Weights.IMAGENET1K_V2"


def load_torchvision() -> Any:
    """Import torchvision, also beside a CPU build of torch, whose operators its wheel does not bring."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def read_weights(*, random: bool) -> tuple[dict[str, torch.Tensor], str]:
    """The state dict, and where it is from."""
    models = load_torchvision().models
    weights = models.get_weight(PRESET)
    if not random:
        try:
            return weights.get_state_dict(progress=True), f"{PRESET}, downloaded from {weights.url}"
        except OSError as err:
            warnings.warn(
                f"the ImageNet weights cannot be downloaded ({err}): random weights stand in, "
                "and the categories will mean nothing",
                stacklevel=2,
            )
    torch.manual_seed(0)
    return models.resnet152(weights=None).state_dict(), "random (the categories mean nothing)"


def main() -> None:
    """Write the folder and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "model-resnet152")
    parser.add_argument("--random", action="store_true", help="do not try to download the weights")
    options = parser.parse_args()
    state, origin = read_weights(random=options.random)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.contiguous() for key, value in state.items()}, options.out / "model.safetensors"
    )
    config = {
        "architecture": "torchvision.models.resnet152",
        # Brings resize, crop, normalisation and ImageNet's 1,000 labels along.
        "preprocess": {"preset": PRESET},
        "topK": 3,
    }
    (options.out / "model.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    size = (options.out / "model.safetensors").stat().st_size / 2**20
    print(f"model folder: {options.out} ({size:.0f} MiB)\nweights: {origin}")


if __name__ == "__main__":
    main()
