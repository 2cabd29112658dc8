"""The arrays of a joblib file: raw bytes between two opcodes, skipped here exactly as joblib reads them.

After the BUILD of a `NumpyArrayWrapper` joblib reads, from the file and not from the pickle's frame, one byte of padding
length, the padding, and shape times itemsize bytes; for arrays of objects, a whole pickle. Anything about a wrapper that
is not what joblib's own pickler writes is refused: a scan that is off by one byte has seen another file.
"""

from pathlib import Path
from typing import Any

from model_scorer.verify.dtypes import check_dtype
from model_scorer.verify.machine import Judge, PickleMachine
from model_scorer.verify.reader import MalformedError
from model_scorer.verify.values import ARRAY, Built, Dict, Import

_WRAPPER = Import("joblib.numpy_pickle", "NumpyArrayWrapper")
_FIELDS = {"subclass", "shape", "order", "dtype", "allow_mmap"}
_PADDING = "numpy_array_alignment_bytes"
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
        itemsize, objects = check_dtype(state["dtype"])
        if objects:
            # An array of objects is a pickle of its own, read without joblib's extensions.
            PickleMachine(machine.stream, self._judge).run()
            return ARRAY
        if itemsize == 0:
            raise MalformedError("has an array of items without size")
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
