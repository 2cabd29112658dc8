"""What clients send → what an estimator takes: one array, or one for each column. Pure; errors name row, column, value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from model_scorer.errors import InvalidInput
from model_scorer.runtimes.protocol import (
    Array,
    BlobsInput,
    Input,
    RowsInput,
    TableInput,
    TensorsInput,
    TextInput,
)
from model_scorer.runtimes.rows import (
    check_rows,
    order_by_columns,
    parse_column,
    parse_matrix,
    parse_texts,
    show,
    wrong_width,
)
from model_scorer.runtimes.sklearn_inspect import EstimatorShape


def parse_input(given: Input, shape: EstimatorShape) -> Array | dict[str, Array]:
    """One array for models of a matrix or of texts, one for each column for tables."""
    if isinstance(given, RowsInput):
        rows = given.rows
        if rows and isinstance(rows[0], dict):
            return _parse_records(shape, rows)
        if shape.texts or (shape.width is None and rows and isinstance(rows[0], str)):
            return parse_texts(rows)
        if shape.all_numbers:
            return parse_matrix(rows, shape.width, shape.columns)
        check_rows(rows, shape.width, shape.columns, numbers=False)
        return _columns_of(shape, shape.columns, rows)
    if isinstance(given, TableInput):
        check_rows(given.rows, len(given.columns), given.columns, numbers=False)
        if shape.all_numbers and not shape.columns:
            # Fitted without names, asked with some (pandas always has them): by position, as scikit-learn does it.
            names = given.columns if len(given.columns) == shape.width else ()
            return parse_matrix(given.rows, shape.width, names)
        return _parse_records(
            shape, [dict(zip(given.columns, row, strict=True)) for row in given.rows]
        )
    if isinstance(given, TensorsInput):
        return _parse_tensors(shape, given.tensors)
    if isinstance(given, TextInput):
        raise InvalidInput("expected rows, got a text")
    assert isinstance(given, BlobsInput)
    raise InvalidInput("expected rows, got a file")


def _parse_records(shape: EstimatorShape, rows: Sequence[Any]) -> Array | dict[str, Array]:
    columns = shape.columns
    if shape.texts:
        return parse_texts([_only_value(row, index) for index, row in enumerate(rows)])
    if not columns:
        if shape.width is not None:
            raise InvalidInput(
                f"the model has no column names; send each row as a list of {shape.width} numbers"
            )
        columns = tuple(rows[0]) if isinstance(rows[0], dict) else ()
    values = []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InvalidInput(f"row {index}: expected an object, got {show(row)}")
        values.append(order_by_columns(row, index, columns, shape.optional))
    if shape.all_numbers:
        return parse_matrix(values, len(columns), columns)
    return _columns_of(shape, columns, values)


def _only_value(row: Any, index: int) -> Any:
    """The text of a row with one column: the model takes texts, and cares for no column's name."""
    if not isinstance(row, dict) or len(row) != 1:
        raise InvalidInput(f"row {index}: expected one text, got {show(row)}")
    return next(iter(row.values()))


def _columns_of(
    shape: EstimatorShape, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> dict[str, Array]:
    if not columns:
        raise InvalidInput("the model's columns are unknown; send each row as an object")
    return {
        name: parse_column([row[i] for row in rows], name, shape.kinds.get(name))
        for i, name in enumerate(columns)
    }


def _parse_tensors(shape: EstimatorShape, tensors: dict[str, Array]) -> Array | dict[str, Array]:
    if len(tensors) == 1 and (len(shape.columns) != 1 or next(iter(tensors)) not in shape.columns):
        array = next(iter(tensors.values()))
        if shape.texts or (shape.width is None and array.dtype == object):
            return parse_texts(array.reshape(-1).tolist())
        if array.ndim == 1 and shape.width is not None and array.shape[0] == shape.width:
            array = array.reshape(1, -1)
        if array.ndim != 2:
            raise InvalidInput(
                f"expected the shape [rows, {shape.width or 'features'}], got {list(array.shape)}"
            )
        if array.shape[0] == 0:
            raise InvalidInput("expected at least one row, got none")
        if shape.width is not None and array.shape[1] != shape.width:
            raise wrong_width(shape.width, array.shape[1], shape.columns)
        if shape.all_numbers:
            if array.dtype.kind not in "iufb":
                raise InvalidInput("expected a tensor of numbers, got one of texts")
            return array if array.dtype.kind == "f" else array.astype(np.float64)
        return _columns_of(shape, shape.columns, array.tolist())
    for name, array in tensors.items():
        if array.ndim == 0 or array.size == 0:
            raise InvalidInput(
                f"column {name!r}: expected at least one row, got the shape {list(array.shape)}"
            )
    sizes = {name: len(array) for name, array in tensors.items()}
    if len(set(sizes.values())) != 1:
        raise InvalidInput(f"the columns have different numbers of rows: {sizes}")
    columns = {name: array.reshape(len(array), -1) for name, array in tensors.items()}
    for name, array in columns.items():
        if array.shape[1] != 1:
            raise InvalidInput(f"column {name!r}: expected one value per row, got {array.shape[1]}")
    lists = [array[:, 0].tolist() for array in columns.values()]
    return _parse_records(
        shape, [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
    )


def blame_input(
    merged: Array | dict[str, Array], error: Exception, columns: Sequence[str] = ()
) -> InvalidInput | None:
    """The client's mistake behind an estimator's failure, or None when the model is to blame.

    Asked only after a failure, so that good requests do not pay for it: which estimators take missing values, or values
    beyond float32, only they know.
    """
    if str(error).startswith("Found unknown categories"):
        return InvalidInput(str(error)[:300])
    arrays = merged if isinstance(merged, dict) else {"": merged}
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            bad = np.array([value is None for value in array.reshape(-1)]).reshape(array.shape)
        elif array.dtype.kind == "M":
            bad = np.isnat(array)
        elif array.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                bad = ~(np.abs(array) <= np.finfo(np.float32).max)
        else:
            continue
        if bad.any():
            place = np.argwhere(bad)[0].tolist()
            position = place[1] if len(place) > 1 else 0
            column = repr(name or columns[position]) if name or columns else str(position)
            value = array[tuple(place)]
            told = "null" if value is None or value != value else f"{value:g}"
            return InvalidInput(f"row {place[0]}, column {column}: the model does not take {told}")
    return None
