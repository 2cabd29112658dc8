"""Datatypes of the Open Inference Protocol and numpy's, both ways.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md#tensor-data-types
"""

from __future__ import annotations

import numpy as np

from model_scorer.runtimes.protocol import Array

DTYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's dtype; texts and anything unknown are BYTES."""
    name = _NAMES.get(array.dtype)
    return name if name is not None else _NAMES.get(array.dtype.newbyteorder("="), "BYTES")


def datatype_of_dtype(name: str) -> str | None:
    """The protocol's name of a dtype by numpy's name for it; BYTES for texts, None for what is neither."""
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError):
        # pandas' and MLflow's names for texts.
        return "BYTES" if name in ("string", "category") else None
    return _NAMES.get(dtype) or ("BYTES" if dtype.kind in "OSU" else None)
