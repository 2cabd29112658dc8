"""Open Inference Protocol V2: `POST /v2/models/{name}[/versions/{version}]/infer`, JSON and binary tensors.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model_scorer.dialects.kserve_v1 import raw_answer
from model_scorer.dialects.protocol import (
    Answer,
    HttpRequest,
    Target,
    decode_text,
    refuse_encoding,
    require_json,
)
from model_scorer.dialects.tensor_bytes import parse_binary_tensor, render_binary_tensor
from model_scorer.dialects.tensor_json import parse_json_tensor, parse_shape, render_json_data
from model_scorer.errors import BadRequest, InvalidInput, RequestError
from model_scorer.json_text import decode_json, encode_json
from model_scorer.runtimes.protocol import (
    Array,
    Call,
    JsonValue,
    Output,
    RawResponse,
    Tensors,
    TensorsInput,
    TextInput,
)
from model_scorer.runtimes.tensors import datatype_of

HEADER_LENGTH = b"inference-header-content-length"


@dataclass(slots=True)
class InferContext:
    """What the answer must repeat or obey.

    Attributes:
        request_id: the client's, or a new one.
        asked: names as the client wrote them, by the runtime's names.
        binary_default: `binary_data_output` of the request.
        binary: per output, overriding the default; by the runtime's names.
    """

    request_id: str
    asked: dict[str, str] = field(default_factory=dict)
    binary_default: bool = False
    binary: dict[str, bool] = field(default_factory=dict)


class OpenInferenceDialect:
    """The codec of `/v2/models/{name}/infer`."""

    name = "v2"

    def decode(self, request: HttpRequest, target: Target) -> tuple[Call, InferContext]:
        """Tensors with checked datatypes and shapes; the runtime checks them against its signature."""
        head, tail = split_body(request)
        message = decode_json(head)
        if not isinstance(message, dict):
            raise BadRequest("expected a JSON object")
        parameters = message.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise BadRequest('"parameters" must be an object')
        request_id = message.get("id")
        if request_id is not None and not isinstance(request_id, str):
            raise BadRequest('"id" must be a text')
        context = InferContext(
            request_id=request_id or new_id(),
            binary_default=parameters.get("binary_data_output") is True,
        )
        names = _parse_outputs(message.get("outputs"), target, context)
        if target.info.scripted:
            if tail:
                raise BadRequest("the model's score script takes JSON tensors only")
            text = decode_text(bytes(head))
            call = Call(TextInput(text), headers=request.public_headers(), body=request.body)
            return call, context
        tensors = _parse_inputs(message.get("inputs"), tail)
        call = Call(TensorsInput(tensors), outputs=names, parameters=parameters)
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
            tensors: Tensors = {"output-0": tensor_of(output.value)}
        else:
            tensors = output.tensors
        chunks: list[bytes] = []
        outputs = []
        for name, array in tensors.items():
            item: dict[str, Any] = {
                "name": context.asked.get(name, name),
                "datatype": datatype_of(array),
                "shape": list(array.shape),
            }
            if context.binary.get(name, context.binary_default):
                chunk = render_binary_tensor(array)
                item["parameters"] = {"binary_data_size": len(chunk)}
                chunks.append(chunk)
            else:
                item["data"] = render_json_data(array)
            outputs.append(item)
        head = encode_json(
            {
                "model_name": target.name,
                "model_version": target.version,
                "id": context.request_id,
                "outputs": outputs,
            }
        )
        if not chunks:
            return Answer(200, head)
        return Answer(
            200,
            b"".join((head, *chunks)),
            "application/octet-stream",
            (("Inference-Header-Content-Length", str(len(head))),),
        )

    def error(self, error: RequestError) -> Answer:
        """`{"error": …}`."""
        return Answer(error.status, encode_json({"error": error.message}), headers=error.headers)


def new_id() -> str:
    """A UUID (version 4) for a request that brought no id; nothing depends on its being hard to guess."""
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


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
        return request.body, memoryview(b"")
    if b"content-encoding" in headers:
        refuse_encoding(request)
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise BadRequest("Inference-Header-Content-Length must be a number of bytes")
    length = int(text)
    if length > len(request.body):
        raise BadRequest(
            f"Inference-Header-Content-Length is {length}, and the body has {len(request.body)} bytes"
        )
    view = memoryview(request.body)
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


def _parse_outputs(outputs: Any, target: Target, context: InferContext) -> tuple[str, ...]:
    """The runtime's names of the outputs asked for; `output-N` means the N-th, as in KServe's own server."""
    if not outputs:
        return ()
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
        context.asked[name] = asked
        parameters = item.get("parameters")
        if isinstance(parameters, dict) and isinstance(parameters.get("binary_data"), bool):
            context.binary[name] = parameters["binary_data"]
    return tuple(context.asked)


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
