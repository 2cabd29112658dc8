"""What can be wrong with an object or a patch, in the words of a real API server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldError:
    """One cause of a 422 or of an apply conflict, as `status.details.causes[]` carries it.

    Attributes:
        field: path of the field, e.g. `spec.template.spec.containers[0].name`.
        reason: e.g. `FieldValueInvalid`, `FieldValueRequired`.
        message: the text without the path; the status message joins both with `: `.
    """

    field: str
    reason: str
    message: str


class PatchError(Exception):
    """A patch that cannot be applied.

    Attributes:
        code: HTTP status that a real server answers with.
        reason: the status reason, e.g. `BadRequest` or `Invalid`; empty where a real server gives none.
    """

    def __init__(self, message: str, *, code: int = 400, reason: str = "BadRequest") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class ApplyConflict(Exception):  # noqa: N818 - a conflict is what the API calls it
    """Server-side apply met fields that other managers own (409).

    Attributes:
        causes: one per field and manager, in the order in which a real server lists them.
    """

    def __init__(self, message: str, causes: Sequence[FieldError]) -> None:
        super().__init__(message)
        self.causes = list(causes)


def show(value: Any) -> str:
    """Print a bad value as the real server's messages do: strings quoted, the rest as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def invalid(field: str, value: Any, detail: str) -> FieldError:
    """Build the cause for a value that breaks a rule."""
    return FieldError(field, "FieldValueInvalid", f"Invalid value: {show(value)}: {detail}")


def required(field: str, detail: str = "") -> FieldError:
    """Build the cause for a missing value."""
    return FieldError(
        field, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value"
    )


def unsupported(field: str, value: Any, supported: Sequence[Any]) -> FieldError:
    """Build the cause for a value outside a closed list."""
    known = ", ".join(show(item) for item in supported)
    text = f"Unsupported value: {show(value)}"
    return FieldError(
        field, "FieldValueNotSupported", f"{text}: supported values: {known}" if known else text
    )


def duplicate(field: str, value: Any) -> FieldError:
    """Build the cause for a second item with the same key."""
    return FieldError(field, "FieldValueDuplicate", f"Duplicate value: {show(value)}")


def forbidden(field: str, detail: str) -> FieldError:
    """Build the cause for a field that must not be set here."""
    return FieldError(field, "FieldValueForbidden", f"Forbidden: {detail}")


def too_long(field: str, limit: int) -> FieldError:
    """Build the cause for a string over its limit."""
    return FieldError(field, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def too_many(field: str, actual: int, limit: int) -> FieldError:
    """Build the cause for a list or map over its limit."""
    return FieldError(
        field, "FieldValueTooMany", f"Too many: {actual}: must have at most {limit} items"
    )
