"""Azure ML's description of `/score` and the two pages beside it, in its three versions. Pure.

https://learn.microsoft.com/azure/machine-learning/how-to-inference-server-http
"""

from __future__ import annotations

from typing import Any

from model_scorer.dialects.openapi import error_schema, example_row, is_small, sample_schema
from model_scorer.dialects.protocol import Target


def build_swagger(target: Target, version: str, sample: Any = None) -> dict[str, Any]:
    """Azure ML's description of `/score` alone: ServiceInput, ServiceOutput, ErrorResponse.

    Args:
        target: the model.
        version: `2`, `3` or `3.1`.
        sample: `spec.test.request`, or None.
    """
    prefix = "#/definitions/" if version == "2" else "#/components/schemas/"
    row = example_row(target.signature)
    service_input: dict[str, Any] = {"type": "object"}
    if not target.info.scripted:
        service_input["properties"] = {"data": {"type": "array", "items": {}}}
        service_input["required"] = ["data"]
    if sample is not None and is_small(sample):
        if target.info.scripted:
            service_input = sample_schema(sample)
        service_input["example"] = sample
    elif row is not None:
        service_input["example"] = {"data": [row]}
    schemas = {
        "ServiceInput": service_input,
        "ServiceOutput": {"type": "object"},
        "ErrorResponse": error_schema("message"),
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
            "paths": {
                "/score": {"post": operation},
                **_swagger_pages({"schema": {"type": "string"}}),
            },
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
            },
            **_swagger_pages({"content": {"text/plain": {"schema": {"type": "string"}}}}),
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"Bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _swagger_pages(text: dict[str, Any]) -> dict[str, Any]:
    """The two pages beside `/score` that Azure ML's server has and describes.

    Args:
        text: how this version of the specification says that an answer is a text.
    """

    def page(operation: str, description: str) -> dict[str, Any]:
        answer = {"description": description, **text}
        return {"get": {"operationId": operation, "responses": {"200": answer}}}

    return {
        "/": page("ServiceHealthCheck", "Healthy"),
        "/swagger.json": page("GetSwaggerSpec", "This document"),
    }
