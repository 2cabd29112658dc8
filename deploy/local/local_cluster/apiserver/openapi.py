"""OpenAPI: the index and documents of ``/openapi/v3``, and ``/openapi/v2`` for older clients.

Built-in groups come from the documents of the schema package, custom resources are described from their CRDs. Each
document is named with its hash, so that clients keep it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from typing import Any

import orjson

from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.errors import no_such_path
from local_cluster.apiserver.resources import Manifest, Resource

V2_PROTOBUF_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_INFO = {"title": "Kubernetes", "version": "v1.36.0"}
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_VERBS = {
    "get": "get",
    "list": "get",
    "create": "post",
    "update": "put",
    "patch": "patch",
    "delete": "delete",
}
_PATCH_TYPES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
)


class OpenAPI:
    """Builds and keeps OpenAPI documents."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._builtin: dict[str, tuple[bytes, str]] = {}
        self._custom: dict[str, tuple[bytes, str]] = {}
        self._v2: dict[bool, tuple[bytes, str]] = {}
        self._made_for = -1

    def index(self) -> bytes:
        """Give the index of ``/openapi/v3``."""
        paths = {}
        for group, versions in self._cluster.registry.groups():
            for version in versions:
                path = f"apis/{group}/{version}" if group else f"api/{version}"
                try:
                    _, digest = self.document(path)
                except Exception as err:
                    if getattr(err, "code", 0) != 404:
                        raise
                    continue
                paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
        return orjson.dumps({"paths": paths})

    def document(self, path: str) -> tuple[bytes, str]:
        """Give one document.

        Args:
            path: such as ``api/v1`` or ``apis/apps/v1``.

        Returns:
            The document and its hash.

        Raises:
            ApiError: 404.
        """
        parts = path.split("/")
        if parts[0] == "api" and len(parts) == 2:
            group, version = "", parts[1]
        elif parts[0] == "apis" and len(parts) == 3:
            group, version = parts[1], parts[2]
        else:
            raise no_such_path()
        if not self._cluster.registry.has_version(group, version):
            raise no_such_path()
        self._forget_old()
        if path in self._builtin:
            return self._builtin[path]
        if path not in self._custom:
            resources = self._cluster.registry.resources(group, version)
            custom = [r for r in resources if r.crd is not None]
            body = self._cluster.catalog.document(group, version)
            if body is None and not custom:
                raise no_such_path()
            if not custom and body is not None:
                self._builtin[path] = (body, _digest(body))
                return self._builtin[path]
            body = orjson.dumps(self._describe(group, version, custom))
            self._custom[path] = (body, _digest(body))
        return self._custom[path]

    def v2(self, protobuf: bool) -> tuple[bytes, str]:
        """Give the document of ``/openapi/v2``, and its ETag.

        Args:
            protobuf: in the form that kubectl asks for. It then names no types, because kubectl reads all of
                them from v3 and only wants to see that there is a document; JSON has them all.
        """
        self._forget_old()
        if protobuf not in self._v2:
            body = _v2_protobuf() if protobuf else orjson.dumps(self._build_v2())
            self._v2[protobuf] = (body, f'"{_digest(body)}"')
        return self._v2[protobuf]

    def _forget_old(self) -> None:
        if self._made_for != self._cluster.registry.changes:
            self._custom.clear()
            self._v2.clear()
            self._made_for = self._cluster.registry.changes

    def _describe(self, group: str, version: str, resources: Iterable[Resource]) -> Manifest:
        schemas: Manifest = {}
        paths: Manifest = {}
        for resource in resources:
            name = _schema_name(resource)
            schemas[name] = _crd_schema(resource)
            schemas[name + "List"] = _list_schema(resource, name)
            paths.update(_crd_paths(resource, name))
        self._add_meta_schemas(schemas)
        return {
            "openapi": "3.0.0",
            "info": _INFO,
            "paths": paths,
            "components": {"schemas": schemas},
        }

    def _add_meta_schemas(self, schemas: Manifest) -> None:
        body = self._cluster.catalog.document("apps", "v1")
        known = orjson.loads(body)["components"]["schemas"] if body else {}
        wanted = ["ObjectMeta", "ListMeta", "DeleteOptions", "Status", "Patch"]
        todo = [_META + name for name in wanted]
        while todo:
            name = todo.pop()
            if name in schemas or name not in known:
                continue
            schemas[name] = known[name]
            todo.extend(_references(known[name]))

    def _build_v2(self) -> Manifest:
        definitions: Manifest = {}
        for group, versions in self._cluster.registry.groups():
            for version in versions:
                path = f"apis/{group}/{version}" if group else f"api/{version}"
                try:
                    body, _ = self.document(path)
                except Exception as err:
                    if getattr(err, "code", 0) != 404:
                        raise
                    continue
                schemas = orjson.loads(body)["components"]["schemas"]
                definitions.update({name: _to_v2(schema) for name, schema in schemas.items()})
        return {"swagger": "2.0", "info": _INFO, "paths": {}, "definitions": definitions}


def _digest(body: bytes) -> str:
    return hashlib.sha512(body).hexdigest().upper()


def _schema_name(resource: Resource) -> str:
    reversed_group = ".".join(reversed(resource.group.split(".")))
    return f"{reversed_group}.{resource.version}.{resource.kind}"


def _reference(name: str) -> Manifest:
    return {"$ref": f"#/components/schemas/{name}"}


def _gvk(resource: Resource, kind: str) -> list[Manifest]:
    return [{"group": resource.group, "kind": kind, "version": resource.version}]


def _crd_schema(resource: Resource) -> Manifest:
    declared = resource.version_schema.get("schema") or {}
    schema: Manifest = copy.deepcopy(declared.get("openAPIV3Schema") or {"type": "object"})
    if schema.get("x-kubernetes-preserve-unknown-fields") and "properties" not in schema:
        schema.setdefault("type", "object")
    properties = schema.setdefault("properties", {})
    properties["apiVersion"] = {
        "description": "APIVersion defines the versioned schema of this representation of an object. Servers should "
        "convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: "
        "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
        "type": "string",
    }
    properties["kind"] = {
        "description": "Kind is a string value representing the REST resource this object represents. Servers may "
        "infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: "
        "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
        "type": "string",
    }
    properties["metadata"] = {
        "description": "Standard object's metadata. More info: "
        "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        "allOf": [_reference(_META + "ObjectMeta")],
    }
    schema["x-kubernetes-group-version-kind"] = _gvk(resource, resource.kind)
    return schema


def _list_schema(resource: Resource, name: str) -> Manifest:
    items = {
        "type": "array",
        "items": _reference(name),
        "description": f"List of {resource.plural}.",
    }
    return {
        "type": "object",
        "required": ["items"],
        "description": f"{resource.list_kind} is a list of {resource.kind}",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "items": items,
            "metadata": {"allOf": [_reference(_META + "ListMeta")]},
        },
        "x-kubernetes-group-version-kind": _gvk(resource, resource.list_kind),
    }


def _parameter(name: str, kind: str = "string", where: str = "query") -> Manifest:
    parameter: Manifest = {"name": name, "in": where, "schema": {"type": kind, "uniqueItems": True}}
    if where == "path":
        parameter["required"] = True
    return parameter


def _crd_paths(resource: Resource, name: str) -> Manifest:
    scope = "namespaces/{namespace}/" if resource.namespaced else ""
    base = f"/apis/{resource.group}/{resource.version}/{scope}{resource.plural}"
    common = [_parameter("namespace", where="path")] if resource.namespaced else []
    one = [*common, _parameter("name", where="path")]
    paths: Manifest = {
        base: {
            "parameters": common,
            **_operations(resource, name, ("list", "create"), name + "List"),
        },
        base + "/{name}": {
            "parameters": one,
            **_operations(resource, name, ("get", "update", "patch", "delete"), name),
        },
    }
    for sub in resource.subresources:
        paths[f"{base}/{{name}}/{sub}"] = {
            "parameters": one,
            **_operations(resource, name, ("get", "update", "patch"), name),
        }
    return paths


def _operations(resource: Resource, name: str, verbs: Iterable[str], answer: str) -> Manifest:
    operations: Manifest = {}
    for verb in verbs:
        method = _VERBS[verb]
        operation: Manifest = {
            "tags": [f"{resource.group}_{resource.version}"],
            "operationId": f"{verb}{resource.kind}",
            "responses": {
                "200": {
                    "description": "OK",
                    "content": {"application/json": {"schema": _reference(answer)}},
                }
            },
            "x-kubernetes-action": {"create": "post", "update": "put"}.get(verb, verb),
            "x-kubernetes-group-version-kind": _gvk(resource, resource.kind)[0],
        }
        if verb in {"create", "update", "patch"}:
            # kubectl looks for fieldValidation here before it asks the server to validate.
            operation["parameters"] = [
                _parameter(p) for p in ("dryRun", "fieldManager", "fieldValidation")
            ]
            if verb == "patch":
                operation["parameters"].append(_parameter("force", "boolean"))
                content = {t: {"schema": _reference(_META + "Patch")} for t in _PATCH_TYPES}
            else:
                content = {"application/json": {"schema": _reference(name)}}
            operation["requestBody"] = {"content": content, "required": True}
        operations[method] = operation
    return operations


def _references(schema: Any) -> list[str]:
    found: list[str] = []
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                found.append(value.rsplit("/", 1)[-1])
            else:
                found.extend(_references(value))
    elif isinstance(schema, list):
        for value in schema:
            found.extend(_references(value))
    return found


def _to_v2(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_to_v2(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    single = schema.get("allOf")
    if isinstance(single, list) and len(single) == 1 and "$ref" in single[0]:
        schema = {**{k: v for k, v in schema.items() if k not in {"allOf", "default"}}, **single[0]}
    result = {}
    for key, value in schema.items():
        if key in {"oneOf", "anyOf", "not", "nullable"}:
            continue  # not in the v2 language
        if key == "$ref" and isinstance(value, str):
            value = value.replace("#/components/schemas/", "#/definitions/")
        result[key] = _to_v2(value)
    return result


def _v2_protobuf() -> bytes:
    """Encode an OpenAPI v2 document without types: swagger, info, and empty paths (openapiv2.Document)."""

    def text(number: int, value: str | bytes) -> bytes:
        data = value.encode() if isinstance(value, str) else value
        return bytes([number << 3 | 2, len(data)]) + data

    info = text(1, _INFO["title"]) + text(2, _INFO["version"])
    return text(1, "2.0") + text(2, info) + text(8, b"") + text(9, b"")
