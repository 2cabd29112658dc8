"""Whether the schema of a CRD is structural, its defaults fit it, and its CEL rules compile.

The rules: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/.
"""

from __future__ import annotations

from typing import Any

from local_cluster.schema.cel import CelError, chains, compile_expression, escape
from local_cluster.schema.checks import check_object
from local_cluster.schema.errors import (
    FieldError,
    duplicate,
    forbidden,
    invalid,
    required,
    unsupported,
)
from local_cluster.schema.node import Compiler
from local_cluster.schema.patterns import PatternError, compile_pattern
from local_cluster.schema.rules import REASONS

Manifest = dict[str, Any]

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_KNOWN = frozenset(
    {
        "description", "type", "format", "title", "default", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum",
        "maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "multipleOf", "enum", "maxProperties",
        "minProperties", "required", "items", "allOf", "oneOf", "anyOf", "not", "properties", "additionalProperties",
        "externalDocs", "example", "nullable", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string", "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type",
        "x-kubernetes-validations",
    }
)  # fmt: skip
_FORBIDDEN = (
    "$ref",
    "id",
    "$schema",
    "definitions",
    "dependencies",
    "patternProperties",
    "additionalItems",
)


def validate_root(schema: Manifest, path: str) -> list[FieldError]:
    """Check the schema of one version.

    Args:
        schema: its `openAPIV3Schema`.
        path: where that is in the CRD.
    """
    errors: list[FieldError] = []
    if schema.get("type") != "object":
        if schema.get("type"):
            errors.append(invalid(f"{path}.type", schema["type"], "must be object at the root"))
        else:
            errors.append(required(f"{path}.type", "must not be empty at the root"))
    if schema.get("nullable"):
        errors.append(forbidden(f"{path}.nullable", "nullable cannot be true at the root"))
    if schema.get("x-kubernetes-embedded-resource"):
        errors.append(
            forbidden(f"{path}.x-kubernetes-embedded-resource", "must not be used at the root")
        )
    _structural(schema, path, errors, root=True)
    if not errors:
        _rules(schema, path, errors, root=True)
    return errors


def _structural(
    schema: Manifest, path: str, errors: list[FieldError], *, root: bool = False
) -> None:
    errors.extend(
        forbidden(f"{path}.{key}", f"{key} is not supported") for key in _FORBIDDEN if key in schema
    )
    kind = schema.get("type")
    free = schema.get("x-kubernetes-int-or-string") or schema.get(
        "x-kubernetes-preserve-unknown-fields"
    )
    if not kind and not free and not root:
        errors.append(required(f"{path}.type", "must not be empty for specified object fields"))
    elif kind and kind not in _TYPES:
        errors.append(unsupported(f"{path}.type", kind, _TYPES))
    if kind and schema.get("x-kubernetes-int-or-string"):
        errors.append(
            invalid(f"{path}.type", kind, "must be empty if x-kubernetes-int-or-string is true")
        )
    if schema.get("uniqueItems"):
        errors.append(
            forbidden(
                f"{path}.uniqueItems",
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            )
        )
    extra = schema.get("additionalProperties")
    if "properties" in schema and isinstance(extra, (dict, bool)) and extra is not False:
        text = "additionalProperties and properties are mutual exclusive"
        errors.append(forbidden(f"{path}.additionalProperties", text))
    if extra is False:
        errors.append(
            forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false")
        )
    if kind == "array" and "items" not in schema:
        errors.append(required(f"{path}.items", "must be specified"))
    items = schema.get("items")
    if isinstance(items, list):
        errors.append(forbidden(f"{path}.items", "items must be a schema object and not an array"))
        items = None
    pattern = schema.get("pattern")
    if pattern is not None:
        try:
            compile_pattern(pattern)
        except PatternError as err:
            errors.append(
                invalid(
                    f"{path}.pattern",
                    pattern,
                    f"must be a valid regular expression, but isn't: {err}",
                )
            )
    _lists(schema, path, errors)
    if root:
        for name, child in (schema.get("properties") or {}).items():
            if name in ("apiVersion", "kind") and child.get("type") not in (None, "string"):
                errors.append(
                    invalid(f"{path}.properties[{name}].type", child.get("type"), "must be string")
                )
    for junctor in ("allOf", "anyOf", "oneOf"):
        for position, part in enumerate(schema.get(junctor) or ()):
            _value_only(part, f"{path}.{junctor}[{position}]", errors, schema)
    if isinstance(schema.get("not"), dict):
        _value_only(schema["not"], f"{path}.not", errors, schema)
    if "default" in schema and not errors:
        _default(schema, path, errors)
    for name, child in (schema.get("properties") or {}).items():
        if root and name == "metadata":
            _root_metadata(child, f"{path}.properties[metadata]", errors)
            continue
        _structural(child, f"{path}.properties[{name}]", errors)
    if isinstance(items, dict):
        _structural(items, f"{path}.items", errors)
    if isinstance(extra, dict):
        _structural(extra, f"{path}.additionalProperties", errors)


def _root_metadata(schema: Manifest, path: str, errors: list[FieldError]) -> None:
    if schema.get("type") not in (None, "object"):
        errors.append(invalid(f"{path}.type", schema["type"], "must be object"))
    for name in schema.get("properties") or {}:
        if name not in ("name", "generateName"):
            text = "must not specify anything other than name and generateName, but metadata is implicitly specified"
            errors.append(forbidden(path, text))


def _value_only(part: Manifest, path: str, errors: list[FieldError], outer: Manifest) -> None:
    for key in (
        "type",
        "description",
        "default",
        "title",
        "nullable",
        "additionalProperties",
        "x-kubernetes-validations",
    ):
        int_or_string = outer.get("x-kubernetes-int-or-string") and key == "type"
        if key in part and not int_or_string:
            errors.append(forbidden(f"{path}.{key}", "must be empty to be structural"))
    for name, child in (part.get("properties") or {}).items():
        if name not in (outer.get("properties") or {}) and "properties" in outer:
            where = path.rsplit(".", 1)[0]
            text = f"because it is defined in {path}.properties[{name}]"
            errors.append(required(f"{where}.properties[{name}]", text))
        _value_only(
            child,
            f"{path}.properties[{name}]",
            errors,
            (outer.get("properties") or {}).get(name) or {},
        )


def _lists(schema: Manifest, path: str, errors: list[FieldError]) -> None:
    list_type, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys")
    items = schema.get("items") if isinstance(schema.get("items"), dict) else {}
    assert isinstance(items, dict)
    if list_type is not None:
        if schema.get("type") != "array":
            text = "must be array if x-kubernetes-list-type is specified"
            errors.append(invalid(f"{path}.type", schema.get("type") or "", text))
        if list_type not in ("atomic", "map", "set"):
            errors.append(
                unsupported(f"{path}.x-kubernetes-list-type", list_type, ("atomic", "map", "set"))
            )
    if list_type == "map":
        if not keys:
            text = "must not be empty if x-kubernetes-list-type is map"
            errors.append(required(f"{path}.x-kubernetes-list-map-keys", text))
        if items.get("type") != "object":
            text = "must be object if parent array's x-kubernetes-list-type is map"
            errors.append(invalid(f"{path}.items.type", items.get("type") or "", text))
        for position, key in enumerate(keys or ()):
            field = (items.get("properties") or {}).get(key)
            if field is None:
                text = "entries must all be names of item properties"
                errors.append(invalid(f"{path}.x-kubernetes-list-map-keys[{position}]", key, text))
            elif key not in (items.get("required") or ()) and "default" not in field:
                text = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
                errors.append(required(f"{path}.items.properties[{key}].default", text))
        if len(set(keys or ())) != len(keys or ()):
            errors.append(duplicate(f"{path}.x-kubernetes-list-map-keys", keys))
    elif keys:
        text = "must not be set if x-kubernetes-list-type is not map"
        errors.append(forbidden(f"{path}.x-kubernetes-list-map-keys", text))
    map_type = schema.get("x-kubernetes-map-type")
    if map_type is not None and map_type not in ("atomic", "granular"):
        errors.append(
            unsupported(f"{path}.x-kubernetes-map-type", map_type, ("atomic", "granular"))
        )


def _default(schema: Manifest, path: str, errors: list[FieldError]) -> None:
    node = Compiler({}, native=False).node({"type": "object", "properties": {"default": schema}})
    for found in check_object({"default": schema["default"]}, node, None):
        text = found.message.replace("default in body", f"{path}.default in body")
        errors.append(
            FieldError(found.field.replace("default", f"{path}.default", 1), found.reason, text)
        )


def _rules(schema: Manifest, path: str, errors: list[FieldError], *, root: bool = False) -> None:
    for position, rule in enumerate(schema.get("x-kubernetes-validations") or ()):
        _rule(rule, schema, f"{path}.x-kubernetes-validations[{position}]", errors, root=root)
    for name, child in (schema.get("properties") or {}).items():
        _rules(child, f"{path}.properties[{name}]", errors)
    for field in ("items", "additionalProperties"):
        if isinstance(schema.get(field), dict):
            _rules(schema[field], f"{path}.{field}", errors)


def _rule(
    rule: Manifest, schema: Manifest, path: str, errors: list[FieldError], *, root: bool
) -> None:
    text = rule.get("rule") or ""
    if not text.strip():
        errors.append(required(f"{path}.rule", "rule is not specified"))
        return
    message = rule.get("message")
    if "\n" in text.strip() and not (message or rule.get("messageExpression")):
        errors.append(
            required(f"{path}.message", "message must be specified if rule contains line breaks")
        )
    if message is not None and not message.strip():
        errors.append(invalid(f"{path}.message", message, "message must be non-empty if specified"))
    elif message is not None and "\n" in message.strip():
        errors.append(invalid(f"{path}.message", message, "message must not contain line breaks"))
    if rule.get("reason") is not None and rule["reason"] not in REASONS:
        errors.append(unsupported(f"{path}.reason", rule["reason"], sorted(REASONS)))
    for field in ("rule", "messageExpression"):
        expression = rule.get(field)
        if not expression:
            continue
        try:
            program = compile_expression(expression)
            _check_fields(expression, schema, root=root)
        except CelError as err:
            errors.append(
                invalid(
                    f"{path}.{field}",
                    {"rule": expression} if field == "rule" else expression,
                    str(err),
                )
            )
            continue
        if field == "rule" and rule.get("optionalOldSelf") and not program.uses_old:
            text = "may not be set if oldSelf is not used in rule"
            errors.append(invalid(f"{path}.optionalOldSelf", True, text))


def _check_fields(expression: str, schema: Manifest, *, root: bool) -> None:
    """Find selections of fields that the schema does not have, the commonest mistake in a rule."""
    for start, parts in chains(expression):
        node: Manifest = schema
        top = root
        for part in parts:
            declared = node.get("properties") or {}
            if top and part in ("metadata", "apiVersion", "kind"):
                break
            top = False
            if (
                not declared
                or node.get("x-kubernetes-preserve-unknown-fields")
                or node.get("x-kubernetes-embedded-resource")
            ):
                break
            plain = next((name for name in declared if escape(name) == part), None)
            if plain is None:
                line = expression.count("\n", 0, start) + 1
                column = start - expression.rfind("\n", 0, start) + len("self")
                raise CelError(
                    f"compilation failed: ERROR: <input>:{line}:{column}: undefined field '{part}'"
                )
            node = declared[plain]
