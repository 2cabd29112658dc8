"""Tables and metadata-only answers: objects in, what ``kubectl get`` asks for out.

Column definitions of built-in types are in ``columns.json``, as a real server sends them; those of custom resources
come from ``additionalPrinterColumns``.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from local_cluster.apiserver.clock import format_age
from local_cluster.apiserver.errors import bad_request
from local_cluster.apiserver.jsonpath import JsonPathError, compile_path
from local_cluster.apiserver.printers import PRINTERS
from local_cluster.apiserver.resources import Manifest, Resource

_AGE_COLUMN = {
    "name": "Age",
    "type": "date",
    "jsonPath": ".metadata.creationTimestamp",
}


@cache
def _builtin_columns() -> dict[str, list[list[Any]]]:
    text = files(__package__).joinpath("columns.json").read_text(encoding="utf-8")
    columns: dict[str, list[list[Any]]] = json.loads(text)
    return columns


def _crd_columns(resource: Resource) -> list[Manifest]:
    return list(resource.version_schema.get("additionalPrinterColumns") or [_AGE_COLUMN])


def build_columns(resource: Resource) -> list[Manifest]:
    """Build the ``columnDefinitions`` of a type."""
    builtin = _builtin_columns()
    if resource.crd is None:
        columns = builtin.get(resource.plural, []) if resource.storage_key in PRINTERS else []
        keys = ("name", "type", "format", "description", "priority")
        return [dict(zip(keys, column, strict=True)) for column in columns or builtin[""]]
    keys = ("name", "type", "format", "description", "priority")
    result = [dict(zip(keys, builtin[""][0], strict=True))]
    for column in _crd_columns(resource):
        fallback = f"Custom resource definition column (in JSONPath format): {column['jsonPath']}"
        result.append(
            {
                "name": column["name"],
                "type": column["type"],
                "format": column.get("format", ""),
                "description": column.get("description") or fallback,
                "priority": column.get("priority", 0),
            }
        )
    return result


def _crd_cell(obj: Manifest, column: Manifest) -> Any:
    try:
        found = compile_path(column["jsonPath"])(obj)
    except JsonPathError:
        return None
    if not found or found[0] is None:
        return None
    value, kind = found[0], column["type"]
    if kind == "date":
        return format_age(value) if isinstance(value, str) else "<invalid>"
    if kind == "string":
        if len(found) > 1 or isinstance(value, (dict, list)):
            value = found if len(found) > 1 else value
            return json.dumps(value, separators=(",", ":"))
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)
    if kind == "integer":
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return None
        try:
            return int(value)
        except ValueError:
            return None
    if kind == "number":
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    return None


def build_cells(obj: Manifest, resource: Resource) -> list[Any]:
    """Build the cells of one row."""
    if resource.crd is not None:
        cells = [_crd_cell(obj, column) for column in _crd_columns(resource)]
        return [obj["metadata"]["name"], *cells]
    printer = PRINTERS.get(resource.storage_key)
    if printer is None:
        return [obj["metadata"]["name"], obj["metadata"].get("creationTimestamp")]
    return printer(obj)


def build_partial(obj: Manifest, version: str = "meta.k8s.io/v1") -> Manifest:
    """Build the ``PartialObjectMetadata`` of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": obj["metadata"]}


def build_row(obj: Manifest, resource: Resource, include: str, version: str) -> Manifest:
    """Build one row.

    Args:
        obj: in the version of `resource`.
        resource: its type.
        include: the query's ``includeObject``: ``None``, ``Object`` or (default) ``Metadata``.
        version: apiVersion of the table.
    """
    row: Manifest = {"cells": build_cells(obj, resource)}
    if include == "Object":
        row["object"] = obj
    elif include == "None":
        row["object"] = None
    else:
        row["object"] = build_partial(obj, version)
    return row


def build_table(
    objs: list[Manifest],
    resource: Resource,
    metadata: Manifest,
    *,
    include: str = "Metadata",
    version: str = "meta.k8s.io/v1",
    headers: bool = True,
) -> Manifest:
    """Build a table.

    Args:
        objs: in the version of `resource`.
        resource: their type.
        metadata: list metadata of the table.
        include: see `build_row`.
        version: apiVersion of the table.
        headers: whether to send the column definitions (not again in a watch).

    Raises:
        ApiError: 400, `include` is none of those known.
    """
    if include not in {"", "Metadata", "Object", "None"}:
        raise bad_request(
            f'Unable to convert to Table as requested: includeObject: Invalid value: "{include}": '
            "must be 'Metadata', 'Object', 'None', or empty"
        )
    return {
        "kind": "Table",
        "apiVersion": version,
        "metadata": metadata,
        "columnDefinitions": build_columns(resource) if headers else None,
        "rows": [build_row(obj, resource, include, version) for obj in objs],
    }
