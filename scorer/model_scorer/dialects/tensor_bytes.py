"""Tensors of the Open Inference Protocol as raw bytes: little-endian, row-major. Pure.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
import sys
from typing import Any

import numpy as np

from model_scorer.dialects.tensor_json import count_elements, dtype_of
from model_scorer.errors import BadRequest
from model_scorer.runtimes.protocol import Array

_LENGTH = struct.Struct("<I")
_LITTLE = sys.byteorder == "little"


def parse_binary_tensor(
    data: memoryview, datatype: Any, shape: tuple[int, ...], name: str
) -> Array:
    """Raw bytes as an array of the declared datatype and shape; numbers are not copied.

    BF16 becomes float32, which numpy has.

    Raises:
        BadRequest: another number of bytes than the shape needs.
    """
    count = count_elements(shape, name)
    if datatype == "BF16":
        _check_size(data, 2 * count, shape, name)
        halves = np.frombuffer(data, np.dtype("<u2")).astype(np.uint32)
        return np.left_shift(halves, 16).view(np.float32).reshape(shape)
    dtype = dtype_of(datatype, name)
    if dtype.kind == "O":
        return _parse_texts(data, shape, count, name)
    _check_size(data, dtype.itemsize * count, shape, name)
    if dtype.kind == "b":
        # Any byte but 0 is true; numpy's bool must hold 0 or 1.
        truth: Array = np.frombuffer(data, np.uint8).astype(np.bool_)
        return truth.reshape(shape)
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)


def _check_size(data: memoryview, expected: int, shape: tuple[int, ...], name: str) -> None:
    if len(data) != expected:
        raise BadRequest(
            f"input {name!r}: shape {list(shape)} needs {expected} bytes, got {len(data)}"
        )


def _parse_texts(data: memoryview, shape: tuple[int, ...], count: int, name: str) -> Array:
    # Each element has a length of 4 bytes, so a huge count with little data is refused before memory is taken.
    if count * 4 > len(data):
        raise BadRequest(f"input {name!r}: {len(data)} bytes are too few for {count} elements")
    out = np.empty(count, dtype=object)
    offset = 0
    for index in range(count):
        if offset + 4 > len(data):
            raise BadRequest(f"input {name!r}: element {index} is cut off")
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += 4
        if offset + length > len(data):
            raise BadRequest(f"input {name!r}: element {index} is cut off")
        raw = bytes(data[offset : offset + length])
        try:
            out[index] = raw.decode()
        except UnicodeDecodeError:
            out[index] = raw
        offset += length
    if offset != len(data):
        raise BadRequest(f"input {name!r}: {len(data) - offset} bytes are left over")
    return out.reshape(shape)


def render_binary_tensor(array: Array) -> bytes:
    """An array's raw bytes; texts with their lengths before them."""
    if array.dtype.kind in "iufb":
        if _LITTLE and array.dtype.isnative:
            return array.tobytes()
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    parts: list[bytes] = []
    for value in array.reshape(-1).tolist():
        raw = value if isinstance(value, bytes) else str(value).encode()
        parts += (_LENGTH.pack(len(raw)), raw)
    return b"".join(parts)
