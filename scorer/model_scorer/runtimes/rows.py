"""Rows of JSON → arrays: the validation that runtimes of tabular models share. Pure; every error names row, column, value."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from datetime import UTC, datetime
from typing import Any

import numpy as np

from model_scorer.errors import InvalidInput
from model_scorer.runtimes.protocol import Array

_NUMBER_KINDS = "iufb"


def parse_matrix(rows: Sequence[Any], width: int | None, columns: Sequence[str] = ()) -> Array:
    """A float64 matrix from rows of numbers; null is NaN.

    Args:
        rows: lists of `width` numbers each.
        width: values in one row, None when any number will do (but the same in all rows).
        columns: names for messages.

    Raises:
        InvalidInput: a row has another number of values, or a value is no number.
    """
    try:
        array = np.array(rows)
    except (ValueError, OverflowError):
        array = None
    if array is None or array.ndim != 2 or array.dtype.kind not in _NUMBER_KINDS:
        check_rows(rows, width, columns, numbers=True)
        # Rows are lists of numbers and nulls of one width; what is left is null, or integers beyond 64 bits.
        try:
            array = np.array(rows, dtype=np.float64)
        except (ValueError, TypeError, OverflowError) as err:
            raise InvalidInput(f"the rows are no matrix of numbers: {err}") from err
        if array.ndim != 2:
            raise InvalidInput("expected a list of rows, each a list of numbers")
    if width is not None and array.shape[1] != width:
        raise wrong_width(width, array.shape[1], columns)
    if array.shape[0] == 0:
        raise InvalidInput("expected at least one row, got none")
    return array if array.dtype == np.float64 else array.astype(np.float64)


def wrong_width(expected: int, got: int, columns: Sequence[str] = ()) -> InvalidInput:
    """The error for a row of another length."""
    names = f" ({_list_names(columns)})" if columns else ""
    return InvalidInput(f"expected {expected} features per row{names}, got {got}")


def check_rows(
    rows: Sequence[Any], width: int | None, columns: Sequence[str], *, numbers: bool
) -> None:
    """Find the first row or value that does not fit, and raise InvalidInput that names it."""
    if not rows:
        raise InvalidInput("expected at least one row, got none")
    expected = width
    for index, row in enumerate(rows):
        if not isinstance(row, list | tuple):
            raise InvalidInput(
                f"row {index}: expected a list of {_amount(expected)}, got {show(row)}"
            )
        if expected is not None and len(row) != expected:
            error = wrong_width(expected, len(row), columns)
            raise InvalidInput(f"row {index}: {error.message}")
        expected = len(row)
        if numbers:
            for position, value in enumerate(row):
                if value is not None and not isinstance(value, int | float):
                    column = columns[position] if position < len(columns) else position
                    raise InvalidInput(
                        f"row {index}, column {column!r}: expected a number, got {show(value)}"
                    )


def order_by_columns(
    row: dict[str, Any],
    index: int,
    columns: Sequence[str],
    optional: Set[str] = frozenset(),
) -> list[Any]:
    """The values of a row given by column name, in the model's order.

    Raises:
        InvalidInput: a column is unknown, or absent and not optional; what is optional is null when it is absent.
    """
    if len(row) == len(columns):
        try:
            return [row[name] for name in columns]
        except KeyError:
            pass
    missing = [name for name in columns if name not in row and name not in optional]
    unknown = [name for name in row if name not in columns]
    if not missing and not unknown:
        return [row.get(name) for name in columns]
    parts = []
    if missing:
        parts.append(f"missing {_list_names(missing)}")
    if unknown:
        parts.append(f"unknown {_list_names(unknown)}")
    raise InvalidInput(
        f"row {index}: {', '.join(parts)}; expected the columns {_list_names(columns)}"
    )


def parse_column(values: Sequence[Any], name: str, kind: str | None) -> Array:
    """One column of a table.

    Args:
        values: one for each row.
        name: for messages.
        kind: `number`, `text`, or None when either will do; `integer`, `boolean` and `time` where the model's author
            declared them.

    Returns:
        float64, or object holding str and None; int64, bool or datetime64 for what was declared so, but float64 for
        integers and truth values with a null among them.
    """
    if kind == "time":
        return _parse_times(values, name)
    if kind == "integer":
        return _parse_integers(values, name)
    if kind == "boolean":
        return _parse_booleans(values, name)
    if kind != "text" and all(value is None or isinstance(value, int | float) for value in values):
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError as err:
            raise InvalidInput(f"column {name!r}: {err}") from err
    for index, value in enumerate(values):
        if kind == "number" and value is not None and not isinstance(value, int | float):
            raise InvalidInput(
                f"row {index}, column {name!r}: expected a number, got {show(value)}"
            )
        if kind == "text" and value is not None and not isinstance(value, str):
            raise InvalidInput(f"row {index}, column {name!r}: expected a text, got {show(value)}")
        if not (value is None or isinstance(value, str | int | float)):
            raise InvalidInput(
                f"row {index}, column {name!r}: expected a number or a text, got {show(value)}"
            )
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _parse_integers(values: Sequence[Any], name: str) -> Array:
    for index, value in enumerate(values):
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if value is not None and not (whole or (isinstance(value, float) and value != value)):
            raise InvalidInput(
                f"row {index}, column {name!r}: expected a whole number, got {show(value)}"
            )
    has_gaps = any(value is None or value != value for value in values)
    try:
        return np.array(values, dtype=np.float64 if has_gaps else np.int64)
    except OverflowError as err:
        raise InvalidInput(f"column {name!r}: {err}") from err


def _parse_booleans(values: Sequence[Any], name: str) -> Array:
    for index, value in enumerate(values):
        if not (value is None or value in (0, 1) or value != value):
            raise InvalidInput(
                f"row {index}, column {name!r}: expected true or false, got {show(value)}"
            )
    has_gaps = any(value is None or value != value for value in values)
    return np.array(values, dtype=np.float64 if has_gaps else np.bool_)


def _parse_times(values: Sequence[Any], name: str) -> Array:
    array = np.empty(len(values), dtype="datetime64[ns]")
    for index, value in enumerate(values):
        array[index] = "NaT" if value is None or value == "" else _parse_time(value, index, name)
    return array


def _parse_time(value: Any, index: int, name: str) -> np.datetime64:
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is not None:
            time = time.astimezone(UTC).replace(tzinfo=None)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(
            f"row {index}, column {name!r}: expected a date and time as in ISO 8601, got {show(value)}"
        ) from None
    # Nanoseconds in 64 bits reach from 1678 to 2261; numpy wraps around beyond.
    if not 1678 <= time.year <= 2261:
        raise InvalidInput(f"row {index}, column {name!r}: the year {time.year} is out of range")
    return np.datetime64(time, "ns")


def parse_texts(rows: Sequence[Any]) -> Array:
    """A one-dimensional array of dtype object from a list of texts; a list of one text is taken as the text."""
    if not rows:
        raise InvalidInput("expected at least one row, got none")
    out = np.empty(len(rows), dtype=object)
    for index, row in enumerate(rows):
        value = row[0] if isinstance(row, list) and len(row) == 1 else row
        if not isinstance(value, str):
            raise InvalidInput(f"row {index}: expected a text, got {show(value)}")
        out[index] = value
    return out


def show(value: Any) -> str:
    """A value for a message: its JSON type, and a short beginning of it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {str(value)[:40]}"
    if isinstance(value, str):
        text = re.sub(r"[^\x20-\x7e]", "?", value[:40])
        return f"the text {text!r}" + ("…" if len(value) > 40 else "")
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return type(value).__name__


def _amount(width: int | None) -> str:
    return "values" if width is None else f"{width} values"


def _list_names(names: Sequence[str], limit: int = 20) -> str:
    shown = ", ".join(repr(str(name)[:60]) for name in names[:limit])
    return shown + (f", … ({len(names)} in all)" if len(names) > limit else "")
