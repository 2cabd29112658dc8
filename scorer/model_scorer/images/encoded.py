"""Image files inside texts: base64 as clients really write it.

The reference implementations' clients put the base64 inside literal double quotes, or send Python's `b'…'`; browsers
send data URLs. Their servers decode leniently, so this does too: what is no base64 character is skipped.
"""

from __future__ import annotations

import base64
import binascii
import re

from model_scorer.errors import BadRequest

_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")


def decode_base64(text: str) -> bytes:
    """The file in a text.

    Args:
        text: base64, standard or URL-safe, padded or not; with quotes, `b'…'`, line breaks or a data URL's head around.

    Raises:
        BadRequest: a URL, which is not fetched; or no base64.
    """
    text = text.strip()
    if text[:8].lower().startswith(("http://", "https://")):
        raise BadRequest("images are sent as base64; an address is not fetched")
    text = text.strip('"')
    if text.startswith(("b'", 'b"')):
        text = text[2:]
    text = text.strip("'\"")
    head = _DATA_URL.match(text)
    if head:
        text = text[head.end() :]
    if "-" in text or "_" in text:
        text = text.translate(_URL_SAFE)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    try:
        # Missing padding is supplied; more of it than needed does no harm.
        return base64.b64decode(text + "==")
    except (binascii.Error, ValueError) as err:
        raise BadRequest(f"the image is not base64: {err}") from None
