"""Keras behind the runtime protocol: a `.keras` file, on the backend that is installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from model_scorer.errors import InvalidSpec, LoadFailed, MissingDependency, NoGPU, UnsafePickle
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

SUFFIXES = (".keras", ".h5", ".hdf5")
_BACKENDS = ("torch", "tensorflow", "jax")


def load_in_worker(settings: Settings) -> bool:
    """No backend's threads survive a fork."""
    return True


def _import_keras() -> Any:
    """Import Keras on the first backend that is installed, unless KERAS_BACKEND names one."""
    if not os.environ.get("KERAS_BACKEND"):
        for name in _BACKENDS:
            if importlib.util.find_spec(name) is not None:
                os.environ["KERAS_BACKEND"] = name
                break
        else:
            raise MissingDependency(
                f"Keras needs one of {', '.join(_BACKENDS)}, and this image has none",
                "use an image with Keras and a backend",
            )
    import keras

    return keras


class KerasEngine:
    """A Keras model as an engine."""

    batch_rows: int | None = None

    def __init__(self, model: Any, preprocess: Preprocess | None, activation: str) -> None:
        self._model = model
        self._preprocess = preprocess
        self._activation = activation

    def forward(self, batch: Array) -> Array:
        """See `Engine.forward`."""
        if self._preprocess is not None and batch.dtype == np.uint8:
            batch = normalise(batch, self._preprocess)
        # predict_on_batch compiles once per shape and keeps no progress bar or callbacks around it.
        scores = self._model.predict_on_batch(batch)
        if isinstance(scores, dict):
            scores = next(iter(scores.values()))
        elif isinstance(scores, list | tuple):
            scores = scores[0]
        return activate(np.asarray(scores), self._activation)

    def warm_up(self, row: Array, sizes: Sequence[int]) -> Array:
        """Run each batch size once."""
        return warm_up_by_forward(self.forward, row, sizes)

    def close(self) -> None:
        """Drop the model."""
        del self._model


def load(folder: ModelFolder, settings: Settings) -> NetworkRuntime:
    """Load the folder's Keras model; see `RuntimeModule.load`."""
    if settings.precision != "float32":
        raise InvalidSpec(
            f"precision {settings.precision} is not chosen at run time for Keras",
            "save the model with that dtype policy, and leave precision out",
        )
    path = folder.find_model_file(SUFFIXES)
    keras = _import_keras()
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(count_cores(settings))
    if settings.device == "gpu" and not _sees_gpu(backend):
        raise NoGPU(
            f"device is gpu, and Keras' backend {backend} sees no GPU",
            "use the scorer image with CUDA, and check that the pod has a GPU in its limits",
        )
    try:
        # safe_mode refuses Lambda layers, which carry Python bytecode
        # (https://keras.io/api/models/model_saving_apis/model_saving_and_loading/).
        model = keras.saving.load_model(path, compile=False, safe_mode=not settings.trust_pickle)
    except Exception as err:
        text = f"{type(err).__name__}: {str(err).splitlines()[0][:300] if str(err) else ''}"
        if "unsafe" in str(err).lower() or "lambda" in str(err).lower():
            raise UnsafePickle(
                f"{path.name} holds a Lambda layer, which is code: {text}",
                "rebuild the model without Lambda layers, or set `trustPickle: true`",
            ) from err
        raise LoadFailed(
            f"{path.name} is no model that Keras {keras.__version__} can read: {text}",
            "check the upload; models with classes of their own need a score.py",
        ) from err
    config = read_network_config(folder)
    if folder.config.get("activation") is None:
        # Keras models end in their own activation, as a rule.
        config = replace(config, activation="none")
    shape = model.input_shape
    if isinstance(shape, list | dict):
        raise LoadFailed(
            "the model has several inputs", "models with one input are served; give it a score.py"
        )
    rows = tuple(shape[1:])
    if config.input_shape is None and all(isinstance(side, int) for side in rows):
        config = replace(config, input_shape=rows)
    cores = count_cores(settings)
    info = RuntimeInfo(
        framework="keras",
        version=keras.__version__,
        platform=f"keras_{backend}",
        prepare_threads=cores if config.preprocess else 0,
        media=("image/*",) if config.preprocess else (),
    )
    engine = KerasEngine(model, config.preprocess, config.activation)
    return NetworkRuntime(engine, config, info)


def _sees_gpu(backend: str) -> bool:
    if backend == "torch":
        import torch

        return bool(torch.cuda.is_available())
    if backend == "tensorflow":
        import tensorflow

        return bool(tensorflow.config.list_physical_devices("GPU"))
    import jax

    return any(device.platform == "gpu" for device in jax.devices())
