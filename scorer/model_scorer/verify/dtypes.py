"""numpy dtypes in a pickle: their size, and whether what they say about themselves is true.

A dtype's state is taken over by numpy unchecked. One that denies its objects makes numpy use raw bytes as pointers, which
runs whatever the bytes point to, without any import. So the state must be one that numpy itself writes:
(version, byte order, subarray, names, fields, itemsize, alignment, flags[, metadata]).
"""

import math
import re
from typing import Any

from model_scorer.verify.reader import MalformedError
from model_scorer.verify.values import Built, Dict, Import

DTYPE = Import("numpy", "dtype")
_CODE = re.compile(r"[<>|=]?([biufcSUVmMO])(\d{1,9})")
_HAS_OBJECTS, _LIST_PICKLE = 1, 2
_OBJECT_FLAGS = 63


def check_dtype(dtype: Any) -> tuple[int, bool]:
    """Return the bytes of one item, and whether it holds objects.

    Raises:
        MalformedError: not a dtype that numpy's own pickling writes.
    """
    if not isinstance(dtype, Built) or dtype.function != DTYPE or not dtype.arguments:
        raise MalformedError("has a dtype that is not known")
    code = dtype.arguments[0]
    match = _CODE.fullmatch(code) if isinstance(code, str) else None
    if match is None:
        raise MalformedError(f"has the unknown dtype {str(code)[:40]!r}")
    kind = match[1]
    size = int(match[2]) * (4 if kind == "U" else 1)
    if dtype.state is None:
        return size, kind == "O"
    state = dtype.state
    if not isinstance(state, tuple) or len(state) not in (8, 9):
        raise MalformedError(f"has the dtype {code!r} with an unknown state")
    subarray, names, fields, itemsize, flags = state[2], state[3], state[4], state[5], state[7]
    if type(itemsize) is not int or itemsize not in (-1, size):
        raise MalformedError(f"has the dtype {code!r} with two sizes")
    if kind != "V" and not (subarray is None and names is None and fields is None):
        raise MalformedError(f"has the dtype {code!r} with fields")
    objects = kind == "O"
    if fields is not None:
        objects = _check_fields(fields, size, code)
    if subarray is not None:
        objects = _check_subarray(subarray, size, code) or objects
    if type(flags) is not int or not _flags_fit(flags, objects, kind):
        raise MalformedError(
            f"has the dtype {code!r} with flags that deny its objects or claim some"
        )
    return size, objects


def _flags_fit(flags: int, objects: bool, kind: str) -> bool:
    if kind == "O":
        return flags == _OBJECT_FLAGS
    both = _HAS_OBJECTS | _LIST_PICKLE
    return flags & both == (both if objects else 0)


def _check_fields(fields: Any, size: int, code: str) -> bool:
    known = fields.items if isinstance(fields, Dict) else None
    if known is None:
        raise MalformedError(f"has the dtype {code!r} with unknown fields")
    objects = False
    for field in known.values():
        if not isinstance(field, tuple) or len(field) not in (2, 3) or type(field[1]) is not int:
            raise MalformedError(f"has the dtype {code!r} with an unknown field")
        item, has_objects = check_dtype(field[0])
        if not 0 <= field[1] <= size - item:
            raise MalformedError(f"has the dtype {code!r} with a field outside of it")
        objects = objects or has_objects
    return objects


def _check_subarray(subarray: Any, size: int, code: str) -> bool:
    if not isinstance(subarray, tuple) or len(subarray) != 2:
        raise MalformedError(f"has the dtype {code!r} with an unknown subarray")
    item, objects = check_dtype(subarray[0])
    shape = subarray[1] if isinstance(subarray[1], tuple) else (subarray[1],)
    if (
        not all(type(count) is int and count >= 0 for count in shape)
        or math.prod(shape) * item != size
    ):
        raise MalformedError(f"has the dtype {code!r} with a subarray of another size")
    return objects
