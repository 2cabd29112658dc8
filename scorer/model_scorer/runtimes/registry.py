"""Which module serves which framework. Nothing is imported before its framework is asked for."""

from __future__ import annotations

import importlib
import logging
import time
from typing import cast

from model_scorer.errors import LoadFailed, MissingDependency, OutOfMemory, ScorerError
from model_scorer.logs import redact
from model_scorer.runtimes.model_folder import ModelFolder, open_model_folder
from model_scorer.runtimes.protocol import Runtime, RuntimeModule
from model_scorer.settings import Settings

log = logging.getLogger(__name__)

_MODULES = {
    "sklearn": "model_scorer.runtimes.sklearn_runtime",
    "python": "model_scorer.runtimes.script_runtime",
    "pytorch": "model_scorer.runtimes.pytorch_runtime",
    "tensorflow": "model_scorer.runtimes.tensorflow_runtime",
    "keras": "model_scorer.runtimes.keras_runtime",
    "onnx": "model_scorer.runtimes.onnx_runtime",
}
# A score script beside a model of any framework does the loading itself.
_SCRIPT_MODULE = _MODULES["python"]


def find_module(folder: ModelFolder, settings: Settings) -> RuntimeModule:
    """The runtime module for a folder and its framework, imported.

    Raises:
        MissingDependency: the framework's runtime, or something it imports, is not installed in this image.
    """
    name = _SCRIPT_MODULE if folder.script is not None else _MODULES[settings.framework]
    try:
        return cast(RuntimeModule, importlib.import_module(name))
    except ModuleNotFoundError as err:
        raise MissingDependency(
            f"framework {settings.framework} needs the module {err.name!r}, which this image lacks",
            "use the scorer image of this framework",
        ) from err


def load_runtime(folder: ModelFolder, settings: Settings) -> Runtime:
    """Load the model of a folder.

    Raises:
        ScorerError: always one of ours; anything else that a framework raises becomes LoadFailed with its last line.
    """
    started = time.monotonic()
    try:
        runtime = find_module(folder, settings).load(folder, settings)
    except ScorerError:
        raise
    except ModuleNotFoundError as err:
        raise missing_module(err) from err
    except MemoryError as err:
        raise OutOfMemory(
            "the model does not fit into memory", "raise spec.resources.limits.memory"
        ) from err
    except Exception as err:
        raise LoadFailed(
            f"the model cannot be loaded as {settings.framework}: "
            f"{type(err).__name__}: {redact(str(err))[:500]}",
            "check spec.framework and the file; the pod's log has the traceback",
        ) from err
    log.info(
        "model loaded",
        extra={"framework": settings.framework, "seconds": round(time.monotonic() - started, 3)},
    )
    return runtime


def missing_module(err: ModuleNotFoundError) -> MissingDependency:
    """The error for a module that a model or its script imports and the image lacks."""
    return MissingDependency(
        f"the model needs the Python module {err.name!r}, which is not installed",
        f"use an image that has {err.name!r}, or put the module into the model folder",
    )


def must_load_in_worker(settings: Settings) -> bool:
    """Whether each worker must load the model for itself; imports the runtime's module to ask it.

    Raises:
        ScorerError: there is no model folder, or the runtime's module cannot be imported.
    """
    return find_module(open_model_folder(settings.model_dir), settings).load_in_worker(settings)


def open_and_load(settings: Settings) -> Runtime:
    """`open_model_folder` and `load_runtime` for the settings' folder."""
    return load_runtime(open_model_folder(settings.model_dir), settings)
