"""Tensors of the Open Inference Protocol as JSON: `shape`, `datatype`, `data` nested or flat. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_scorer.dialects.inputs import list_values
from model_scorer.errors import BadRequest
from model_scorer.runtimes.protocol import Array
from model_scorer.runtimes.tensors import DTYPES

MAX_DIMENSIONS = 32
# More elements than any accepted body can carry; keeps products of shapes within 64 bits.
MAX_ELEMENTS = 2**40


def parse_shape(shape: Any, name: str) -> tuple[int, ...]:
    """A shape: a list of sizes, each >= 0.

    Raises:
        BadRequest: anything else, or more elements than fit any body.
    """
    if not isinstance(shape, list) or not all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape
    ):
        raise BadRequest(f"input {name!r}: shape must be a list of sizes")
    if len(shape) > MAX_DIMENSIONS:
        raise BadRequest(f"input {name!r}: shape has more than {MAX_DIMENSIONS} dimensions")
    if not shape:
        raise BadRequest(f"input {name!r}: shape is empty; its first size is the number of rows")
    count_elements(tuple(shape), name)
    return tuple(shape)


def count_elements(shape: tuple[int, ...], name: str) -> int:
    """The product of a shape.

    Raises:
        BadRequest: more elements than fit any body; a size of 0 beside huge ones is no way around it.
    """
    count, bound = 1, 1
    for size in shape:
        count *= size
        bound *= size or 1
        if bound > MAX_ELEMENTS:
            raise BadRequest(f"input {name!r}: shape {list(shape)[:8]} has too many elements")
    return count


def dtype_of(datatype: Any, name: str) -> np.dtype[Any]:
    """The numpy dtype of a datatype; object for BYTES.

    Raises:
        BadRequest: unknown, or one that JSON cannot carry.
    """
    if datatype == "BYTES":
        return np.dtype(object)
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        known = ", ".join((*DTYPES, "BYTES"))
        raise BadRequest(
            f"input {name!r}: unknown datatype {str(datatype)[:40]!r}; expected one of {known}"
        )
    return dtype


def parse_json_tensor(data: Any, datatype: Any, shape: tuple[int, ...], name: str) -> Array:
    """Nested or flat row-major values as an array of the declared datatype and shape.

    Raises:
        BadRequest: values of another type or out of range, or not as many as the shape says.
    """
    dtype = dtype_of(datatype, name)
    if not isinstance(data, list):
        raise BadRequest(f"input {name!r}: data must be a list")
    count = count_elements(shape, name)
    if dtype.kind == "O":
        return _parse_texts(data, shape, count, name)
    try:
        array = np.array(data) if data else np.empty(0, dtype)
    except (ValueError, OverflowError):
        raise BadRequest(f"input {name!r}: data is not rectangular") from None
    if array.size != count:
        raise BadRequest(
            f"input {name!r}: shape {list(shape)} has {count} elements, data has {array.size}"
        )
    return _cast(array, dtype, datatype, name).reshape(shape)


def _cast(array: Array, dtype: np.dtype[Any], datatype: str, name: str) -> Array:
    kind = array.dtype.kind
    if array.dtype == dtype:
        return array
    if kind == "O" and dtype.kind == "f":
        try:  # null is NaN
            array, kind = array.astype(np.float64), "f"
        except (ValueError, TypeError, OverflowError):
            kind = "O"
    if dtype.kind == "f" and kind in "iuf":
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    if array.size == 0:
        return array.astype(dtype)
    if dtype.kind in "iu" and kind in "iu":
        info = np.iinfo(dtype)
        if int(array.min()) < info.min or int(array.max()) > info.max:
            raise BadRequest(f"input {name!r}: a value is out of the range of {datatype}")
        return array.astype(dtype)
    if dtype.kind == "b" and kind in "iu" and int(array.min()) >= 0 and int(array.max()) <= 1:
        return array.astype(dtype)
    raise BadRequest(f"input {name!r}: data does not match datatype {datatype}")


def _parse_texts(data: list[Any], shape: tuple[int, ...], count: int, name: str) -> Array:
    flat: list[Any] = data
    for _ in range(MAX_DIMENSIONS):
        if not any(isinstance(item, list) for item in flat):
            break
        if not all(isinstance(item, list) for item in flat):
            raise BadRequest(f"input {name!r}: data is not rectangular")
        flat = [value for item in flat for value in item]
    if len(flat) != count:
        raise BadRequest(
            f"input {name!r}: shape {list(shape)} has {count} elements, data has {len(flat)}"
        )
    if not all(isinstance(value, str) for value in flat):
        raise BadRequest(f"input {name!r}: BYTES data must be texts")
    array = np.empty(count, dtype=object)
    array[:] = flat
    return array.reshape(shape)


def render_json_data(array: Array) -> Any:
    """An array's values flat and row-major, as most clients read them."""
    if array.dtype.kind == "O":
        return [
            v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)
            for v in array.reshape(-1)
        ]
    return list_values(array.reshape(-1))
