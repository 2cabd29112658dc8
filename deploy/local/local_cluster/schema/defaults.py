"""Defaults: those that schemas declare, the canonical form of built-in types, and the coded ones of built-in kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from local_cluster.quantities import format_quantity
from local_cluster.schema.kind_defaults import KIND_DEFAULTS
from local_cluster.schema.node import Schema


def apply_defaults(
    obj: dict[str, Any], schema: Schema, group: str, version: str, kind: str
) -> dict[str, Any]:
    """Return the object as a real server would store it: defaults filled in, quantities and times canonical.

    Args:
        obj: an object that passed `decode_error`, with unknown fields pruned.
        schema: the schema of its kind.
        group: API group, empty for the core.
        version: API version.
        kind: the kind.

    Returns:
        A new object; applying defaults to it again changes nothing.
    """
    if not schema.native:
        result = _fill(obj, schema)
        return result if isinstance(result, dict) else obj
    out: dict[str, Any] = _canonical(obj, schema)
    fill = KIND_DEFAULTS.get((group, version, kind))
    if fill is not None:
        fill(out)
    return out


# --- custom resources -----------------------------------------------------------------------------------------------


def _defaulting(node: Schema) -> tuple[tuple[str, Schema], ...]:
    """Return the fields below which a default can apply or a null be dropped; the others are not walked."""
    plan: tuple[tuple[str, Schema], ...] | None = node.cache.get("defaulting")
    if plan is None:
        plan = node.cache["defaulting"] = tuple(
            (name, child)
            for name, child in node.properties.items()
            if child.has_default or _any_default(child)
        )
    return plan


def _any_default(node: Schema | None) -> bool:
    if node is None:
        return False
    return bool(node.properties) or _any_default(node.items) or _any_default(node.additional)


def _fill(value: Any, node: Schema) -> Any:
    if isinstance(value, dict):
        out = value
        for name, child in _defaulting(node):
            found = value.get(name)
            if found is None and (name not in value or not child.nullable):
                if not child.has_default:
                    continue
                fresh = _fill(copy.deepcopy(child.default), child)
            else:
                fresh = _fill(found, child)
                if fresh is found:
                    continue
            if out is value:
                out = dict(value)
            out[name] = fresh
        for name, found in value.items():
            known = node.properties.get(name)
            if found is None and known is not None and not known.nullable and not known.has_default:
                # A null where none is allowed counts as absent.
                if out is value:
                    out = dict(value)
                del out[name]
            elif isinstance(found, (dict, list)) and known is None and node.additional is not None:
                fresh = _fill(found, node.additional)
                if fresh is not found:
                    if out is value:
                        out = dict(value)
                    out[name] = fresh
        return out
    if isinstance(value, list) and node.items is not None and _any_default(node.items):
        fresh_items = [_fill(item, node.items) for item in value]
        if any(a is not b for a, b in zip(fresh_items, value, strict=True)):
            return fresh_items
    return value


# --- built-in kinds -------------------------------------------------------------------------------------------------


def _canonical(value: Any, node: Schema) -> Any:
    """Return the value as its Go type prints it; containers are copied, so that the coded defaults may edit them."""
    if isinstance(value, dict):
        if node.int_or_string or (not node.properties and node.additional is None):
            return value
        if node.additional is not None and not node.properties:
            inner = node.additional
            if inner.type == "string" and inner.go_type != "Quantity":
                return {key: item if item is not None else "" for key, item in value.items()}
            return {key: _canonical(item, inner) for key, item in value.items()}
        properties = node.properties
        out: dict[str, Any] = {}
        for name, item in value.items():
            child = properties.get(name)
            if item is None:
                continue
            if child is None:
                out[name] = item
            elif isinstance(item, (dict, list)):
                if item or name in node.required or not _is_collection(child):
                    out[name] = _canonical(item, child)
            else:
                out[name] = _scalar(item, child)
        for name, child in _structs(node):
            if name not in out:
                out[name] = _canonical({}, child)
        return out
    if isinstance(value, list):
        items = node.items
        if items is None:
            return value
        return [_canonical(item, items) for item in value]
    return _scalar(value, node)


def _is_collection(node: Schema) -> bool:
    """Tell a Go map or slice, which is not printed when empty, from a struct, which is."""
    return node.type == "array" or (node.additional is not None and not node.properties)


def _structs(node: Schema) -> tuple[tuple[str, Schema], ...]:
    """Return the embedded structs of a Go struct, which are always there, as `resources: {}` is."""
    plan: tuple[tuple[str, Schema], ...] | None = node.cache.get("structs")
    if plan is None:
        plan = node.cache["structs"] = tuple(
            (name, child)
            for name, child in node.properties.items()
            if child.has_default and child.default == {} and child.properties and _is_struct(child)
        )
    return plan


def _is_struct(node: Schema) -> bool:
    return node.type == "object" and node.additional is None


def _scalar(value: Any, node: Schema) -> Any:
    convert = _CONVERSIONS.get(node.go_type)
    return value if convert is None else convert(value)


def _quantity(value: Any) -> Any:
    try:
        return format_quantity(value)
    except ValueError:
        return value  # refused by validation, with the field's path


def _time(value: Any) -> Any:
    if isinstance(value, str) and len(value) != len("2006-01-02T15:04:05Z"):
        try:
            return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            return value
    return value


def _micro_time(value: Any) -> Any:
    if isinstance(value, str) and len(value) != len("2006-01-02T15:04:05.000000Z"):
        try:
            moment = datetime.fromisoformat(value).astimezone(UTC)
            return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        except ValueError:
            return value
    return value


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "Quantity": _quantity,
    "Time": _time,
    "MicroTime": _micro_time,
}
