"""ONNX, Keras and TensorFlow models, each made here, loaded from its file and compared with itself."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image

from model_scorer.errors import InvalidInput, InvalidSpec, LoadFailed, NoGPU
from model_scorer.runtimes.model_folder import open_model_folder
from model_scorer.runtimes.network import activate
from model_scorer.runtimes.onnx_runtime import load as load_onnx
from model_scorer.runtimes.protocol import Blob, BlobsInput, Call, RowsInput
from model_scorer.settings import Settings

PICTURES = {
    "preprocess": {"resize": [4, 4], "crop": None, "mean": 0.0, "std": 1.0},
    "labels": ["a", "b", "c"],
}
WEIGHTS = np.random.default_rng(0).standard_normal((48, 3)).astype(np.float32)


def write_onnx(folder: Path, config: dict[str, Any], *, shape: list[Any]) -> None:
    """Flatten, then one matrix product."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [48, 3], WEIGHTS.reshape(-1))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    (folder / "model.yaml").write_text(yaml.safe_dump(config))


def picture(seed: int) -> tuple[bytes, Any]:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), pixels


def settings(framework: str, **values: Any) -> Settings:
    return Settings(framework=framework, **values)


def test_an_onnx_model_scores_pictures_as_its_graph_says(tmp_path: Path) -> None:
    write_onnx(tmp_path, PICTURES, shape=["n", 3, 4, 4])
    runtime = load_onnx(open_model_folder(tmp_path), settings("onnx"))
    runtime.warm_up()
    data, pixels = picture(1)

    [outcome] = runtime.execute([runtime.prepare(Call(BlobsInput([Blob(data)])))])

    logits = (pixels.transpose(2, 0, 1).reshape(1, -1) / 255).astype(np.float32) @ WEIGHTS
    assert np.allclose(outcome.tensors["scores"], activate(logits, "softmax"), atol=1e-5)  # type: ignore[union-attr]
    assert runtime.signature.inputs[0].name == "x"


def test_an_onnx_models_own_shape_is_what_rows_are_checked_against(tmp_path: Path) -> None:
    write_onnx(tmp_path, {}, shape=["n", 48])
    runtime = load_onnx(open_model_folder(tmp_path), settings("onnx"))
    [outcome] = runtime.execute([runtime.prepare(Call(RowsInput([[1.0] * 48])))])
    assert np.allclose(outcome.tensors["scores"], WEIGHTS.sum(0), atol=1e-4)  # type: ignore[union-attr]
    with pytest.raises(InvalidInput, match=r"\[48\]"):
        runtime.prepare(Call(RowsInput([[1.0] * 47])))


def test_what_onnx_cannot_serve_says_why(tmp_path: Path) -> None:
    write_onnx(tmp_path, {}, shape=["n", 48])
    with pytest.raises(NoGPU):
        load_onnx(open_model_folder(tmp_path), settings("onnx", device="gpu"))
    with pytest.raises(InvalidSpec, match="precision"):
        load_onnx(open_model_folder(tmp_path), settings("onnx", precision="bfloat16"))
    data = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(LoadFailed, match=r"model\.onnx"):
        load_onnx(open_model_folder(tmp_path), settings("onnx"))


# Keras and TensorFlow take over a process (backends, threads, logging): each check runs in one of its own.
KERAS = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
from pathlib import Path
import numpy as np, keras
from model_scorer.errors import LoadFailed, UnsafePickle
from model_scorer.runtimes.keras_runtime import load
from model_scorer.runtimes.model_folder import open_model_folder
from model_scorer.runtimes.protocol import Blob, BlobsInput, Call, RowsInput
from model_scorer.settings import Settings
import io
from PIL import Image

folder = Path(sys.argv[1])
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
model.save(folder / "model.keras")
(folder / "model.yaml").write_text(
    "preprocess: {resize: [4, 4], crop: null, mean: 0, std: 1, layout: NHWC}\\nlabels: [a, b, c]")
runtime = load(open_model_folder(folder), Settings(framework="keras"))
runtime.warm_up()
pixels = np.random.default_rng(1).integers(0, 255, (4, 4, 3), np.uint8)
data = io.BytesIO(); Image.fromarray(pixels).save(data, "PNG")
[outcome] = runtime.execute([runtime.prepare(Call(BlobsInput([Blob(data.getvalue())])))])
assert np.allclose(outcome.tensors["scores"], model.predict_on_batch(pixels[None] / 255.0), atol=1e-5)
assert outcome.display[0][0][0] in "abc"
unsafe = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
unsafe.save(folder / "model.keras")
legacy = Path(sys.argv[1]) / "legacy"
legacy.mkdir()
unsafe.save(legacy / "model.h5")
try:
    load(open_model_folder(legacy), Settings(framework="keras"))
except UnsafePickle as err:
    assert "model.h5" in err.message
else:
    raise AssertionError("a Lambda layer in .h5 was loaded")
for error, prepare in ((UnsafePickle, None), (LoadFailed, b"PK")):
    if prepare:
        (folder / "model.keras").write_bytes(prepare)
    try:
        load(open_model_folder(folder), Settings(framework="keras"))
    except error as err:
        assert "model.keras" in err.message and err.hint
    else:
        raise AssertionError(f"no {error.__name__}")
"""

TENSORFLOW = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from pathlib import Path
import numpy as np, tensorflow as tf
from model_scorer.errors import InvalidSpec, LoadFailed
from model_scorer.runtimes.tensorflow_runtime import load
from model_scorer.runtimes.model_folder import open_model_folder
from model_scorer.runtimes.protocol import Call, RowsInput
from model_scorer.settings import Settings

folder = Path(sys.argv[1])
class Linear(tf.Module):
    def __init__(self):
        self.w = tf.Variable(np.arange(8, dtype=np.float32).reshape(4, 2))
    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def __call__(self, x):
        return {"y": x @ self.w}
model = Linear()
tf.saved_model.save(model, str(folder / "saved"), signatures=model.__call__)
runtime = load(open_model_folder(folder), Settings(framework="tensorflow"))
runtime.warm_up()
[outcome] = runtime.execute([runtime.prepare(Call(RowsInput([[1, 2, 3, 4], [0, 0, 0, 1]])))])
assert outcome.tensors["scores"].tolist() == [[40.0, 50.0], [6.0, 7.0]], outcome
assert runtime.signature.inputs[0].name == "x"
(folder / "model.yaml").write_text("signature: nothing")
for error, word in ((InvalidSpec, "nothing"), (LoadFailed, "saved")):
    if error is LoadFailed:
        (folder / "saved" / "saved_model.pb").write_bytes(b"broken")
    try:
        load(open_model_folder(folder), Settings(framework="tensorflow"))
    except error as err:
        assert word in err.message and err.hint, err.message
    else:
        raise AssertionError(f"no {error.__name__}")
"""


@pytest.mark.parametrize("source", [KERAS, TENSORFLOW], ids=["keras", "tensorflow"])
def test_models_of_other_frameworks_score_as_the_framework_itself(
    source: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_activations_survive_large_outputs() -> None:
    large = np.array([[1000.0, 0.0, -1000.0]])
    assert np.allclose(activate(large, "softmax"), [[1, 0, 0]])
    assert np.allclose(activate(large, "sigmoid"), [[1, 0.5, 0]])
    assert activate(large, "none").dtype == np.float32
