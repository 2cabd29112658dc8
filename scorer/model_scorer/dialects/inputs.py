"""JSON values of the row-based dialects as a runtime's input: the one place where a new kind of input joins all of them."""

from __future__ import annotations

from typing import Any

from model_scorer.dialects.blobs import blobs_from_json
from model_scorer.dialects.protocol import Target
from model_scorer.errors import BadRequest
from model_scorer.runtimes.protocol import Array, Input, Prediction, RowsInput, TableInput


def input_from_rows(value: Any, target: Target, *, key: str) -> Input:
    """The value under `input`, `data` or `instances` as an input.

    A list of rows is taken as it is; one row alone (a list of as many numbers as the model has features, an object, a
    text) is taken as a list of one.

    Args:
        value: decoded JSON.
        target: the model.
        key: where it was found, for messages.
    """
    if target.info.media:
        blobs = blobs_from_json(value)
        if blobs is not None:
            return blobs
    if isinstance(value, dict | str):
        return RowsInput([value])
    if not isinstance(value, list):
        raise BadRequest(f'"{key}" must be a list of rows')
    if not value:
        raise BadRequest(f'"{key}" is empty; expected at least one row')
    width = target.signature.row_width
    first = value[0]
    if width is not None and width != 1 and (first is None or isinstance(first, int | float)):
        return RowsInput([value])
    return RowsInput(value)


def table_from_split(value: Any, *, key: str) -> TableInput:
    """Pandas' `split` form: `{"columns": […], "data": [[…]]}`; an index is ignored."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise BadRequest(f'"{key}" must be an object with "columns" and "data"')
    columns = value.get("columns")
    if not isinstance(columns, list) or not all(isinstance(c, str | int) for c in columns):
        raise BadRequest(f'"{key}.columns" must be a list of names')
    names = [str(c) for c in columns]
    if len(set(names)) != len(names):
        raise BadRequest(f'"{key}.columns" names a column twice')
    return TableInput(names, value["data"])


def json_value(output: Prediction) -> Any:
    """What dialects of plain JSON show of a prediction: its labelled form, or the first tensor as nested lists."""
    if output.display is not None:
        return output.display
    return list_values(next(iter(output.tensors.values())))


def list_values(array: Array) -> Any:
    """An array in a form that the JSON encoder takes fastest."""
    if array.size > 256 and array.dtype.kind in "iufb" and array.dtype.itemsize >= 4:
        return array if array.flags.c_contiguous else array.copy()
    return array.tolist()
