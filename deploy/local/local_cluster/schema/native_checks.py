"""What the OpenAPI documents of the built-in kinds say about values: required fields, enums, quantities."""

from __future__ import annotations

from typing import Any

from local_cluster.quantities import SYNTAX_MESSAGE, parse_quantity
from local_cluster.schema.errors import FieldError, invalid, required, unsupported
from local_cluster.schema.node import Schema

# Fields that are marked as required but that the server has other words for, or none.
_OTHER_WORDS = frozenset(
    {"maxReplicas", "port", "containerPort", "group", "rules", "endpoints", "roleRef", "selector"}
)
_ROOTS = ("spec", "subjects", "rules", "webhooks")


def check_native(obj: dict[str, Any], schema: Schema, group: str, kind: str) -> list[FieldError]:
    """Check the parts of a built-in kind that users write; status belongs to controllers."""
    errors: list[FieldError] = []
    if group == "apiextensions.k8s.io":
        return errors
    for name in _ROOTS:
        value = obj.get(name)
        child = schema.properties.get(name)
        if value is not None and child is not None:
            _check(value, child, name, errors)
    return errors


def _interesting(node: Schema | None) -> bool:
    """Tell whether anything at or below this node can be wrong; most of a pod is not walked."""
    if node is None:
        return False
    found: bool | None = node.cache.get("interesting")
    if found is None:
        node.cache["interesting"] = False  # recursive types end here
        found = bool(node.required) or node.enum is not None or node.go_type == "Quantity"
        found = found or any(_interesting(child) for child in node.properties.values())
        found = found or _interesting(node.items) or _interesting(node.additional)
        node.cache["interesting"] = found
    return found


def _check(value: Any, node: Schema, path: str, errors: list[FieldError]) -> None:
    if isinstance(value, dict):
        for name in node.required:
            found = value.get(name)
            if (found is None or found == "") and name not in _OTHER_WORDS:
                errors.append(required(f"{path}.{name}"))
        properties = node.properties
        if properties:
            for name, item in value.items():
                child = properties.get(name)
                if child is not None and item is not None and _interesting(child):
                    _check(item, child, f"{path}.{name}", errors)
        elif node.additional is not None and _interesting(node.additional):
            for name, item in value.items():
                _check(item, node.additional, f"{path}[{name}]", errors)
    elif isinstance(value, list):
        if node.items is not None and _interesting(node.items):
            for position, item in enumerate(value):
                _check(item, node.items, f"{path}[{position}]", errors)
    elif node.enum is not None:
        if value not in node.enum and value != "":
            errors.append(unsupported(path, value, sorted(node.enum)))
    elif node.go_type == "Quantity":
        try:
            parse_quantity(value)
        except ValueError:
            errors.append(invalid(path, value, SYNTAX_MESSAGE))
