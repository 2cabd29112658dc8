"""Files inside JSON: base64 as clients really write it.

The reference implementations' clients put the base64 inside literal double quotes, or send Python's `b'…'`; KServe's and
TorchServe's send `{"b64": …}`; browsers send data URLs. Their servers decode leniently, so this does too: what is no base64
character is skipped.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from model_scorer.errors import BadRequest
from model_scorer.runtimes.protocol import Blob

_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")
# Under these keys clients put a file into an object; an object with one key may call it as it likes.
_FILE_KEYS = ("b64", "image", "image_bytes", "image_base64", "data", "input", "content")
_NESTED_OBJECTS = 3


def decode_base64(text: str) -> bytes:
    """The file in a text.

    Args:
        text: base64, standard or URL-safe, padded or not; with quotes, `b'…'`, line breaks or a data URL's head around.

    Raises:
        BadRequest: a URL, which is not fetched; or no base64.
    """
    text = text.strip()
    if text[:8].lower().startswith(("http://", "https://")):
        raise BadRequest("files are sent as base64; an address is not fetched")
    text = text.strip('"').removeprefix("b").strip("'\"") if _is_python_bytes(text) else text
    text = text.strip("'\"")
    head = _DATA_URL.match(text)
    if head:
        text = text[head.end() :]
    if "-" in text or "_" in text:
        text = text.translate(_URL_SAFE)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        try:
            # Missing padding is supplied; more of it than needed does no harm.
            data = base64.b64decode(text + "==")
        except (binascii.Error, ValueError) as err:
            raise BadRequest(f"the text is not valid base64: {err}") from None
    if not data:
        raise BadRequest("the file is empty: no base64 in the text")
    return data


def _is_python_bytes(text: str) -> bool:
    return text.lstrip('"')[:2] in ("b'", 'b"')


def find_file(item: Any) -> bytes:
    """The file in what a client sent for one row.

    Args:
        item: a blob; the file's bytes; its base64; `{"b64": …}`, `{"image": …}`, `{"image": {"b64": …}}` and the like, or a
            list with one of these.

    Raises:
        RequestError: none of these, or base64 that is none.
    """
    for _ in range(_NESTED_OBJECTS):
        if isinstance(item, list) and len(item) == 1:
            item = item[0]
        if not isinstance(item, dict):
            break
        item = item[find_key(item)]
    if isinstance(item, Blob):
        if item.error is not None:
            raise item.error
        return item.data
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        # Bytes that happen to be UTF-8 reach us as text; only a WebP file could.
        if item[:4] == "RIFF" and item[8:12] == "WEBP":
            return item.encode("utf-8", "surrogatepass")
        return decode_base64(item)
    raise BadRequest(f"expected a file in base64, got {type(item).__name__}")


def find_key(item: dict[Any, Any]) -> Any:
    """The key under which an object holds a file.

    Raises:
        BadRequest: several keys, and none of the usual names.
    """
    key = next((key for key in _FILE_KEYS if key in item), None)
    if key is not None:
        return key
    if len(item) == 1:
        return next(iter(item))
    keys = ", ".join(sorted(map(str, item))[:5]) or "none"
    raise BadRequest(
        f'no file in an object with the keys {keys[:200]}: expected {{"b64": "…"}} or {{"image": "…"}}'
    )
