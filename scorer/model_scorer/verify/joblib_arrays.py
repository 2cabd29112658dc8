"""The arrays of a joblib file: raw bytes between two opcodes, skipped here exactly as joblib reads them.

After the BUILD of a `NumpyArrayWrapper` joblib reads, from the file and not from the pickle's frame, one byte of padding
length, the padding, and shape times itemsize bytes; for arrays of objects, a whole pickle. Anything about a wrapper that
is not what joblib's own pickler writes is refused: a scan that is off by one byte has seen another file.
"""

import re
from pathlib import Path
from typing import Any

from model_scorer.verify.machine import Judge, MalformedError, PickleMachine
from model_scorer.verify.values import ARRAY, Built, Dict, Import

_WRAPPER = Import("joblib.numpy_pickle", "NumpyArrayWrapper")
_DTYPE = Import("numpy", "dtype")
_FIELDS = {"subclass", "shape", "order", "dtype", "allow_mmap"}
_PADDING = "numpy_array_alignment_bytes"
_DTYPE_CODE = re.compile(r"[<>|=]?([biufcSUVmMO])(\d{0,9})")
_HAS_OBJECTS_FLAG = 1
_MAX_ITEMS = 1 << 48


class JoblibArrays:
    """The hook of a `PickleMachine` for pickles that joblib reads.

    Args:
        judge: of the machine; also judges the pickles of object arrays.
        path: for messages.
    """

    def __init__(self, judge: Judge, path: Path) -> None:
        self._judge = judge
        self._path = path

    def __call__(self, built: Built, machine: PickleMachine) -> Any:
        """Skip the array behind a wrapper; leave every other object alone."""
        if built.function != _WRAPPER:
            return built
        state = built.state.items if isinstance(built.state, Dict) else None
        if built.arguments not in ((), (Import("builtins", "object"), None)) or state is None:
            raise MalformedError("has an array wrapper that joblib did not write")
        if not _FIELDS <= set(state) <= {*_FIELDS, _PADDING}:
            raise MalformedError(
                f"has an array wrapper with the fields {sorted(map(str, state))[:10]}"
            )
        if not machine.at_frame_end():
            raise MalformedError("has an array inside a frame")
        itemsize = parse_itemsize(state["dtype"])
        if itemsize is None:
            # An array of objects is a pickle of its own, read without joblib's extensions.
            PickleMachine(machine.stream, self._judge).run()
            return ARRAY
        count = _count_items(state["shape"])
        padding = state.get(_PADDING)
        if padding is not None:
            machine.skip(machine.take(1)[0])
        machine.skip(count * itemsize)
        return ARRAY


def _count_items(shape: Any) -> int:
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise MalformedError("has an array whose shape is not known")
    count = 1
    for size in shape:
        # numpy multiplies with 64 bits, and silently wraps around.
        count *= size
        if count > _MAX_ITEMS:
            raise MalformedError("has an array of an impossible size")
    return count


def parse_itemsize(dtype: Any) -> int | None:
    """Return the bytes of one item of a numpy dtype; None for objects.

    Raises:
        MalformedError: not a dtype that numpy's own pickling writes, or one with objects among its fields.
    """
    if not isinstance(dtype, Built) or dtype.function != _DTYPE or not dtype.arguments:
        raise MalformedError("has an array whose dtype is not known")
    code = dtype.arguments[0]
    match = _DTYPE_CODE.fullmatch(code) if isinstance(code, str) else None
    if match is None:
        raise MalformedError(f"has an array of the unknown dtype {str(code)[:40]!r}")
    kind, digits = match[1], match[2]
    state = dtype.state
    if kind == "O":
        return None
    if not digits:
        raise MalformedError(f"has an array of the unknown dtype {code!r}")
    size = int(digits) * (4 if kind == "U" else 1)
    if size == 0:
        raise MalformedError("has an array of items without size")
    if state is not None:
        _check_state(state, size, code)
    return size


def _check_state(state: Any, size: int, code: str) -> None:
    """The state is (version, byte order, subarray, names, fields, itemsize, alignment, flags[, metadata])."""
    if not isinstance(state, tuple) or len(state) not in (8, 9):
        raise MalformedError(f"has an array whose dtype {code!r} has an unknown state")
    itemsize, flags = state[5], state[7]
    if type(itemsize) is not int or itemsize not in (-1, size):
        raise MalformedError(f"has an array whose dtype {code!r} has two sizes")
    if type(flags) is not int or flags & _HAS_OBJECTS_FLAG:
        raise MalformedError(f"has an array whose dtype {code!r} holds objects")
    subarray, fields = state[2], state[4]
    if subarray is not None and (
        not isinstance(subarray, tuple) or len(subarray) != 2 or parse_itemsize(subarray[0]) is None
    ):
        raise MalformedError(f"has an array whose dtype {code!r} holds objects")
    if fields is None:
        return
    known = fields.items if isinstance(fields, Dict) else None
    if known is None:
        raise MalformedError(f"has an array whose dtype {code!r} has unknown fields")
    for field in known.values():
        if not isinstance(field, tuple) or not field or parse_itemsize(field[0]) is None:
            raise MalformedError(f"has an array whose dtype {code!r} holds objects")
