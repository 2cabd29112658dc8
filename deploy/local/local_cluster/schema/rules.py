"""Evaluates the CEL rules of a schema over an object and, for transition rules, its stored version."""

from __future__ import annotations

from typing import Any

from local_cluster.schema.cel import CelError, Program, cel_value, compile_expression
from local_cluster.schema.errors import FieldError, show
from local_cluster.schema.fieldset import item_key
from local_cluster.schema.node import Schema

_ABSENT: Any = object()
REASONS = {
    "FieldValueInvalid": "Invalid value",
    "FieldValueForbidden": "Forbidden",
    "FieldValueRequired": "Required value",
    "FieldValueDuplicate": "Duplicate value",
}


class Rule:
    """One entry of `x-kubernetes-validations`, compiled."""

    __slots__ = ("field_path", "message", "optional_old", "program", "reason", "say", "text")

    def __init__(self, raw: dict[str, Any]) -> None:
        self.text = raw["rule"].strip()
        self.program: Program = compile_expression(raw["rule"])
        self.message = (raw.get("message") or "").strip()
        expression = raw.get("messageExpression")
        self.say = compile_expression(expression) if expression else None
        self.reason = raw.get("reason") or "FieldValueInvalid"
        self.field_path = raw.get("fieldPath") or ""
        self.optional_old = bool(raw.get("optionalOldSelf"))


def has_rules(node: Schema) -> bool:
    """Tell whether any rule lies at this node or below it."""
    found: bool | None = node.cache.get("has_rules")
    if found is None:
        if node.native:
            return False
        below = [*node.properties.values(), node.items, node.additional]
        found = bool(node.rules) or any(child is not None and has_rules(child) for child in below)
        node.cache["has_rules"] = found
    return found


def check_rules(
    obj: dict[str, Any], schema: Schema, old: dict[str, Any] | None
) -> list[FieldError]:
    """Evaluate every rule that applies.

    Args:
        obj: the object; it fits the schema.
        schema: the root of its kind.
        old: the stored object, None for a create.
    """
    errors: list[FieldError] = []
    _walk(obj, schema, "", errors, old if old is not None else _ABSENT)
    return errors


def _compiled(node: Schema) -> list[Rule]:
    rules: list[Rule] | None = node.cache.get("rules")
    if rules is None:
        rules = node.cache["rules"] = [Rule(raw) for raw in node.rules]
    return rules


def _walk(value: Any, node: Schema, path: str, errors: list[FieldError], old: Any) -> None:
    if value is None:
        return
    if node.rules:
        _run(value, node, path, errors, old)
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else None
        if node.properties:
            prefix = f"{path}." if path else ""
            for name, child in _below(node):
                if name in value:
                    previous = before.get(name, _ABSENT) if before is not None else _ABSENT
                    _walk(value[name], child, prefix + name, errors, previous)
        elif node.additional is not None and has_rules(node.additional):
            for name, item in value.items():
                previous = before.get(name, _ABSENT) if before is not None else _ABSENT
                _walk(item, node.additional, f"{path}[{name}]", errors, previous)
    elif isinstance(value, list) and node.items is not None and has_rules(node.items):
        earlier: dict[str, Any] = {}
        if isinstance(old, list) and node.list_type == "map":
            earlier = {item_key(item, node): item for item in old}
        for position, item in enumerate(value):
            previous = earlier.get(item_key(item, node), _ABSENT) if earlier else _ABSENT
            _walk(item, node.items, f"{path}[{position}]", errors, previous)


def _below(node: Schema) -> tuple[tuple[str, Schema], ...]:
    plan: tuple[tuple[str, Schema], ...] | None = node.cache.get("rules_below")
    if plan is None:
        plan = node.cache["rules_below"] = tuple(
            (name, child) for name, child in node.properties.items() if has_rules(child)
        )
    return plan


def _run(value: Any, node: Schema, path: str, errors: list[FieldError], old: Any) -> None:
    has_old = old is not _ABSENT and old is not None
    unchanged = has_old and old == value
    current: Any = _ABSENT
    earlier: Any = None
    for rule in _compiled(node):
        program = rule.program
        if program.uses_old:
            if not has_old and not rule.optional_old:
                continue  # a transition rule has nothing to say about a create
        elif unchanged:
            continue
        if current is _ABSENT:
            current = _visible(value, node, root=not path)
        if program.uses_old and has_old and earlier is None:
            earlier = _visible(old, node, root=not path)
        try:
            passed = program.run(
                current,
                earlier,
                has_old=program.uses_old and has_old,
                optional_old=rule.optional_old,
            )
        except CelError as err:
            where = path or "<nil>"
            text = f"Invalid value: rule evaluation error: {err} evaluating rule: {rule.message or rule.text}"
            errors.append(FieldError(where, "FieldValueInvalid", text))
            continue
        if passed is True:
            continue
        shown = None if isinstance(value, (dict, list)) else show(value)
        errors.append(_failure(rule, path, current, earlier, has_old=has_old, shown=shown))


def _failure(
    rule: Rule, path: str, current: Any, earlier: Any, *, has_old: bool, shown: str | None
) -> FieldError:
    message = rule.message or f"failed rule: {rule.text}"
    if rule.say is not None:
        try:
            said = rule.say.run(
                current,
                earlier,
                has_old=has_old and earlier is not None,
                optional_old=rule.optional_old,
            )
        except CelError:
            said = None  # a real server falls back to the message, too
        if isinstance(said, str) and said.strip() and "\n" not in said:
            message = said.strip()
    where = path + rule.field_path if path else rule.field_path.lstrip(".")
    kind = REASONS.get(rule.reason, "Invalid value")
    if shown is not None and kind == "Invalid value":
        kind = f"{kind}: {shown}"  # objects and lists are not shown, they may be long
    return FieldError(where or "<nil>", rule.reason, f"{kind}: {message}")


def _visible(value: Any, node: Schema, *, root: bool) -> Any:
    """Return what a rule may see: at the root only name and generateName of the metadata."""
    if (
        root
        and isinstance(value, dict)
        and "metadata" in value
        and node.child("metadata") is not None
    ):
        metadata = value["metadata"]
        shown = {name: metadata[name] for name in ("name", "generateName") if name in metadata}
        value = {**value, "metadata": shown}
    return cel_value(value, node)
