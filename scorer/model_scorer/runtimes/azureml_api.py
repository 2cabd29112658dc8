"""Stand-ins for the modules that Azure ML's score scripts import: `rawhttp`, `AMLRequest`, `AMLResponse`.

Installed only under names that are not importable, so that the real packages win where they are present.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from model_scorer.errors import BadRequest, InvalidInput
from model_scorer.json_text import decode_json
from model_scorer.runtimes.protocol import Call

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "_model_scorer_rawhttp"

_PACKAGES = (
    "azureml",
    "azureml.contrib",
    "azureml.contrib.services",
    "azureml_inference_server_http",
    "azureml_inference_server_http.api",
)


class AMLRequest:
    """The request that a `@rawhttp` run gets; the part of Flask's request that score scripts use."""

    def __init__(self, call: Call) -> None:
        self.method = call.method
        self.headers: Mapping[str, str] = call.headers
        self.data = call.body
        self.args = dict(parse_qsl(str(call.parameters.get("query", ""))))
        self.full_path = str(call.parameters.get("target", "/score"))
        self.path = self.full_path.split("?")[0]

    def get_data(self, cache: bool = True, as_text: bool = False) -> bytes | str:
        """The body."""
        return self.data.decode() if as_text else self.data

    def get_json(self, force: bool = False, silent: bool = False) -> Any:
        """The body, decoded from JSON; None when it is none and `silent`."""
        try:
            return json.loads(self.data)
        except ValueError:
            if silent:
                return None
            raise

    @property
    def json(self) -> Any:
        """The body, decoded from JSON."""
        return self.get_json()


class AMLResponse:
    """A whole HTTP response from a score script.

    Args:
        message: the body: text, bytes, or with `json_str` any value for JSON.
        status_code: HTTP status.
        response_headers: headers beside the content's length.
        json_str: encode `message` as JSON.
    """

    def __init__(
        self,
        message: Any,
        status_code: int,
        response_headers: Mapping[str, str] | None = None,
        json_str: bool = False,
        **_: Any,
    ) -> None:
        if json_str:
            self._body = json.dumps(message).encode()
        elif isinstance(message, bytes | bytearray):
            self._body = bytes(message)
        else:
            self._body = str(message).encode()
        self.status_code = int(status_code)
        self.headers: dict[str, str] = {
            "Content-Type": "application/json" if json_str else "text/html; charset=utf-8"
        }
        self.headers.update(response_headers or {})

    def get_data(self) -> bytes:
        """The body."""
        return self._body

    def header_items(self) -> Iterator[tuple[str, str]]:
        """The headers, without what the server writes itself."""
        for name, value in self.headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                yield name, str(value)


def rawhttp(run: _F) -> _F:
    """Mark a `run` that takes the request itself."""
    setattr(run, _MARK, True)
    return run


def is_rawhttp(run: Callable[..., Any]) -> bool:
    """Whether a `run` is marked with `rawhttp`."""
    return bool(getattr(run, _MARK, False))


class DecoratedRun:
    """A `run` under `@input_schema`: it takes the top-level keys of the JSON body as arguments.

    The decorators are those of Azure ML's package inference-schema; they check and convert each argument.
    https://learn.microsoft.com/azure/machine-learning/how-to-deploy-advanced-entry-script#automatically-generate-a-swagger-schema

    Args:
        run: as the script defines it.
        parameters: names of its arguments.
        required: those without a default.
    """

    def __init__(
        self, run: Callable[..., Any], parameters: frozenset[str], required: frozenset[str]
    ) -> None:
        self._run = run
        self.parameters = parameters
        self._required = required

    def read_arguments(self, text: str) -> dict[str, Any]:
        """The arguments in a body.

        Raises:
            BadRequest: no JSON object, or an argument is missing.
        """
        value = decode_json(text.encode())
        if not isinstance(value, dict):
            raise BadRequest("expected a JSON object with the parameters of run")
        missing = sorted(self._required - set(value))
        if missing:
            raise BadRequest(f"missing parameters: {', '.join(missing)}")
        return {name: item for name, item in value.items() if name in self.parameters}

    def __call__(self, arguments: dict[str, Any], **more: Any) -> Any:
        """Call `run`.

        Raises:
            InvalidInput: a decorator refused an argument, before the script's own code ran.
        """
        try:
            return self._run(**arguments, **more)
        except Exception as err:
            own = inspect.unwrap(self._run).__code__
            if any(frame.f_code is own for frame, _ in traceback.walk_tb(err.__traceback__)):
                raise
            raise InvalidInput(f"the input does not fit its schema: {str(err)[:300]}") from err


def find_schema(run: Callable[..., Any]) -> DecoratedRun | None:
    """A `run` that is under inference-schema's decorators, None for any other."""
    schemas = sys.modules.get("inference_schema.schema_util")
    if schemas is None or not schemas.is_schema_decorated(run):
        return None
    names = schemas.get_input_schema(run).get("properties", {})
    if not names:
        return None  # `@output_schema` alone: the body comes as text
    known = inspect.signature(run).parameters
    required = {
        name for name in names if name in known and known[name].default is inspect.Parameter.empty
    }
    return DecoratedRun(run, frozenset(names), frozenset(required))


def install() -> None:
    """Make the stand-ins importable where Azure ML's own packages are not installed."""
    for root in ("azureml", "azureml_inference_server_http"):
        if root in sys.modules or importlib.util.find_spec(root) is not None:
            continue
        for name in _PACKAGES:
            if name.split(".")[0] == root:
                package = ModuleType(name)
                package.__path__ = []
                sys.modules[name] = package
        parent = "azureml.contrib.services" if root == "azureml" else f"{root}.api"
        for leaf, members in (
            ("aml_request", {"AMLRequest": AMLRequest, "rawhttp": rawhttp}),
            ("aml_response", {"AMLResponse": AMLResponse}),
        ):
            module = ModuleType(f"{parent}.{leaf}")
            module.__dict__.update(members)
            sys.modules[f"{parent}.{leaf}"] = module
            setattr(sys.modules[parent], leaf, module)
