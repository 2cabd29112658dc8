"""Score scripts: `score.py` with `init()` and `run(data)`, as Azure ML has them, and an optional `run_batch(list)`.

`run` gets the raw body as text; what it returns is encoded as JSON. `run(data, request_headers)` gets the headers too.
A `run` decorated with `@rawhttp` gets the request itself and may return an `AMLResponse`; one under inference-schema's
`@input_schema` gets the top-level keys of the body as arguments.
https://learn.microsoft.com/azure/machine-learning/how-to-deploy-advanced-entry-script
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from model_scorer.errors import (
    BadRequest,
    MissingDependency,
    ModelFailed,
    ScriptFailed,
    UnsupportedMedia,
)
from model_scorer.json_text import is_json_type
from model_scorer.logs import redact
from model_scorer.runtimes import azureml_api
from model_scorer.runtimes.model_folder import SCRIPT_NAME, ModelFolder
from model_scorer.runtimes.protocol import (
    Call,
    JsonValue,
    Output,
    Prepared,
    RawResponse,
    RuntimeInfo,
    Signature,
    TextInput,
)
from model_scorer.settings import Settings

log = logging.getLogger(__name__)

_LIBRARIES = {
    "sklearn": "scikit-learn",
    "pytorch": "torch",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "onnx": "onnxruntime",
}
_HINT = "correct score.py; the pod's log has the traceback"


def load_in_worker(settings: Settings) -> bool:
    """Scripts on a GPU open its context in `init`; elsewhere one load is shared by all workers."""
    return settings.device == "gpu"


def load(folder: ModelFolder, settings: Settings) -> ScriptRuntime:
    """Import the script and call its `init()`.

    Raises:
        ScriptFailed: no script, no `run`, or it raised; the message has the last line and where.
        MissingDependency: it imports a module that is not there.
    """
    if folder.script is None:
        raise ScriptFailed(
            f"framework python needs a {SCRIPT_NAME} in the model folder",
            f"add {SCRIPT_NAME} with init() and run(data)",
        )
    os.environ["AZUREML_MODEL_DIR"] = str(folder.path)
    os.environ["AML_APP_ROOT"] = str(folder.path)
    os.environ["AZUREML_ENTRY_SCRIPT"] = SCRIPT_NAME
    if str(folder.path) not in sys.path:
        sys.path.insert(0, str(folder.path))
    azureml_api.install()
    module = _import_script(folder.script)
    run = getattr(module, "run", None)
    if not callable(run):
        raise ScriptFailed(
            f"{SCRIPT_NAME} has no function run(data)", f"define run(data) in {SCRIPT_NAME}"
        )
    run_batch = getattr(module, "run_batch", None)
    init = getattr(module, "init", None)
    if callable(init):
        _guard("init()", folder.script, init)
    return ScriptRuntime(run, run_batch if callable(run_batch) else None, settings.framework)


def _import_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("score", path)
    if spec is None or spec.loader is None:
        raise ScriptFailed(f"{path.name} cannot be imported", _HINT)
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, so that classes pickled as `score.X` are found.
    sys.modules["score"] = module
    loader = spec.loader
    _guard("import", path, lambda: loader.exec_module(module))
    return module


def _guard(stage: str, path: Path, call: Callable[[], Any]) -> None:
    """Run a stage of the script; whatever it raises becomes ScriptFailed or MissingDependency."""
    try:
        call()
    except ModuleNotFoundError as err:
        raise MissingDependency(
            f"{path.name} needs the Python module {err.name!r}, which is not installed",
            f"use an image that has {err.name!r}, or put the module into the model folder",
        ) from err
    except MemoryError:
        raise
    except SyntaxError as err:
        raise ScriptFailed(
            f"{path.name} has a syntax error in line {err.lineno}: {err.msg}", _HINT
        ) from err
    # SystemExit too: a script that calls sys.exit() must leave a reason behind.
    except (Exception, SystemExit) as err:
        where = describe_place(err, path.parent)
        raise ScriptFailed(
            f"{path.name}: {stage} raised {type(err).__name__}: {redact(str(err))[:500]}{where}",
            _HINT,
        ) from err


def describe_place(err: BaseException, folder: Path) -> str:
    """` (score.py line 12, in init)`: the innermost frame inside the model folder, or nothing."""
    for frame in reversed(traceback.extract_tb(err.__traceback__)):
        if Path(frame.filename).is_relative_to(folder):
            name = Path(frame.filename).relative_to(folder)
            return f" ({name} line {frame.lineno}, in {frame.name})"
    return ""


def _framework_version(framework: str) -> str:
    """The version of the library that a script's model is of, or Python's where there is none."""
    library = _LIBRARIES.get(framework, "")
    try:
        return metadata.version(library) if library else platform.python_version()
    except metadata.PackageNotFoundError:
        return platform.python_version()


class ScriptRuntime:
    """A loaded score script.

    Args:
        run: the script's `run`.
        run_batch: the script's `run_batch`, which takes a list of raw texts and returns as many results.
        framework: of the ScoringModel.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        run_batch: Callable[[list[str]], Sequence[Any]] | None,
        framework: str,
    ) -> None:
        self._run = run
        self._run_batch = run_batch
        self._raw = azureml_api.is_rawhttp(run)
        self._decorated = None if self._raw else azureml_api.find_schema(run)
        try:
            self._wants_headers = "request_headers" in inspect.signature(run).parameters
        except (TypeError, ValueError):
            self._wants_headers = False
        self.info = RuntimeInfo(
            framework=framework,
            version=_framework_version(framework),
            platform="python-script",
            batches=run_batch is not None,
            may_block=True,
            scripted=True,
            media=("*/*",) if self._raw else (),
        )
        self.signature = Signature()

    def prepare(self, call: Call) -> Prepared:
        """Any text is taken: what it must hold is the script's business."""
        if self._raw:
            return Prepared(call, 1, call)
        if not isinstance(call.input, TextInput):
            raise BadRequest("the model's score script takes a JSON body")
        if self._decorated is not None:
            if not is_json_type(call.headers.get("content-type", "")):
                raise UnsupportedMedia("Expects Content-Type to be application/json")
            # Read twice, here and in the call: it is the client's mistake, and must be told before the queue.
            self._decorated.read_arguments(call.input.text)
        return Prepared(call, 1, "script" if self._run_batch else object())

    def execute(self, batch: Sequence[Prepared]) -> Sequence[Output | Exception]:
        """Call `run_batch` for several, `run` for one."""
        if self._run_batch is None or (len(batch) == 1 and self._wants_headers):
            return [self._run_one(item.payload) for item in batch]
        started = time.perf_counter()
        results = self._run_batch([item.payload.input.text for item in batch])
        exec_ms = (time.perf_counter() - started) * 1000
        if not isinstance(results, Sequence) or isinstance(results, str | bytes):
            raise ModelFailed("run_batch must return a list with one result for each request")
        if len(results) != len(batch):
            raise ModelFailed(f"run_batch returned {len(results)} results for {len(batch)}")
        return [
            result if isinstance(result, Exception) else self._output(result, exec_ms)
            for result in results
        ]

    def _run_one(self, call: Call) -> Output | Exception:
        started = time.perf_counter()
        try:
            if self._raw:
                result = self._run(azureml_api.AMLRequest(call))
            else:
                text = call.input.text if isinstance(call.input, TextInput) else ""
                if self._decorated is not None:
                    more = {"request_headers": dict(call.headers)} if self._wants_headers else {}
                    result = self._decorated(self._decorated.read_arguments(text), **more)
                elif self._wants_headers:
                    result = self._run(text, request_headers=dict(call.headers))
                else:
                    result = self._run(text)
        except Exception as err:
            return err
        return self._output(result, (time.perf_counter() - started) * 1000)

    def _output(self, result: Any, exec_ms: float) -> Output:
        if isinstance(result, azureml_api.AMLResponse):
            return RawResponse(
                status=result.status_code,
                body=result.get_data(),
                headers=tuple(result.header_items()),
                exec_ms=exec_ms,
            )
        return JsonValue(result, exec_ms)

    def warm_up(self) -> Prepared | None:
        """A script's input is unknown: the sample request is its warm-up."""
        return None

    def close(self) -> None:
        """Nothing to release."""
