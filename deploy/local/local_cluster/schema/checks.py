"""Value validations of custom resources: types, required fields, limits, formats, list keys, and CEL rules.

Values that did not change since the stored object are not checked again, so that a tightened schema does not lock objects in
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-ratcheting).
"""

from __future__ import annotations

from typing import Any

from local_cluster.schema.errors import (
    FieldError,
    duplicate,
    invalid,
    required,
    show,
    too_long,
    too_many,
    unsupported,
)
from local_cluster.schema.fieldset import item_key
from local_cluster.schema.formats import FORMATS
from local_cluster.schema.node import Compiler, Schema
from local_cluster.schema.patterns import compile_pattern

_ABSENT: Any = object()
_JSON_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}


def check_object(
    obj: dict[str, Any], schema: Schema, old: dict[str, Any] | None
) -> list[FieldError]:
    """Check a custom resource against its schema, CEL rules not included."""
    errors: list[FieldError] = []
    _check_object(obj, schema, "", errors, old if old is not None else _ABSENT)
    return errors


def _check(value: Any, node: Schema, path: str, errors: list[FieldError], old: Any) -> None:
    if old is not _ABSENT and old == value and type(old) is type(value):
        return
    if value is None:
        if not node.nullable and (node.type or node.int_or_string):
            errors.append(_wrong_type(path, "null", node.type or "integer,string"))
        return
    kind = node.type
    if kind == "object":
        if not isinstance(value, dict):
            errors.append(_wrong_type(path, value, kind))
            return
        _check_object(value, node, path, errors, old)
    elif kind == "array":
        if not isinstance(value, list):
            errors.append(_wrong_type(path, value, kind))
            return
        _check_list(value, node, path, errors, old)
    elif kind == "string":
        if not isinstance(value, str):
            errors.append(_wrong_type(path, value, kind))
            return
    elif kind == "integer":
        if (
            not isinstance(value, int) and not (isinstance(value, float) and value.is_integer())
        ) or isinstance(value, bool):
            errors.append(_wrong_type(path, value, kind))
            return
    elif kind == "number":
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            errors.append(_wrong_type(path, value, kind))
            return
    elif kind == "boolean":
        if not isinstance(value, bool):
            errors.append(_wrong_type(path, value, kind))
            return
    elif node.int_or_string:
        if not isinstance(value, (int, str)) or isinstance(value, bool):
            errors.append(_wrong_type(path, value, "integer,string"))
            return
    elif isinstance(value, dict):
        _check_object(value, node, path, errors, old)
    elif isinstance(value, list):
        _check_list(value, node, path, errors, old)
    if node.enum is not None and value not in node.enum:
        errors.append(unsupported(path, value, node.enum))
    if node.format and isinstance(value, str):
        known = FORMATS.get(node.format)
        if known is not None and not known(value):
            text = f"Invalid value: {show(value)}: {path} in body must be of type {node.format}: {show(value)}"
            errors.append(FieldError(path, "FieldValueInvalid", text))
    elif node.format == "int32" and isinstance(value, int) and not -(2**31) <= value < 2**31:
        errors.append(invalid(path, value, f"{path} in body must be of type int32: {show(value)}"))
    if node.raw:
        _check_limits(value, node.raw, path, errors)


def _wrong_type(path: str, value: Any, wanted: str) -> FieldError:
    name = value if value == "null" else _JSON_TYPES.get(type(value), "null")
    where = path or '""'
    text = f'Invalid value: "{name}": {where} in body must be of type {wanted}: "{name}"'
    return FieldError(path or "<nil>", "FieldValueTypeInvalid", text)


def _check_object(
    value: dict[str, Any], node: Schema, path: str, errors: list[FieldError], old: Any
) -> None:
    prefix = f"{path}." if path else ""
    before = old if isinstance(old, dict) else None
    for name in node.required:
        if name not in value:
            errors.append(required(prefix + name))
    properties, additional = node.properties, node.additional
    for name, item in value.items():
        child = properties.get(name, additional)
        if child is None or child.native:
            continue
        _check(
            item,
            child,
            prefix + name,
            errors,
            before.get(name, _ABSENT) if before is not None else _ABSENT,
        )


def _check_list(
    value: list[Any], node: Schema, path: str, errors: list[FieldError], old: Any
) -> None:
    before: dict[str, Any] = {}
    if node.list_type != "atomic":
        if isinstance(old, list) and node.list_type == "map":
            before = {item_key(item, node): item for item in old if isinstance(item, dict)}
        seen: set[str] = set()
        for position, item in enumerate(value):
            if node.list_type == "map" and not isinstance(item, dict):
                continue
            key = item_key(item, node)
            if key in seen:
                shown = (
                    {name: item.get(name) for name in node.map_keys}
                    if node.list_type == "map"
                    else item
                )
                errors.append(duplicate(f"{path}[{position}]", shown))
            seen.add(key)
    items = node.items
    if items is None:
        return
    for position, item in enumerate(value):
        previous = (
            before.get(item_key(item, node), _ABSENT)
            if before and isinstance(item, dict)
            else _ABSENT
        )
        _check(item, items, f"{path}[{position}]", errors, previous)


def _check_limits(value: Any, raw: dict[str, Any], path: str, errors: list[FieldError]) -> None:
    if isinstance(value, str):
        size = len(value)
        if size < raw.get("minLength", 0):
            errors.append(
                invalid(
                    path, value, f"{path} in body should be at least {raw['minLength']} chars long"
                )
            )
        limit = raw.get("maxLength")
        if limit is not None and size > limit:
            errors.append(too_long(path, limit))
        pattern = raw.get("pattern")
        if pattern is not None and compile_pattern(pattern).search(value) is None:
            errors.append(invalid(path, value, f"{path} in body should match '{pattern}'"))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high, step = raw.get("minimum"), raw.get("maximum"), raw.get("multipleOf")
        if low is not None:
            if raw.get("exclusiveMinimum"):
                if value <= low:
                    errors.append(
                        invalid(path, value, f"{path} in body should be greater than {low}")
                    )
            elif value < low:
                errors.append(
                    invalid(path, value, f"{path} in body should be greater than or equal to {low}")
                )
        if high is not None:
            if raw.get("exclusiveMaximum"):
                if value >= high:
                    errors.append(
                        invalid(path, value, f"{path} in body should be less than {high}")
                    )
            elif value > high:
                errors.append(
                    invalid(path, value, f"{path} in body should be less than or equal to {high}")
                )
        if step and value % step:
            errors.append(invalid(path, value, f"{path} in body should be a multiple of {step}"))
    elif isinstance(value, list):
        if len(value) < raw.get("minItems", 0):
            errors.append(
                invalid(
                    path, len(value), f"{path} in body should have at least {raw['minItems']} items"
                )
            )
        limit = raw.get("maxItems")
        if limit is not None and len(value) > limit:
            errors.append(too_many(path, len(value), limit))
    elif isinstance(value, dict):
        if len(value) < raw.get("minProperties", 0):
            text = f"{path} in body should have at least {raw['minProperties']} properties"
            errors.append(invalid(path, len(value), text))
        limit = raw.get("maxProperties")
        if limit is not None and len(value) > limit:
            errors.append(too_many(path, len(value), limit))
    if "allOf" in raw or "anyOf" in raw or "oneOf" in raw or "not" in raw:
        _check_junctors(value, raw, path, errors)


def _fits(value: Any, part: dict[str, Any], path: str) -> bool:
    found: list[FieldError] = []
    _check(value, _junctor(part), path, found, _ABSENT)
    return not found


_junctors: dict[int, tuple[dict[str, Any], Schema]] = {}


def _junctor(part: dict[str, Any]) -> Schema:
    cached = _junctors.get(id(part))
    if cached is None or cached[0] is not part:
        # The raw schema is kept with its node, so that its id stays its own.
        cached = _junctors[id(part)] = (part, Compiler({}, native=False).node(part))
    return cached[1]


def _check_junctors(value: Any, raw: dict[str, Any], path: str, errors: list[FieldError]) -> None:
    shown = f'"{path}"'
    for part in raw.get("allOf", ()):
        _check(value, _junctor(part), path, errors, _ABSENT)
    choices = raw.get("anyOf")
    if choices and not any(_fits(value, part, path) for part in choices):
        errors.append(_logic(path, f"{shown} must validate at least one schema (anyOf)"))
    choices = raw.get("oneOf")
    if choices:
        count = sum(_fits(value, part, path) for part in choices)
        if count != 1:
            found = "none valid" if not count else f"{count} valid alternatives"
            errors.append(
                _logic(
                    path, f"{shown} must validate one and only one schema (oneOf). Found {found}"
                )
            )
    if "not" in raw and _fits(value, raw["not"], path):
        errors.append(_logic(path, f"{shown} must not validate the schema (not)"))


def _logic(path: str, text: str) -> FieldError:
    return FieldError(path or "<nil>", "FieldValueInvalid", f'Invalid value: "": {text}')
