"""Fields that no schema knows: taken out of custom resources, reported to clients that ask for validation."""

from __future__ import annotations

import json
from typing import Any

from local_cluster.schema.node import Schema

_ROOT = ("apiVersion", "kind", "metadata")


def prune(obj: dict[str, Any], schema: Schema) -> tuple[dict[str, Any], list[str]]:
    """Return a copy without unknown fields, and their paths.

    Args:
        obj: the object; it is shared with the result where nothing was taken out.
        schema: the schema of its kind.

    Returns:
        The pruned object and the paths, sorted, as `unknown field "spec.framwork"` names them, e.g.
        `spec.template.spec.containers[0].imagee`.
    """
    unknown: list[str] = []
    result = _prune_map(obj, schema, "", unknown, root=True)
    unknown.sort()
    return result, unknown


def _prune_map(
    obj: dict[str, Any], node: Schema, path: str, unknown: list[str], *, root: bool = False
) -> dict[str, Any]:
    properties = node.properties
    additional = node.additional
    keep = (
        node.preserve_unknown or (node.native and not properties) or not (node.type or properties)
    )
    if not properties and additional is None and keep:
        return obj
    root = root or node.embedded
    out: dict[str, Any] | None = None
    for name, value in obj.items():
        child = properties.get(name, additional)
        if child is None:
            if keep or (root and name in _ROOT):
                continue
            if out is None:
                out = dict(obj)
            del out[name]
            unknown.append(f"{path}.{name}" if path else name)
            continue
        if isinstance(value, (dict, list)):
            where = f"{path}.{name}" if path else name
            fresh = _prune_value(value, child, where, unknown)
            if fresh is not value:
                if out is None:
                    out = dict(obj)
                out[name] = fresh
    return obj if out is None else out


def _prune_value(value: Any, node: Schema, path: str, unknown: list[str]) -> Any:
    if isinstance(value, dict):
        if node.type in ("", "object"):
            return _prune_map(value, node, path, unknown)
        return value
    if node.items is None:
        return value
    out: list[Any] | None = None
    for position, item in enumerate(value):
        if isinstance(item, (dict, list)):
            fresh = _prune_value(item, node.items, f"{path}[{position}]", unknown)
            if fresh is not item:
                if out is None:
                    out = list(value)
                out[position] = fresh
    return value if out is None else out


class _Pairs(dict[str, Any]):
    """A JSON object that remembers which of its keys came twice."""

    twice: tuple[str, ...] = ()


def duplicate_fields(text: str | bytes) -> list[str]:
    """Return the paths of fields that a JSON body sets twice, as `duplicate field "spec.replicas"` names them.

    Args:
        text: a JSON document that parses.
    """

    def collect(pairs: list[tuple[str, Any]]) -> _Pairs:
        found = _Pairs(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = []
            for name, _ in pairs:
                if name in seen:
                    twice.append(name)
                seen.add(name)
            found.twice = tuple(dict.fromkeys(twice))
        return found

    out: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, _Pairs):
            prefix = f"{path}." if path else ""
            out.extend(prefix + name for name in value.twice)
            for name, child in value.items():
                walk(child, prefix + name)
        elif isinstance(value, list):
            for position, item in enumerate(value):
                walk(item, f"{path}[{position}]")

    walk(json.loads(text, object_pairs_hook=collect), "")
    return sorted(out)
