"""Open Inference Protocol V2: `POST /v2/models/{name}[/versions/{version}]/infer`, JSON and binary tensors.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model_scorer.dialects.infer_answer import AnswerFrames
from model_scorer.dialects.infer_context import PLAIN, InferContext
from model_scorer.dialects.infer_heads import HeadPlans
from model_scorer.dialects.kserve_v1 import raw_answer
from model_scorer.dialects.protocol import (
    Answer,
    HttpRequest,
    Target,
    decode_text,
    refuse_encoding,
    require_json,
)
from model_scorer.dialects.tensor_bytes import parse_binary_tensor
from model_scorer.dialects.tensor_json import parse_json_tensor, parse_shape
from model_scorer.errors import BadRequest, InvalidInput, RequestError
from model_scorer.json_text import decode_json, encode_json
from model_scorer.runtimes.protocol import (
    Array,
    Call,
    JsonValue,
    Output,
    RawResponse,
    RowsInput,
    Tensors,
    TensorsInput,
    TextInput,
)

HEADER_LENGTH = b"inference-header-content-length"
# More rows than these are made an array at once: their bytes, not the calls, are what takes time.
MAX_ROWS = 8


class OpenInferenceDialect:
    """The codec of `/v2/models/{name}/infer`."""

    name = "v2"

    def __init__(self) -> None:
        self._plans = HeadPlans()
        self._frames = AnswerFrames()

    def decode(self, request: HttpRequest, target: Target) -> tuple[Call, InferContext]:
        """Tensors with checked datatypes and shapes; the runtime checks them against its signature."""
        headers = request.headers
        divided = headers.get(HEADER_LENGTH)
        if divided is not None and divided.isdigit() and len(divided) <= 12:
            # As in nearly every binary request: its JSON part was read before.
            length = int(divided)
            body = request.buffer
            plan = self._plans.find(bytes(body[:length]), target)
            if (
                plan is not None
                and plan.size == len(body) - length
                and b"content-encoding" not in headers
            ):
                return plan.read(body, length), plan.context
        head, tail = split_body(request)
        message = decode_json(head)
        if not isinstance(message, dict):
            raise BadRequest("expected a JSON object")
        if target.info.takes_rows and not tail:
            rows = rows_of_tensor(message, target)
            if rows is not None:
                return Call(rows), PLAIN
        parameters = message.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise BadRequest('"parameters" must be an object')
        request_id = message.get("id")
        if request_id is not None and not isinstance(request_id, str):
            raise BadRequest('"id" must be a text')
        asked, binary = _parse_outputs(message.get("outputs"), target)
        context = InferContext(
            request_id or "", asked, parameters.get("binary_data_output") is True, binary
        )
        if target.info.scripted:
            if tail:
                raise BadRequest("the model's score script takes JSON tensors only")
            text = decode_text(bytes(head))
            call = Call(TextInput(text), headers=request.public_headers(), body=request.body)
            return call, context
        tensors = _parse_inputs(message.get("inputs"), tail)
        call = Call(TensorsInput(tensors), outputs=tuple(asked), parameters=parameters)
        if tail:
            self._plans.learn(bytes(head), target, message, call, context)
        return call, context

    def encode(
        self, output: Output, context: InferContext, target: Target, exec_ms: float
    ) -> Answer:
        """JSON, or JSON followed by the raw tensors that were asked for in binary."""
        if isinstance(output, RawResponse):
            return raw_answer(output)
        if isinstance(output, JsonValue):
            if isinstance(output.value, dict) and "outputs" in output.value:
                return Answer(200, encode_json(output.value))
            return self._frames.render({"output-0": tensor_of(output.value)}, context, target)
        return self._frames.render(output.tensors, context, target)

    def error(self, error: RequestError) -> Answer:
        """`{"error": …}`."""
        return Answer(error.status, encode_json({"error": error.message}), headers=error.headers)


def split_body(request: HttpRequest) -> tuple[bytes | memoryview, memoryview]:
    """The JSON part and the binary part of a request.

    Raises:
        BadRequest: the header that divides them is malformed or missing.
    """
    headers = request.headers
    text = request.header(HEADER_LENGTH).strip() if HEADER_LENGTH in headers else ""
    if not text:
        if (
            headers.get(b"content-type") != b"application/json"
            and request.media_type() == "application/octet-stream"
        ):
            raise BadRequest("a binary body needs the header Inference-Header-Content-Length")
        require_json(request)
        return request.buffer, memoryview(b"")
    if b"content-encoding" in headers:
        refuse_encoding(request)
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise BadRequest("Inference-Header-Content-Length must be a number of bytes")
    length = int(text)
    if length > len(request.buffer):
        raise BadRequest(
            f"Inference-Header-Content-Length is {length}, and the body has {len(request.buffer)} bytes"
        )
    view = memoryview(request.buffer)
    return view[:length], view[length:]


def _parse_inputs(inputs: Any, tail: memoryview) -> Tensors:
    if not isinstance(inputs, list) or not inputs:
        raise BadRequest('"inputs" must be a list of at least one tensor')
    tensors: Tensors = {}
    for index, item in enumerate(inputs):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise BadRequest(f'input {index} must be an object with a "name"')
        name = item["name"]
        if name in tensors:
            raise BadRequest(f"the input {name!r} is given twice")
        datatype = item.get("datatype")
        shape = parse_shape(item.get("shape"), name)
        parameters = item.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is not None:
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise BadRequest(f"input {name!r}: binary_data_size must be a number of bytes")
            if "data" in item:
                raise BadRequest(f"input {name!r} has both data and binary_data_size")
            if size > len(tail):
                raise BadRequest(
                    f"input {name!r}: binary_data_size is {size}, and {len(tail)} bytes are left"
                )
            tensors[name] = parse_binary_tensor(tail[:size], datatype, shape, name)
            tail = tail[size:]
        elif "data" in item:
            tensors[name] = parse_json_tensor(item["data"], datatype, shape, name)
        else:
            raise BadRequest(f"input {name!r} has neither data nor binary_data_size")
    if tail:
        raise BadRequest(f"{len(tail)} bytes follow the last binary tensor")
    return tensors


def _parse_outputs(outputs: Any, target: Target) -> tuple[dict[str, str], dict[str, bool]]:
    """The outputs asked for: the client's names of them, and which are wanted in binary, by the runtime's names.

    `output-N` means the N-th, as in KServe's own server.
    """
    asked_names: dict[str, str] = {}
    binary: dict[str, bool] = {}
    if not outputs:
        return asked_names, binary
    if not isinstance(outputs, list):
        raise BadRequest('"outputs" must be a list')
    known = [spec.name for spec in target.signature.outputs]
    for index, item in enumerate(outputs):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise BadRequest(f'output {index} must be an object with a "name"')
        asked = name = item["name"]
        if name not in known and known:
            position = name.removeprefix("output-")
            if name == position or not position.isdecimal() or int(position) >= len(known):
                raise InvalidInput(f"the model has no output {name!r}; it has {', '.join(known)}")
            name = known[int(position)]
        asked_names[name] = asked
        parameters = item.get("parameters")
        if isinstance(parameters, dict) and isinstance(parameters.get("binary_data"), bool):
            binary[name] = parameters["binary_data"]
    return asked_names, binary


_NUMBERS = frozenset({int, float})


def rows_of_tensor(message: dict[str, Any], target: Target) -> RowsInput | None:
    """The rows of the plainest request there is: one tensor of float64, a few rows, nothing else asked for.

    A runtime that takes rows validates and joins those of many requests in one step, as it does for the other dialects;
    a tensor of each would be an array of each. The numbers are the same.

    Returns:
        None for every other request, well formed or not.
    """
    inputs = message.get("inputs")
    if len(message) != 1 or type(inputs) is not list or len(inputs) != 1:
        return None
    item = inputs[0]
    if type(item) is not dict or len(item) != 4 or item.get("datatype") != "FP64":
        return None
    shape, data = item.get("shape"), item.get("data")
    if type(item.get("name")) is not str or type(shape) is not list or type(data) is not list:
        return None
    width = target.signature.row_width
    if width is None or len(shape) != 2 or type(shape[0]) is not int or type(shape[1]) is not int:
        return None
    count = shape[0]
    if shape[1] != width or not 0 < count <= MAX_ROWS:
        return None
    if len(data) == count * width and _NUMBERS.issuperset(map(type, data)):
        if count == 1:
            return RowsInput([data])
        return RowsInput([data[i : i + width] for i in range(0, len(data), width)])
    if len(data) == count and all(
        type(row) is list and len(row) == width and _NUMBERS.issuperset(map(type, row))
        for row in data
    ):
        return RowsInput(data)
    return None


def tensor_of(value: Any) -> Array:
    """A script's result as one tensor: numbers and texts as they are, anything else as JSON texts."""
    items = value if isinstance(value, list | tuple | np.ndarray) else [value]
    try:
        array = np.asarray(items)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.dtype.kind in "iufb":
        return array
    texts = np.empty(len(items), dtype=object)
    texts[:] = [i if isinstance(i, str) else encode_json(i).decode() for i in items]
    return texts
