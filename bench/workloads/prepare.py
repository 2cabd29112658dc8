"""Makes the models and the requests' contents: deterministic, kept in a cache folder, nothing downloaded.

The FAQ texts are those of examples/faq. ResNet-152 has random weights whose batch normalisation was fitted to the images
that are sent, and residual blocks that add little, so that activations have the sizes of a trained network's and a grey level
more in some pixel changes the answer as little as there.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import shutil
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

BENCH = Path(__file__).resolve().parent.parent
FAQ_DATA = BENCH.parent / "examples" / "faq" / "data"
MODELS = BENCH / ".models"
FAQ_CANDIDATES, FAQ_TREES = 182, 200
# Weight of the last normalisation of each residual block. With 1, as a network begins its training, 50 random blocks are a
# chaotic map: a grey level in one pixel of a thousand makes another class the best (measured: 0.5 of probability; with this 0.01).
RESIDUAL_WEIGHT = 0.1
WIDE_ROWS, WIDE_FEATURES = 1000, 100
LARGE_BYTES = 200 * 2**20
IMAGE_SIZE = (500, 375)


def prepare(name: str, say: Callable[[str], None]) -> Path:
    """The model folder of a workload, made on the first call.

    Args:
        name: `small`, `faq`, `wide-linear`, `wide-trees`, `large`, `resnet152`, `resnet18` or `digits`.
        say: for progress.
    """
    folder = MODELS / name
    stamp, recipe = folder / ".complete", _hash_recipe()
    if stamp.exists() and stamp.read_text() == recipe:
        return folder
    say(f"preparing the model {name} …")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if name.startswith("resnet"):
        _make_resnet(folder, name)
    else:
        makers = {
            "small": _make_small,
            "faq": _make_faq,
            "wide-linear": _make_wide_linear,
            "wide-trees": _make_wide_trees,
            "large": _make_large,
        }
        makers[name](folder)
    stamp.write_text(recipe)
    return folder


def _hash_recipe() -> str:
    """Changes with whatever makes the models, so that an old one is never measured as a new one."""
    sources = sorted((BENCH / "workloads").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


# -------------------------------------------------------------------------------------------------------------- rows


def iris_rows(count: int) -> np.ndarray:
    """Rows of iris, shape (count, 4)."""
    from sklearn.datasets import load_iris

    data: np.ndarray = load_iris().data
    rows: np.ndarray = data[np.random.default_rng(1).permutation(len(data))[:count]]
    return rows


def wide_rows(count: int) -> list[np.ndarray]:
    """Arrays of shape (1000, 100), float32."""
    rng = np.random.default_rng(2)
    return [rng.standard_normal((WIDE_ROWS, WIDE_FEATURES), np.float32) for _ in range(count)]


def _dump(estimator: Any, folder: Path) -> None:
    import joblib

    joblib.dump(estimator, folder / "model.joblib")


def _make_small(folder: Path) -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, labels = load_iris(return_X_y=True)
    _dump(LogisticRegression(max_iter=1000).fit(rows, labels), folder)


def _wide_training() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((5000, WIDE_FEATURES)).astype(np.float32)
    noise = rng.standard_normal(len(rows))
    score = rows[:, :10].sum(1) + rows[:, 10] * rows[:, 11] + noise
    return rows, (score > 0).astype(int)


def _make_wide_linear(folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    _dump(LogisticRegression(max_iter=1000).fit(*_wide_training()), folder)


def _make_wide_trees(folder: Path) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    _dump(HistGradientBoostingClassifier(random_state=0).fit(*_wide_training()), folder)


def _make_large(folder: Path) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(4)
    rows = rng.standard_normal((LARGE_BYTES // (8 * WIDE_FEATURES), WIDE_FEATURES))
    labels = (rows[:, 0] > 0).astype(int)
    _dump(KNeighborsClassifier(algorithm="brute").fit(rows, labels), folder)


# --------------------------------------------------------------------------------------------------------------- FAQ


def _read_table(name: str) -> list[dict[str, str]]:
    with (FAQ_DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _longest_duplicates() -> list[dict[str, str]]:
    return sorted(_read_table("duplicates.tsv"), key=lambda row: (-len(row["Text"]), row["Id"]))


def faq_questions(count: int) -> list[str]:
    """Differently worded questions as clients ask them, none of them among the known texts."""
    rows = _longest_duplicates()[FAQ_CANDIDATES:]
    return [row["Text"] for row in rows[:count]]


def _faq_candidates() -> tuple[list[str], list[tuple[int, int]]]:
    """The 182 known texts and their ids: all questions, then the longest duplicates as further ones."""
    answers = {row["Id"]: row["Text"] for row in _read_table("answers.tsv")}
    texts = [
        f"{q['Title']}. {q['Text']} {answers[q['AnswerId']][:100]}"
        for q in _read_table("questions.tsv")
    ]
    rows = _longest_duplicates()[: FAQ_CANDIDATES - len(texts)]
    texts += [f"{row['Text']}. {row['Text']}" for row in rows]
    return texts, [(1000 + i, 2000 + i) for i in range(len(texts))]


def _make_faq(folder: Path) -> None:
    import joblib
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion, make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    texts, keys = _faq_candidates()
    questions = _read_table("questions.tsv")
    place = {q["Id"]: i for i, q in enumerate(questions)}
    rng = np.random.default_rng(6)
    pairs: list[tuple[str, str]] = []
    labels: list[int] = []
    for row in _read_table("duplicates.tsv"):
        right = place[row["QuestionId"]]
        for candidate in (right, *rng.integers(0, len(questions), 3)):
            pairs.append((row["Text"], texts[candidate]))
            labels.append(int(candidate == right))
    union = FeatureUnion(
        [
            (
                name,
                make_pipeline(
                    FunctionTransformer(itemgetter((slice(None), column))),
                    TfidfVectorizer(sublinear_tf=True),
                ),
            )
            for column, name in enumerate(("text_x", "text_y"))
        ]
    )
    boosted = GradientBoostingClassifier(
        n_estimators=FAQ_TREES, max_depth=8, max_features="sqrt", random_state=0
    )
    pipeline = make_pipeline(union, boosted).fit(np.array(pairs, dtype=object), labels)
    joblib.dump({"pipeline": pipeline, "texts": texts, "keys": keys}, folder / "faq.joblib")
    shutil.copy(BENCH / "workloads" / "faq" / "score.py", folder / "score.py")


# ------------------------------------------------------------------------------------------------------------- images


def jpegs(count: int, size: tuple[int, int] = IMAGE_SIZE) -> list[bytes]:
    """JPEGs that look like something: smooth noise of several scales in colour.

    Args:
        count: how many.
        size: width and height in pixels.
    """
    from PIL import Image

    rng = np.random.default_rng(7)
    images = []
    for _ in range(count):
        layers = np.zeros((size[1], size[0], 3), np.float32)
        for side, strength in ((4, 110), (16, 60), (64, 25)):
            small = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
            layer = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.float32)
            layers += (layer - 128) * (strength / 128)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(layers + 128, 0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=88
        )
        images.append(buffer.getvalue())
    return images


def _make_resnet(folder: Path, architecture: str) -> None:
    import torch
    import yaml
    from safetensors.torch import save_file

    from workloads.network import PRESET, load_torchvision, preprocess

    torch.manual_seed(0)
    network = getattr(load_torchvision().models, architecture)(weights=None)
    rows = torch.stack([preprocess(data) for data in jpegs(8)])
    # Fits means and variances of every batch normalisation to these images; logits are then spread, so that the best
    # three are not decided by rounding.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
        last = getattr(module, "bn3", getattr(module, "bn2", None))
        if last is not None:
            torch.nn.init.constant_(last.weight, RESIDUAL_WEIGHT)
    with torch.no_grad():
        network.train()(rows)
        logits = network.eval()(rows)
        # Images differ in their logits by a spread of 6: the best of 1,000 classes then stands out, as after training.
        gain = 6.0 / (logits - logits.mean(0)).std(1).mean()
        network.fc.bias.sub_(logits.mean(0)).mul_(gain)
        network.fc.weight.mul_(gain)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "architecture.txt").write_text(architecture + "\n")
    config = {
        "architecture": f"torchvision.models.{architecture}",
        "preprocess": {"preset": PRESET},
        "topK": 3,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def cycle(items: list[Any], count: int) -> list[Any]:
    """The first `count` of the items repeated."""
    return list(itertools.islice(itertools.cycle(items), count))
