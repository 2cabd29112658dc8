"""`validate`: everything that a real server would refuse an object for with 422."""

from __future__ import annotations

from typing import Any

from local_cluster.schema.checks import check_object
from local_cluster.schema.errors import FieldError
from local_cluster.schema.kind_rules import validate_kind
from local_cluster.schema.metadata import validate_metadata
from local_cluster.schema.native_checks import check_native
from local_cluster.schema.node import Schema
from local_cluster.schema.rules import check_rules, has_rules

_BLOCKING = frozenset(
    {
        "FieldValueNotSupported",
        "FieldValueRequired",
        "FieldValueTooLong",
        "FieldValueTooMany",
        "FieldValueTypeInvalid",
    }
)
_NOT_CHECKED = FieldError(
    "<nil>",
    "FieldValueInvalid",
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
)


def validate(
    obj: dict[str, Any],
    schema: Schema,
    group: str,
    version: str,
    kind: str,
    old: dict[str, Any] | None = None,
) -> list[FieldError]:
    """Check a defaulted object.

    Args:
        obj: the object that is to be stored.
        schema: the schema of its kind.
        group: API group, empty for the core.
        version: API version.
        kind: the kind.
        old: the stored object; None for a create.

    Returns:
        The causes, in the order in which a real server lists them; none for a sound object.
    """
    metadata = obj.get("metadata") or {}
    before = (old.get("metadata") or {}) if old is not None else None
    errors = validate_metadata(metadata, group, kind, before, native=schema.native)
    if schema.native:
        errors.extend(check_native(obj, schema, group, kind))
        errors.extend(validate_kind(obj, group, kind, old))
        # A required field is found by the schema and by the kind's own rules; once is enough.
        return list(dict.fromkeys(errors))
    errors.extend(check_object(obj, schema, old))
    if has_rules(schema):
        if any(error.reason in _BLOCKING for error in errors):
            errors.append(_NOT_CHECKED)
        else:
            errors.extend(check_rules(obj, schema, old))
    return errors
