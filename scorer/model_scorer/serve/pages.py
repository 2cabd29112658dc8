"""Tornado's application on the scoring port: health, version, metadata, API descriptions, and 404 for the rest.

Every answer and every error has the form of the dialect whose path was asked.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tornado.web import Application, RequestHandler

from model_scorer import __version__
from model_scorer.dialects.openapi import build_openapi
from model_scorer.dialects.protocol import Answer, Target
from model_scorer.dialects.swagger import build_swagger
from model_scorer.errors import (
    BadRequest,
    MethodNotAllowed,
    NotSupported,
    RequestError,
    RouteNotFound,
)
from model_scorer.json_text import decode_json, encode_json
from model_scorer.runtimes.protocol import TensorSpec
from model_scorer.serve.routes import dialect_of_path

log = logging.getLogger(__name__)

Make = Callable[[Target, RequestHandler], Answer]

# The later wins: Azure ML's server takes swagger2.json before swagger.json.
_SWAGGER_FILES = (
    ("swagger.json", "2"),
    ("swagger2.json", "2"),
    ("swagger3.json", "3"),
    ("swagger3.1.json", "3.1"),
)


class PageHandler(RequestHandler):
    """Answers GET and HEAD with what a function makes of the model."""

    def initialize(self, target: Target, make: Make, methods: tuple[str, ...] = ("GET",)) -> None:
        """Tornado's own constructor."""
        self._target = target
        self._make = make
        self._methods = methods

    def get(self, *_: str) -> None:
        """The page."""
        self._answer("GET")

    def head(self, *_: str) -> None:
        """The page's headers."""
        self._answer("GET")

    def post(self, *_: str) -> None:
        """For the few pages that are asked by POST."""
        self._answer("POST")

    def _answer(self, method: str) -> None:
        if method not in self._methods:
            raise MethodNotAllowed("Method not allowed", (("Allow", ", ".join(self._methods)),))
        self._send(self._make(self._target, self))

    def _send(self, answer: Answer) -> None:
        self.set_status(answer.status)
        for name, value in answer.headers:
            self.set_header(name, value)
        self.set_header("Content-Type", answer.content_type)
        self.finish(answer.body)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """An error in the form of the path's dialect; never a traceback."""
        error = kwargs.get("exc_info", (None, None))[1]
        if not isinstance(error, RequestError):
            error = _error_of_status(status_code)
        dialect, _ = dialect_of_path(self.request.path)
        self.clear()
        self._send(dialect.error(error))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Our own errors are no surprise and are not logged as one."""
        if not isinstance(value, RequestError):
            super().log_exception(typ, value, tb)


def _error_of_status(status: int) -> RequestError:
    if status == 405:
        return MethodNotAllowed("Method not allowed")
    if status == 404:
        return RouteNotFound("not found")
    if 400 <= status < 500:
        # Tornado's own: a form without its boundary, a query that is no UTF-8.
        return BadRequest("malformed request")
    return RequestError("internal error")


def read_swagger_files(folder: Path) -> dict[str, bytes]:
    """Descriptions that the model's author put into the model folder, by version; they replace ours.

    https://learn.microsoft.com/azure/machine-learning/how-to-inference-server-http
    """
    found: dict[str, bytes] = {}
    for name, version in _SWAGGER_FILES:
        path = folder / name
        try:
            text = path.read_bytes()
        except OSError:
            continue
        try:
            decode_json(text)
        except RequestError as err:
            log.warning("%s is left out: %s", name, err.message)
            continue
        found[version] = text
    return found


def build_pages(
    target: Target,
    extra: Mapping[str, Answer] | None = None,
    swagger_files: Mapping[str, bytes] | None = None,
    sample: Any = None,
) -> Application:
    """The application for everything that is not a scoring route.

    Args:
        target: the model.
        extra: finished answers to GET by exact path: the try-it page.
        swagger_files: from `read_swagger_files`.
        sample: `spec.test.request`, or None.
    """
    openapi = encode_json(build_openapi(target, sample))
    swagger = {
        version: encode_json(build_swagger(target, version, sample))
        for version in ("2", "3", "3.1")
    } | dict(swagger_files or {})
    # Azure ML's server knows two of its versions by a second name each.
    swagger |= {"2.0": swagger["2"], "3.0": swagger["3"]}

    def page(make: Make, *methods: str) -> dict[str, Any]:
        return {"target": target, "make": make, "methods": methods or ("GET",)}

    def known(name: str) -> None:
        if name != target.name:
            raise RouteNotFound(f"Model with name {name} does not exist. Known: {target.name}")

    def swagger_page(_: Target, handler: RequestHandler) -> Answer:
        version = handler.get_query_argument("version", "2")
        if version not in swagger:
            raise RouteNotFound(
                f"Swagger version [{version}] is not valid. Supported versions: [2, 3, 3.1]."
            )
        return Answer(200, swagger[version], headers=(("x-ms-run-function-failed", "False"),))

    def v1_model(t: Target, handler: RequestHandler) -> Answer:
        known(handler.path_args[0])
        return _json({"name": t.name, "ready": True})

    def v2_known(handler: RequestHandler) -> None:
        known(handler.path_args[0])
        if len(handler.path_args) > 1 and handler.path_args[1] not in (None, target.version):
            raise RouteNotFound(
                f"version {handler.path_args[1]} of model {target.name} does not exist. "
                f"Known: {target.version}"
            )

    def v2_model(t: Target, handler: RequestHandler) -> Answer:
        v2_known(handler)
        return _json(model_metadata(t))

    def v2_ready(t: Target, handler: RequestHandler) -> Answer:
        v2_known(handler)
        return _json({"name": t.name, "ready": True})

    def unknown_model(t: Target, handler: RequestHandler) -> Answer:
        v2_known(handler)
        raise RouteNotFound("not found")

    def explain(t: Target, handler: RequestHandler) -> Answer:
        known(handler.path_args[0])
        raise NotSupported("this model has no explainer")

    def not_found(t: Target, handler: RequestHandler) -> Answer:
        raise RouteNotFound(f"there is nothing at {handler.request.path[:200]}; see /openapi.json")

    routes: list[tuple[str, dict[str, Any]]] = [
        ("/", page(lambda t, h: health(h.request.headers))),
        ("/version", page(lambda t, h: _json(version_info(t)))),
        ("/openapi.json", page(lambda t, h: Answer(200, openapi))),
        ("/swagger.json", page(swagger_page)),
        ("/ping", page(lambda t, h: _json({"status": "Healthy"}))),
        ("/health", page(lambda t, h: Answer(200, b"\n", "text/plain; charset=utf-8"))),
        ("/v1/models/?", page(lambda t, h: _json({"models": [t.name]}))),
        (r"/v1/models/([^/:]+)", page(v1_model)),
        (r"/v1/models/([^/:]+):explain", page(explain, "POST")),
        (r"/v1/models/([^/:]+):predict", page(v1_model, "POST")),
        ("/v2/?", page(lambda t, h: _json(server_metadata()))),
        ("/v2/health/live", page(lambda t, h: _json({"live": True}))),
        ("/v2/health/ready", page(lambda t, h: _json({"ready": True}))),
        ("/v2/models/?", page(lambda t, h: _json({"models": [t.name]}))),
        ("/v2/repository/index", page(lambda t, h: _json(repository_index(t)), "POST", "GET")),
        (r"/v2/models/([^/]+)(?:/versions/([^/]+))?", page(v2_model)),
        (r"/v2/models/([^/]+)(?:/versions/([^/]+))?/ready", page(v2_ready)),
        (r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer", page(unknown_model, "POST")),
        (r"/predictions/([^/]+)(?:/([^/]+))?", page(unknown_model, "POST", "GET")),
    ]
    for path, answer in (extra or {}).items():
        routes.append((re.escape(path), page(_always(answer))))
    return Application(
        [(pattern, PageHandler, kwargs) for pattern, kwargs in routes],
        default_handler_class=PageHandler,
        default_handler_args=page(not_found, "GET", "POST"),
        log_function=lambda handler: None,
    )


def _always(answer: Answer) -> Make:
    return lambda target, handler: answer


def _json(value: Any) -> Answer:
    return Answer(200, encode_json(value))


def health(headers: Mapping[str, str]) -> Answer:
    """`GET /`: `Healthy` for Azure ML's clients and all others, KServe's `{"status": "alive"}` for its own.

    The two protocols say different things on one path. KServe's InferenceRESTClient parses the body as JSON and is known by
    its HTTP library alone; whoever accepts JSON by name is answered in the same way. The JSON has both words.
    """
    wants_json = "application/json" in headers.get("Accept", "")
    is_kserve = headers.get("User-Agent", "").startswith("python-httpx/")
    vary = (("Vary", "Accept, User-Agent"),)
    if wants_json or is_kserve:
        body = encode_json({"status": "alive", "message": "Healthy"})
        return Answer(200, body, headers=vary)
    return Answer(200, b"Healthy", "text/html; charset=utf-8", vary)


def version_info(target: Target) -> dict[str, str]:
    """`GET /version`."""
    return {
        "version": target.info.version,
        "framework": target.info.framework,
        "model": target.name,
        "revision": target.version,
        "scorer": __version__,
    }


def server_metadata() -> dict[str, Any]:
    """`GET /v2`."""
    return {
        "name": "scoringmodel",
        "version": __version__,
        "extensions": ["binary_tensor_data", "model_repository"],
    }


def model_metadata(target: Target) -> dict[str, Any]:
    """`GET /v2/models/{name}`."""
    signature = target.signature

    def describe(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}

    def describe_output(spec: TensorSpec) -> dict[str, Any]:
        # One number for each class: only its reader can use their names.
        has_each = bool(signature.classes) and spec.shape[1:] == (len(signature.classes),)
        named = {"parameters": {"classes": list(signature.classes)}} if has_each else {}
        return describe(spec) | named

    return {
        "name": target.name,
        "versions": [target.version],
        "platform": target.info.platform,
        "inputs": [describe(spec) for spec in signature.inputs],
        "outputs": [describe_output(spec) for spec in signature.outputs],
    }


def repository_index(target: Target) -> list[dict[str, str]]:
    """`POST /v2/repository/index`."""
    return [{"name": target.name, "version": target.version, "state": "READY", "reason": ""}]
