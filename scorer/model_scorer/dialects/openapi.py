"""The model's API described: OpenAPI 3.1 for all routes. Pure.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from typing import Any

from model_scorer.dialects.protocol import Target
from model_scorer.json_text import encode_json
from model_scorer.runtimes.protocol import Signature, TensorSpec

# More than these nobody reads in a description; V2's metadata has all.
MAX_NAMED_CLASSES = 20
MAX_SAMPLE_BYTES = 16_384
MAX_SAMPLE_DEPTH = 6
_EXAMPLES: dict[str, Any] = {"string": "text", "boolean": True, "integer": 1, "number": 1.0}
_EXAMPLE_TIME = "2000-01-01T00:00:00Z"
_JSON_TYPES = {"BOOL": "boolean", "BYTES": "string"}


def json_type(datatype: str) -> str:
    """The JSON schema type of a tensor's elements."""
    if datatype in _JSON_TYPES:
        return _JSON_TYPES[datatype]
    return "number" if datatype.startswith(("FP", "BF")) else "integer"


def row_schema(signature: Signature) -> dict[str, Any]:
    """The schema of one row, as the row-based dialects take it."""
    if signature.columns:
        types = column_types(signature)
        properties = {name: _column_schema(name, types[name], signature) for name in types}
        row: dict[str, Any] = {
            "type": "array",
            "minItems": len(signature.columns),
            "maxItems": len(signature.columns),
        }
        record = {
            "type": "object",
            "properties": properties,
            "required": [name for name in signature.columns if name not in signature.optional],
            "additionalProperties": False,
        }
        return {"oneOf": [record, row]}
    if signature.row_width is not None:
        return {
            "type": "array",
            "items": {"type": ["number", "null"]},
            "minItems": signature.row_width,
            "maxItems": signature.row_width,
        }
    if len(signature.inputs) == 1 and signature.inputs[0].datatype == "BYTES":
        return {"type": "string"}
    return {}


def column_types(signature: Signature) -> dict[str, str]:
    """The JSON schema type of each column's values."""
    types = {spec.name: json_type(spec.datatype) for spec in signature.inputs}
    return {name: types.get(name, "number") for name in signature.columns}


def _column_schema(name: str, kind: str, signature: Signature) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": [kind, "null"] if name in signature.optional else kind}
    return schema | ({"format": "date-time"} if name in signature.times else {})


def example_row(signature: Signature) -> Any:
    """A row that the model's signature admits, or None when nothing is known."""
    if signature.columns:
        return {
            name: _EXAMPLE_TIME if name in signature.times else _EXAMPLES[kind]
            for name, kind in column_types(signature).items()
        }
    if signature.row_width is not None:
        return [1.0] * signature.row_width
    if len(signature.inputs) == 1 and signature.inputs[0].datatype == "BYTES":
        return "a text"
    return None


def answer_schema(target: Target) -> dict[str, Any]:
    """The schema of the answer in the dialects that show the first output alone; empty when nothing is known."""
    signature = target.signature
    if not signature.outputs:
        return {}
    classes = list(signature.classes)
    first = signature.outputs[0]
    if first.name not in ("predict", "predict_proba"):
        return {}  # networks show their best labels instead
    if classes and len(first.shape) == 1:
        return {"type": "array", "items": {"enum": classes}}
    if classes and first.shape[1:] == (len(classes),):
        row = {"type": "array", "items": {"type": "number"}, "minItems": len(classes)}
        names = ", ".join(map(str, classes[:MAX_NAMED_CLASSES]))
        more = ", …" if len(classes) > MAX_NAMED_CLASSES else ""
        row |= {"maxItems": len(classes), "description": f"One number for each of {names}{more}."}
        return {"type": "array", "items": row}
    return {}


def sample_schema(value: Any, depth: int = 0) -> dict[str, Any]:
    """The schema that one sample suggests: types, and nothing that would refuse another request of the kind.

    Args:
        value: the sample request, or a part of it.
        depth: of the part; deeper than a few levels everything is left open.
    """
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int | float):
        return {"type": "number"}
    if isinstance(value, str):
        return {"type": "string"}
    if depth >= MAX_SAMPLE_DEPTH:
        return {}
    if isinstance(value, list):
        items = [sample_schema(item, depth + 1) for item in value[:MAX_NAMED_CLASSES]]
        alike = bool(items) and all(item == items[0] for item in items)
        return {"type": "array", "items": items[0] if alike else {}}
    if isinstance(value, dict):
        properties = {name: sample_schema(item, depth + 1) for name, item in value.items()}
        return {"type": "object", "properties": properties}
    return {}


def _sample_row(sample: Any) -> Any:
    """The first row of a sample of rows, or None."""
    for key in ("data", "input", "instances"):
        rows = sample.get(key) if isinstance(sample, dict) else None
        if isinstance(rows, list) and rows and isinstance(rows[0], list | dict | str):
            return rows[0]
    return None


def is_small(sample: Any) -> bool:
    """Whether a sample is short enough to be shown: a picture in base64 is not."""
    return len(encode_json(sample)) <= MAX_SAMPLE_BYTES


def _example_tensor(spec: TensorSpec, signature: Signature) -> dict[str, Any] | None:
    shape = [1, *(size if size >= 0 else 1 for size in spec.shape[1:])]
    count = 1
    for size in shape:
        count *= size
    if count > 64:
        return None
    value: Any = {"string": "a text", "boolean": True, "integer": 1}.get(
        json_type(spec.datatype), 1.0
    )
    if spec.name in signature.times:
        value = _EXAMPLE_TIME
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": [value] * count}


def build_openapi(target: Target, sample: Any = None) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every route that this model answers.

    Args:
        target: the model.
        sample: `spec.test.request`, or None; it is the best example, and all that is known of what a script takes.
    """
    rows = {"type": "array", "items": row_schema(target.signature), "minItems": 1}
    if sample is not None and not is_small(sample):
        sample = None
    row = None if target.info.scripted else _sample_row(sample) or example_row(target.signature)
    tensors = [_example_tensor(spec, target.signature) for spec in target.signature.inputs]
    has_tensors = bool(tensors) and all(t is not None for t in tensors)
    schemas = {
        "Rows": rows,
        "ScoreRequest": sample_schema(sample)
        if target.info.scripted
        else _one_of_keys(("data", "input", "instances")),
        "ScoreAnswer": {},
        "PredictRequest": {
            "type": "object",
            "properties": {"instances": {"$ref": "#/components/schemas/Rows"}},
            "required": ["instances"],
        },
        "PredictAnswer": {
            "type": "object",
            "properties": {"predictions": answer_schema(target)},
            "required": ["predictions"],
        },
        "Tensor": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "datatype": {"type": "string"},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "parameters": {"type": "object"},
                "data": {"type": "array"},
            },
            "required": ["name", "datatype", "shape"],
        },
        "InferRequest": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "inputs": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"$ref": "#/components/schemas/Tensor"},
                },
                "outputs": {"type": "array", "items": {"type": "object"}},
            },
            "required": ["inputs"],
        },
        "InferAnswer": {
            "type": "object",
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            },
            "required": ["model_name", "outputs"],
        },
        "Message": error_schema("message"),
        "Error": error_schema("error"),
    }
    name = target.name
    paths = {
        "/score": _post(
            "score",
            "ScoreRequest",
            "ScoreAnswer",
            "Message",
            (row and {"data": [row]}) if sample is None else sample,
        ),
        f"/v1/models/{name}:predict": _post(
            "predict", "PredictRequest", "PredictAnswer", "Error", row and {"instances": [row]}
        ),
        f"/v2/models/{name}/infer": _post(
            "infer",
            "InferRequest",
            "InferAnswer",
            "Error",
            {"inputs": tensors} if has_tensors else None,
        ),
        "/invocations": _post(
            "invocations",
            "PredictRequest",
            "PredictAnswer",
            "Message",
            row and {"instances": [row]},
        ),
        f"/predictions/{name}": _post(
            "predictions", "Rows", "ScoreAnswer", "Message", row and [row]
        ),
        "/": {"get": {"operationId": "health", "security": [], "responses": _text("Healthy")}},
        "/version": {"get": {"operationId": "version", "responses": _text("Versions")}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": target.version},
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _one_of_keys(keys: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "anyOf": [
            {"properties": {key: {"$ref": "#/components/schemas/Rows"}}, "required": [key]}
            for key in keys
        ],
    }


def error_schema(key: str) -> dict[str, Any]:
    """An object with a text under one key."""
    return {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}


def _text(description: str) -> dict[str, Any]:
    return {"200": {"description": description}}


def _post(operation: str, request: str, answer: str, error: str, example: Any) -> dict[str, Any]:
    def content(schema: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}

    body = content(request)
    if example:
        body["application/json"]["example"] = example
    failures = {
        "400": "The body does not fit the model.",
        "401": "No API key, or a wrong one.",
        "413": "The body is too large.",
        "415": "Another content type than JSON.",
        "422": "The content cannot be used.",
        "500": "The model failed.",
        "503": "Too many requests are waiting.",
        "504": "The deadline passed.",
    }
    return {
        "post": {
            "operationId": operation,
            "requestBody": {"required": True, "content": body},
            "responses": {
                "200": {"description": "The model's answer.", "content": content(answer)},
                **{
                    code: {"description": text, "content": content(error)}
                    for code, text in failures.items()
                },
            },
        }
    }
