"""TorchServe's `POST /predictions/{model}[/{version}]`: a raw body or `data=`, answered by what the model returns.

https://docs.pytorch.org/serve/inference_api.html
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from model_scorer.dialects.blobs import blobs_from_body
from model_scorer.dialects.inputs import input_from_rows, json_value
from model_scorer.dialects.kserve_v1 import raw_answer
from model_scorer.dialects.protocol import (
    Answer,
    HttpRequest,
    Target,
    decode_text,
    require_json,
)
from model_scorer.errors import RequestError
from model_scorer.json_text import decode_json, encode_json
from model_scorer.runtimes.protocol import Call, JsonValue, Output, RawResponse, TextInput

# TorchServe's exception names by HTTP status.
_TYPES = {
    400: "BadRequestException",
    404: "ModelNotFoundException",
    405: "MethodNotAllowedException",
    408: "RequestTimeoutException",
    413: "RequestEntityTooLargeException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}


class PredictionsDialect:
    """The codec of `/predictions/{model}`."""

    name = "predictions"

    def decode(self, request: HttpRequest, target: Target) -> tuple[Call, Any]:
        """The rows themselves, or under `data`, `instances` or `inputs`."""
        files = None if target.info.scripted else blobs_from_body(request, target)
        if files is not None:
            return Call(files), None
        require_json(request)
        value = decode_json(request.buffer)
        if target.info.scripted:
            text = decode_text(request.body)
            return Call(TextInput(text), headers=request.public_headers(), body=request.body), None
        key = "body"
        if isinstance(value, dict):
            for name in ("data", "instances", "inputs"):
                if name in value and name not in target.signature.columns:
                    key, value = name, value[name]
                    break
        return Call(input_from_rows(value, target, key=key)), None

    def encode(self, output: Output, context: Any, target: Target, exec_ms: float) -> Answer:
        """What the model returned, bare."""
        if isinstance(output, RawResponse):
            return raw_answer(output)
        value = output.value if isinstance(output, JsonValue) else json_value(output)
        return Answer(200, encode_json(value))

    def error(self, error: RequestError) -> Answer:
        """`{"code", "type", "message"}`."""
        kind = _TYPES.get(error.status)
        if kind is None:
            words = HTTPStatus(error.status).phrase.title().replace(" ", "").replace("-", "")
            kind = f"{words}Exception"
        body = encode_json({"code": error.status, "type": kind, "message": error.message})
        return Answer(error.status, body, headers=error.headers)
