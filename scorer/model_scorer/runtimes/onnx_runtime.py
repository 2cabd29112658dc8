"""ONNX behind the runtime protocol: onnxruntime, on the CPU or with its CUDA provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from model_scorer.errors import InvalidSpec, LoadFailed, NoGPU
from model_scorer.images import Preprocess
from model_scorer.runtimes.model_folder import ModelFolder
from model_scorer.runtimes.network import (
    NetworkRuntime,
    activate,
    count_cores,
    normalise,
    warm_up_by_forward,
)
from model_scorer.runtimes.network_config import NetworkConfig, read_network_config
from model_scorer.runtimes.protocol import Array, RuntimeInfo
from model_scorer.settings import Settings

SUFFIXES = (".onnx",)
# https://onnx.ai/onnx/intro/concepts.html#element-type, as onnxruntime names them.
_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


def load_in_worker(settings: Settings) -> bool:
    """A session's threads do not survive a fork."""
    return True


class OnnxEngine:
    """An onnxruntime session as an engine."""

    batch_rows: int | None = None

    def __init__(
        self, session: Any, preprocess: Preprocess | None, activation: str, dtype: Any
    ) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name
        self._preprocess = preprocess
        self._activation = activation
        self._dtype = dtype

    def forward(self, batch: Array) -> Array:
        """See `Engine.forward`."""
        if self._preprocess is not None and batch.dtype == np.uint8:
            batch = normalise(batch, self._preprocess)
        batch = batch.astype(self._dtype, copy=False)
        [scores] = self._session.run([self._output], {self._input: batch})
        return activate(scores, self._activation)

    def warm_up(self, row: Array, sizes: Sequence[int]) -> Array:
        """Run each batch size once."""
        return warm_up_by_forward(self.forward, row, sizes)

    def close(self) -> None:
        """Drop the session."""
        del self._session


def _open(path: Path, settings: Settings) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_cores(settings)
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if settings.device == "gpu":
        available = onnxruntime.get_available_providers()
        if "CUDAExecutionProvider" not in available:
            raise NoGPU(
                f"device is gpu, and onnxruntime {onnxruntime.__version__} offers {available} only",
                "use the scorer image with onnxruntime-gpu, on a node with a GPU",
            )
        providers = ["CUDAExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as err:
        raise LoadFailed(
            f"{path.name} is no ONNX model that onnxruntime {onnxruntime.__version__} can run: "
            f"{str(err).splitlines()[0][:300]}",
            "check the upload, and the opset that it was exported with",
        ) from err
    if settings.device == "gpu" and session.get_providers()[:1] != ["CUDAExecutionProvider"]:
        raise NoGPU(
            "device is gpu, and onnxruntime could not start on it",
            "check the node's driver and that the pod has a GPU in its limits",
        )
    return session


def load(folder: ModelFolder, settings: Settings) -> NetworkRuntime:
    """Load the folder's ONNX model; see `RuntimeModule.load`."""
    if settings.precision != "float32":
        raise InvalidSpec(
            f"precision {settings.precision} is not chosen at run time for ONNX",
            "convert the model to that precision when exporting it, and leave precision out",
        )
    config = read_network_config(folder)
    session = _open(folder.find_model_file(SUFFIXES), settings)
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise LoadFailed(
            f"the model has {len(inputs)} inputs: {', '.join(item.name for item in inputs)}",
            "models with one input are served as they are; give the others a score.py",
        )
    dtype = _DTYPES.get(inputs[0].type)
    if dtype is None:
        raise LoadFailed(
            f"the model's input is {inputs[0].type}, which is not numeric", "give it a score.py"
        )
    engine = OnnxEngine(session, config.preprocess, config.activation, dtype)
    info = RuntimeInfo(
        framework="onnx",
        version=onnxruntime.__version__,
        platform="onnx_onnxruntime",
        max_batch_rows=_fixed_batch(inputs[0].shape),
        prepare_threads=count_cores(settings) if config.preprocess else 0,
        media=("image/*",) if config.preprocess else (),
    )
    config = _with_shape(config, inputs[0].shape)
    return NetworkRuntime(engine, config, info, input_name=inputs[0].name, dtype=dtype)


def _fixed_batch(shape: list[Any]) -> int | None:
    return shape[0] if shape and isinstance(shape[0], int) else None


def _with_shape(config: NetworkConfig, shape: list[Any]) -> NetworkConfig:
    """The model's own row shape where `model.yaml` gives none and all its sides are fixed."""
    rows = shape[1:]
    if config.input_shape is not None or not all(isinstance(side, int) for side in rows):
        return config
    return replace(config, input_shape=tuple(rows))
