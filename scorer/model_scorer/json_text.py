"""JSON in and out: orjson, with our errors on the way in and numpy, pandas and dates on the way out."""

from __future__ import annotations

import base64
import datetime
import decimal
from typing import Any

import numpy as np
import orjson

from model_scorer.errors import BadRequest

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def decode_json(body: bytes | memoryview) -> Any:
    """A JSON text as Python values.

    Raises:
        BadRequest: no JSON, no UTF-8, nested deeper than 1024 levels, or a lone surrogate.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as err:
        if not bytes(body[:64]).strip():
            raise BadRequest("the body is empty; expected JSON") from None
        raise BadRequest(f"the body is not valid JSON: {err}") from None


def is_json_type(content_type: str) -> bool:
    """Whether a Content-Type header declares JSON; an absent one does.

    Args:
        content_type: with or without parameters.
    """
    media = content_type.partition(";")[0].strip().lower()
    return media in ("application/json", "", "text/json") or media.endswith("+json")


def encode_json(value: Any) -> bytes:
    """Python values as JSON; NaN and infinities become null.

    Raises:
        TypeError: a value of a type that has no JSON form.
    """
    try:
        return orjson.dumps(value, _encode_other, _OPTIONS)
    except orjson.JSONEncodeError as err:
        raise TypeError(f"the result cannot be encoded as JSON: {err}") from err


def _encode_other(value: Any) -> Any:
    if isinstance(value, np.ndarray):  # of texts, of a foreign byte order, not contiguous
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    # pandas, without importing it: whoever returned a frame has it loaded.
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return value.to_dict(orient="records")
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
