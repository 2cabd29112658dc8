"""Whether JSON fits the Go types of a built-in kind, and whether an applied object fits its schema at all."""

from __future__ import annotations

import json
import re
from typing import Any

from local_cluster.quantities import parse_quantity
from local_cluster.schema.fieldset import item_key, print_element
from local_cluster.schema.node import Schema

_INT_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=\r\n]|=(?=[^=\r\n])")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def json_type(value: Any) -> str:
    """Return the JSON type of a value in the words of Go's decoder."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def decode_error(
    obj: dict[str, Any], schema: Schema, group: str, version: str, kind: str
) -> str | None:
    """Return the message of the 400 that a real server answers an object with that does not fit its Go type.

    Args:
        obj: an object of a built-in kind, as the client sent it.
        schema: the schema of the kind; custom resources are never refused here but by `validate`.
        group: API group, empty for the core.
        version: API version.
        kind: the kind.

    Returns:
        The message, or None when the object can be decoded.
    """
    if not schema.native:
        return None
    problem = _native_error(obj, schema, schema.go_type, "", kind)
    if problem is None:
        return None
    return f'{kind} in version "{version}" cannot be handled as a {kind}: {problem}'


def _native_error(value: Any, node: Schema, struct: str, path: str, kind: str) -> str | None:
    if value is None:
        return None
    go = _go_name(node)
    found = json_type(value)
    if node.int_or_string:
        ok = isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))
    elif node.go_type == "Quantity":
        ok = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        if ok:
            try:
                parse_quantity(value)
            except ValueError as err:
                return str(err)
    elif node.go_type in ("Time", "MicroTime"):
        ok = isinstance(value, str)
        if ok and not _TIME.fullmatch(value):
            return f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" as "2006"'
    elif node.type == "object":
        ok = found == "object"
    elif node.type == "array":
        ok = found == "array"
    elif node.type == "string":
        ok = found == "string"
        if ok and node.format == "byte":
            bad = _NOT_BASE64.search(value)
            if bad is not None or len(value) % 4:
                return f"illegal base64 data at input byte {bad.start() if bad else len(value) // 4 * 4}"
    elif node.type == "boolean":
        ok = found == "bool"
    elif node.type == "integer":
        ok = isinstance(value, int) and not isinstance(value, bool)
        low, high = _INT_RANGES.get(node.format, _INT_RANGES["int64"])
        if found == "number" and (not ok or not low <= value <= high):
            ok, found = False, f"number {value}"
    elif node.type == "number":
        ok = found == "number"
    else:
        return None
    if not ok:
        where = f"Go struct field {struct}.{path}" if path else "Go value"
        return f"json: cannot unmarshal {found} into {where} of type {go}"
    if isinstance(value, dict):
        for name, child in value.items():
            below = node.child(name)
            if below is None or child is None:
                continue
            owner = node.go_type if name in node.properties and node.go_type else struct
            problem = _native_error(child, below, owner, f"{path}.{name}" if path else name, kind)
            if problem is not None:
                return problem
    elif isinstance(value, list) and node.items is not None:
        for item in value:
            problem = _native_error(item, node.items, struct, path, kind)
            if problem is not None:
                return problem
    return None


def _go_name(node: Schema) -> str:
    if node.type == "array" and node.items is not None:
        return "[]" + _go_name(node.items)
    if node.type == "object":
        if node.additional is not None and not node.properties:
            return "map[string]" + _go_name(node.additional)
        return f"v1.{node.go_type}" if node.go_type else "map[string]interface {}"
    if node.go_type in ("Time", "MicroTime", "Quantity"):
        return node.go_type
    if node.type == "integer":
        return node.format or "int64"
    return {"boolean": "bool", "number": "float64"}.get(node.type, node.type or "interface {}")


def typed_error(obj: dict[str, Any], schema: Schema) -> str | None:
    """Return why an applied object cannot be merged: undeclared fields, wrong shapes, duplicate list items."""
    errors: list[str] = []
    _typed(obj, schema, "", errors, root=True)
    if not errors:
        return None
    return errors[0] if len(errors) == 1 else "errors:\n" + "\n".join(f"  {e}" for e in errors)


_TYPED = frozenset({"object", "array", "integer", "number", "boolean"})


def _typed(
    value: Any, node: Schema | None, path: str, errors: list[str], *, root: bool = False
) -> None:
    if node is None or value is None:
        return
    if isinstance(value, dict):
        if node.type == "array":
            errors.append(f"{path}: expected list, got &{{{_go_map(value)}}}")
            return
        if node.type and node.type != "object" and not node.int_or_string:
            errors.append(
                f"{path}: expected {node.type}, got &value.valueUnstructured{{Value:map}}"
            )
            return
        open_ended = node.preserve_unknown or node.additional is not None or node.embedded
        open_ended = open_ended or (not node.properties and (node.native or not node.type))
        for name, child in value.items():
            below = node.child(name)
            if below is None:
                if not open_ended and not (root and name in ("apiVersion", "kind", "metadata")):
                    errors.append(f"{path}.{name}: field not declared in schema")
                continue
            if isinstance(child, (dict, list)) or below.type in _TYPED:
                _typed(child, below, f"{path}.{name}", errors)
    elif isinstance(value, list):
        if node.type == "object":
            errors.append(f"{path}: expected map, got &{{{value}}}")
            return
        seen: set[str] = set()
        for position, item in enumerate(value):
            where = f"{path}[{position}]"
            if node.list_type != "atomic":
                key = item_key(item, node)
                where = path + print_element(key)
                if key == "k:{}":
                    errors.append(
                        f"{path}: element {position}: associative list with keys has an element that omits all key fields "
                        f"[{' '.join(repr(k) for k in node.map_keys)}] (and doesn't have default values for any key fields)"
                    )
                elif key in seen:
                    errors.append(f"{path}: duplicate entries for key {print_element(key)}")
                seen.add(key)
            if isinstance(item, (dict, list)) or (
                node.items is not None and node.items.type == "object"
            ):
                _typed(item, node.items, where, errors)
    elif node.type in ("integer", "number") and not node.int_or_string:
        if isinstance(value, (str, bool)):
            kind = "string" if isinstance(value, str) else "bool"
            errors.append(f"{path}: expected numeric (int or float), got {kind}")
    elif node.type == "boolean" and not isinstance(value, bool):
        errors.append(f"{path}: expected boolean, got {json.dumps(value)}")
    elif node.type in ("object", "array") and not node.int_or_string:
        want = "map" if node.type == "object" else "list"
        errors.append(f"{path}: expected {want}, got &{{{value}}}")


def _go_map(value: dict[str, Any]) -> str:
    return "map[" + " ".join(f"{key}:{item}" for key, item in value.items()) + "]"
