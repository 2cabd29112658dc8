"""TensorFlow behind the runtime protocol: a SavedModel's serving signature."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

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
from model_scorer.runtimes.network_config import read_network_config
from model_scorer.runtimes.protocol import Array, RuntimeInfo
from model_scorer.settings import Settings

_MARKERS = ("saved_model.pb", "saved_model.pbtxt")


def load_in_worker(settings: Settings) -> bool:
    """TensorFlow's threads do not survive a fork."""
    return True


def _import_tensorflow() -> Any:
    # TensorFlow prints its build flags to stderr, which is where our JSON log goes.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    return tensorflow


def _limit_threads(tensorflow: Any, cores: int) -> None:
    """As many threads as the quota has cores: TensorFlow itself would count those of the node."""
    threading = tensorflow.config.threading
    # They can be set once in a process, before anything has run.
    with contextlib.suppress(RuntimeError):
        threading.set_intra_op_parallelism_threads(cores)
        threading.set_inter_op_parallelism_threads(cores)


class TensorflowEngine:
    """A SavedModel's signature as an engine."""

    batch_rows: int | None = None

    def __init__(
        self,
        tensorflow: Any,
        model: Any,
        function: Any,
        input_name: str,
        preprocess: Preprocess | None,
        activation: str,
    ) -> None:
        self._tensorflow = tensorflow
        # The function holds no reference to the model's variables: without this they would be collected.
        self._model = model
        self._function = function
        self._input = input_name
        self._dtype = function.structured_input_signature[1][input_name].dtype
        self._preprocess = preprocess
        self._activation = activation

    def forward(self, batch: Array) -> Array:
        """See `Engine.forward`."""
        if self._preprocess is not None and batch.dtype == np.uint8:
            batch = normalise(batch, self._preprocess)
        given = self._tensorflow.constant(batch, dtype=self._dtype)
        answer = self._function(**{self._input: given})
        # Outputs are a mapping; the first by name is the answer, as TensorFlow sorts them.
        return activate(next(iter(answer.values())).numpy(), self._activation)

    def warm_up(self, row: Array, sizes: Sequence[int]) -> Array:
        """Run each batch size once."""
        return warm_up_by_forward(self.forward, row, sizes)

    def close(self) -> None:
        """Drop the model."""
        del self._model, self._function


def _find_saved_model(folder: ModelFolder) -> Path:
    for path in (folder.path, *sorted(item for item in folder.path.iterdir() if item.is_dir())):
        if any((path / marker).is_file() for marker in _MARKERS):
            return path
    names = ", ".join(sorted(item.name for item in folder.path.iterdir()))
    raise LoadFailed(
        f"no SavedModel in the model folder: it holds {names}",
        "save it with `model.export(path)` or `tf.saved_model.save`, and upload the whole folder",
    )


def load(folder: ModelFolder, settings: Settings) -> NetworkRuntime:
    """Load the folder's SavedModel; see `RuntimeModule.load`."""
    if settings.precision != "float32":
        raise InvalidSpec(
            f"precision {settings.precision} is not chosen at run time for TensorFlow",
            "save the model in that precision, and leave precision out",
        )
    path = _find_saved_model(folder)
    tensorflow = _import_tensorflow()
    _limit_threads(tensorflow, count_cores(settings))
    if settings.device == "gpu" and not tensorflow.config.list_physical_devices("GPU"):
        raise NoGPU(
            f"device is gpu, and TensorFlow {tensorflow.__version__} sees no GPU",
            "use the scorer image with CUDA, and check that the pod has a GPU in its limits",
        )
    try:
        model = tensorflow.saved_model.load(str(path))
    except Exception as err:
        raise LoadFailed(
            f"{path.name} is no SavedModel that TensorFlow {tensorflow.__version__} can read: "
            f"{str(err).splitlines()[0][:300] if str(err) else type(err).__name__}",
            "check that the whole folder was uploaded",
        ) from err
    name = str(folder.config.get("signature", "serving_default"))
    function = model.signatures.get(name)
    if function is None:
        raise InvalidSpec(
            f"the SavedModel has no signature {name!r}: it has {', '.join(model.signatures) or 'none'}",
            "name one as `signature:` in model.yaml, or save the model with one",
        )
    inputs = function.structured_input_signature[1]
    if len(inputs) != 1:
        raise LoadFailed(
            f"the signature has {len(inputs)} inputs: {', '.join(inputs)}",
            "signatures with one input are served; give the others a score.py",
        )
    input_name, spec = next(iter(inputs.items()))
    config = read_network_config(folder)
    if folder.config.get("activation") is None:
        # Exported classifiers end in their own activation, as a rule.
        config = replace(config, activation="none")
    rows = tuple(spec.shape[1:]) if spec.shape.rank else ()
    if config.input_shape is None and rows and all(side is not None for side in rows):
        config = replace(config, input_shape=tuple(int(side) for side in rows))
    cores = count_cores(settings)
    info = RuntimeInfo(
        framework="tensorflow",
        version=tensorflow.__version__,
        platform="tensorflow_savedmodel",
        prepare_threads=cores if config.preprocess else 0,
        concurrency=cores,
        media=("image/*",) if config.preprocess else (),
    )
    engine = TensorflowEngine(
        tensorflow, model, function, input_name, config.preprocess, config.activation
    )
    dtype = spec.dtype.as_numpy_dtype
    return NetworkRuntime(engine, config, info, input_name=input_name, dtype=dtype)
