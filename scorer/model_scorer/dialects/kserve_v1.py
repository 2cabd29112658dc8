"""KServe V1: `POST /v1/models/{name}:predict` with `{"instances": […]}` → `{"predictions": […]}`.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

from typing import Any

from model_scorer.dialects.inputs import input_from_rows, json_value
from model_scorer.dialects.protocol import (
    Answer,
    HttpRequest,
    Target,
    decode_text,
    require_json,
)
from model_scorer.dialects.wide_rows import parse_wide_rows
from model_scorer.errors import BadRequest, RequestError
from model_scorer.json_text import decode_json, encode_json
from model_scorer.runtimes.protocol import (
    Call,
    JsonValue,
    Output,
    RawResponse,
    TensorsInput,
    TextInput,
)


class KServeV1Dialect:
    """The codec of `/v1/models/{name}:predict`."""

    name = "v1"

    def decode(self, request: HttpRequest, target: Target) -> tuple[Call, Any]:
        """`inputs` is a synonym of `instances`, and wins, as in KServe's own server."""
        require_json(request)
        wide = parse_wide_rows(request.buffer, target)
        if wide is not None and wide[0] in ("inputs", "instances"):
            return Call(TensorsInput({wide[0]: wide[1]})), None
        value = decode_json(request.buffer)
        if not isinstance(value, dict):
            raise BadRequest('Unrecognized request format: expected an object with "instances"')
        key = "inputs" if "inputs" in value else "instances"
        if target.info.scripted:
            text = decode_text(request.body)
            return Call(TextInput(text), headers=request.public_headers(), body=request.body), None
        if key not in value:
            raise BadRequest('Unrecognized request format: missing key "instances"')
        if not isinstance(value[key], list):
            raise BadRequest(f'"{key}" must be a list of instances')
        return Call(input_from_rows(value[key], target, key=key)), None

    def encode(self, output: Output, context: Any, target: Target, exec_ms: float) -> Answer:
        """`{"predictions": …}`; a script's answer that is already in this form stays as it is."""
        if isinstance(output, RawResponse):
            return raw_answer(output)
        value = output.value if isinstance(output, JsonValue) else json_value(output)
        if not (isinstance(value, dict) and "predictions" in value):
            value = {"predictions": value}
        return Answer(200, encode_json(value))

    def error(self, error: RequestError) -> Answer:
        """`{"error": …}`."""
        return Answer(error.status, encode_json({"error": error.message}), headers=error.headers)


def raw_answer(output: RawResponse) -> Answer:
    """A script's own HTTP response, passed through."""
    kind = next((v for k, v in output.headers if k.lower() == "content-type"), "text/plain")
    rest = tuple((k, v) for k, v in output.headers if k.lower() != "content-type")
    return Answer(output.status, output.body, kind, rest)
