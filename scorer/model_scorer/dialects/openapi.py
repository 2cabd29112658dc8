"""The model's API described: OpenAPI 3.1 for all routes, and Azure ML's swagger in its three versions. Pure.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from typing import Any

from model_scorer.dialects.protocol import Target
from model_scorer.runtimes.protocol import Signature, TensorSpec

_JSON_TYPES = {"BOOL": "boolean", "BYTES": "string"}


def json_type(datatype: str) -> str:
    """The JSON schema type of a tensor's elements."""
    if datatype in _JSON_TYPES:
        return _JSON_TYPES[datatype]
    return "number" if datatype.startswith(("FP", "BF")) else "integer"


def row_schema(signature: Signature) -> dict[str, Any]:
    """The schema of one row, as the row-based dialects take it."""
    if signature.columns:
        types = {spec.name: json_type(spec.datatype) for spec in signature.inputs}
        properties = {name: {"type": types.get(name, "number")} for name in signature.columns}
        row: dict[str, Any] = {
            "type": "array",
            "minItems": len(signature.columns),
            "maxItems": len(signature.columns),
        }
        record = {
            "type": "object",
            "properties": properties,
            "required": list(signature.columns),
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


def example_row(signature: Signature) -> Any:
    """A row that the model's signature admits, or None when nothing is known."""
    if signature.columns:
        types = {spec.name: spec.datatype for spec in signature.inputs}
        return {name: "text" if types.get(name) == "BYTES" else 1.0 for name in signature.columns}
    if signature.row_width is not None:
        return [1.0] * signature.row_width
    if len(signature.inputs) == 1 and signature.inputs[0].datatype == "BYTES":
        return "a text"
    return None


def _example_tensor(spec: TensorSpec) -> dict[str, Any] | None:
    shape = [1, *(size if size >= 0 else 1 for size in spec.shape[1:])]
    count = 1
    for size in shape:
        count *= size
    if count > 64:
        return None
    value: Any = {"string": "a text", "boolean": True, "integer": 1}.get(
        json_type(spec.datatype), 1.0
    )
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": [value] * count}


def build_openapi(target: Target) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every route that this model answers."""
    rows = {"type": "array", "items": row_schema(target.signature), "minItems": 1}
    row = example_row(target.signature)
    tensors = [_example_tensor(spec) for spec in target.signature.inputs]
    has_tensors = bool(tensors) and all(t is not None for t in tensors)
    schemas = {
        "Rows": rows,
        "ScoreRequest": {}
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
            "properties": {"predictions": {}},
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
        "Message": _error_schema("message"),
        "Error": _error_schema("error"),
    }
    name = target.name
    paths = {
        "/score": _post("score", "ScoreRequest", "ScoreAnswer", "Message", row and {"data": [row]}),
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


def _error_schema(key: str) -> dict[str, Any]:
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


def build_swagger(target: Target, version: str) -> dict[str, Any]:
    """Azure ML's description of `/score` alone: ServiceInput, ServiceOutput, ErrorResponse.

    Args:
        target: the model.
        version: `2`, `3` or `3.1`.
    """
    prefix = "#/definitions/" if version == "2" else "#/components/schemas/"
    row = example_row(target.signature)
    service_input: dict[str, Any] = {"type": "object"}
    if not target.info.scripted:
        service_input["properties"] = {"data": {"type": "array", "items": {}}}
        service_input["required"] = ["data"]
    if row is not None:
        service_input["example"] = {"data": [row]}
    schemas = {
        "ServiceInput": service_input,
        "ServiceOutput": {"type": "object"},
        "ErrorResponse": _error_schema("message"),
    }
    info = {
        "title": target.name,
        "description": f"API specification of {target.name}",
        "version": target.version,
    }

    def ref(name: str) -> dict[str, str]:
        return {"$ref": prefix + name}

    if version == "2":
        operation: dict[str, Any] = {
            "operationId": "RunMLService",
            "parameters": [
                {"name": "serviceInputPayload", "in": "body", "schema": ref("ServiceInput")}
            ],
            "responses": {
                "200": {"description": "The answer", "schema": ref("ServiceOutput")},
                "default": {"description": "A failure", "schema": ref("ErrorResponse")},
            },
        }
        return {
            "swagger": "2.0",
            "info": info,
            "schemes": ["https"],
            "consumes": ["application/json"],
            "produces": ["application/json"],
            "security": [{"Bearer": []}],
            "securityDefinitions": {
                "Bearer": {"type": "apiKey", "name": "Authorization", "in": "header"}
            },
            "paths": {"/score": {"post": operation}},
            "definitions": schemas,
        }

    def content(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": ref(name)}}

    return {
        "openapi": "3.0.3" if version == "3" else "3.1.0",
        "info": info,
        "security": [{"Bearer": []}],
        "paths": {
            "/score": {
                "post": {
                    "operationId": "RunMLService",
                    "requestBody": {"content": content("ServiceInput")},
                    "responses": {
                        "200": {"description": "The answer", "content": content("ServiceOutput")},
                        "default": {
                            "description": "A failure",
                            "content": content("ErrorResponse"),
                        },
                    },
                }
            }
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"Bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
