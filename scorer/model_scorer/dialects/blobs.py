"""Files in requests: raw bodies with their own content type, and base64 inside JSON in all forms that clients send.

The reference implementations wrap base64 in literal double quotes, put JSON into a JSON string, or leave Python's `b'…'`
around it; KServe's and TorchServe's clients send `{"b64": …}`; browsers send data URLs. All of them are read.
"""

from __future__ import annotations

import base64
import binascii
import re
from fnmatch import fnmatchcase
from typing import Any

from model_scorer.dialects.protocol import HttpRequest, Target, refuse_encoding
from model_scorer.errors import BadRequest
from model_scorer.json_text import decode_json
from model_scorer.runtimes.protocol import Blob, BlobsInput

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w=.+-]+)*;base64,")


def takes_media(media: str, target: Target) -> bool:
    """Whether the runtime decodes bodies of this content type itself."""
    return bool(media) and any(fnmatchcase(media, pattern) for pattern in target.info.media)


def blob_from_body(request: HttpRequest, target: Target) -> BlobsInput | None:
    """The whole body as one file, when its content type is one that the runtime takes; None otherwise.

    Raises:
        BadRequest: the body is empty.
    """
    media = request.media_type()
    if not takes_media(media, target):
        return None
    refuse_encoding(request)
    if not request.body:
        raise BadRequest(f"the body is empty; expected {media}")
    return BlobsInput([Blob(request.body, media)])


def blobs_from_json(value: Any) -> BlobsInput | None:
    """Files in a JSON value: a base64 text, `{"b64": text}`, an object of them by key, or a list of any of these.

    Returns:
        None when the value is something else (rows of numbers).

    Raises:
        BadRequest: a text that is no base64.
    """
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | dict) for item in items):
        return None
    blobs: list[Blob] = []
    for item in items:
        found = item
        if isinstance(item, str) and item.lstrip().startswith("{"):
            found = decode_json(item.encode("utf-8", "replace"))
        if isinstance(found, dict) and "b64" not in found:
            if not found:
                raise BadRequest("expected a file in base64, got an empty object")
            blobs.extend(_decode(text, str(key)) for key, text in found.items())
        else:
            blobs.append(_decode(found, ""))
    return BlobsInput(blobs)


def _decode(value: Any, key: str) -> Blob:
    if isinstance(value, dict) and "b64" in value:
        value = value["b64"]
    where = f"{key!r}: " if key else ""
    if not isinstance(value, str):
        raise BadRequest(f"{where}expected a file in base64")
    text = value.strip()
    media = ""
    url = _DATA_URL.match(text)
    if url:
        media, text = url[1] or "", text[url.end() :]
    text = text.removeprefix("b'").strip("'\"")
    try:
        data = base64.b64decode(
            text
        )  # not strict, as the reference servers are not: line breaks and quotes are skipped
    except (binascii.Error, ValueError):
        raise BadRequest(f"{where}the text is not valid base64") from None
    if not data:
        raise BadRequest(f"{where}the file is empty")
    return Blob(data, media, key)
