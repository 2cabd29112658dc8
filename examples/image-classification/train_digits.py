"""Train a small network on scikit-learn's digits and write its model folder and a few sample images.

The data ships with scikit-learn (1,797 handwritten digits of 8 x 8 pixels), so that right answers can be shown anywhere.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from network import DigitNet  # noqa: E402 -- the model folder's own module, found beside this script

SHOWN_SIDE = 64
MEAN, STD = 0.3, 0.38


def as_image(digit: np.ndarray) -> Image.Image:
    """An 8 x 8 digit of values 0..16 as a picture that a person can look at, 64 x 64."""
    pixels = np.rint(digit * (255 / 16)).astype(np.uint8)
    return Image.fromarray(pixels).resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.NEAREST)


def as_row(image: Image.Image) -> np.ndarray:
    """What the scorer makes of such a picture by model.yaml: (1, 8, 8), normalised."""
    small = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR), np.float32)
    return ((small / 255 - MEAN) / STD)[None]


def train(rows: torch.Tensor, labels: torch.Tensor, *, epochs: int) -> DigitNet:
    """Fit the network; prints the loss of each fourth epoch."""
    network = DigitNet()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1e-2, epochs=epochs, steps_per_epoch=-(-len(rows) // 64)
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(1, epochs + 1):
        network.train()
        total = 0.0
        for picked in torch.randperm(len(rows)).split(64):
            optimiser.zero_grad()
            loss = loss_of(network(rows[picked]), labels[picked])
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(picked)
        if epoch % 4 == 0:
            print(f"epoch {epoch:3d} of {epochs}: loss {total / len(rows):.3f}", flush=True)
    return network.eval()


def write_model(network: DigitNet, out: Path) -> None:
    """Write the model folder: weights, architecture, model.yaml."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out / "model.safetensors")
    shutil.copy(HERE / "network.py", out / "network.py")
    config = {
        "architecture": "network:DigitNet",
        "preprocess": {
            "resize": [8, 8],
            "crop": None,
            "channelOrder": "L",
            "mean": MEAN,
            "std": STD,
        },
        "labels": [str(digit) for digit in range(10)],
        "topK": 3,
    }
    (out / "model.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def main() -> None:
    """Train, report, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "model", help="model folder to write")
    parser.add_argument(
        "--samples", type=Path, help="folder to write one sample image per digit to"
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    # The network is too small for a second thread to help, and on a busy machine threads wait for one another.
    torch.set_num_threads(1)

    digits, labels = load_digits(return_X_y=True)
    images = [as_image(digit) for digit in digits.reshape(-1, 8, 8)]
    rows = np.stack([as_row(image) for image in images])
    kept, held = train_test_split(
        np.arange(len(rows)), test_size=0.25, stratify=labels, random_state=options.seed
    )
    network = train(
        torch.from_numpy(rows[kept]), torch.from_numpy(labels[kept]), epochs=options.epochs
    )
    with torch.no_grad():
        guesses = network(torch.from_numpy(rows[held])).argmax(1).numpy()
    right = float((guesses == labels[held]).mean())
    print(f"accuracy on {len(held)} held-out digits: {right:.1%}")
    write_model(network, options.out)
    print(f"model folder: {options.out}")
    if options.samples:
        options.samples.mkdir(parents=True, exist_ok=True)
        for digit in range(10):
            first = next(index for index in held if labels[index] == digit)
            images[first].save(options.samples / f"digit-{digit}.png")
        print(f"sample images: {options.samples}")


if __name__ == "__main__":
    main()
