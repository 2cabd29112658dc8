"""Request ids: the client's is echoed, a new one is made where it sent none, Azure ML's header names are understood.

https://github.com/microsoft/azureml-inference-server (x-request-id, x-ms-request-id, x-ms-client-request-id)
"""

from __future__ import annotations

import os

from model_scorer.errors import HeadersTooLarge

MAX_ID_CHARS = 100


class RequestIds:
    """Makes ids that are unique without asking the system for randomness each time: a random start, then a count."""

    __slots__ = ("_count", "_prefix")

    def __init__(self) -> None:
        text = os.urandom(10).hex()
        self._prefix = f"{text[:8]}-{text[8:12]}-4{text[12:15]}-8{text[15:18]}-"
        self._count = int.from_bytes(os.urandom(5), "big")

    def new(self) -> str:
        """A new id in the form of a UUID."""
        self._count += 1
        return f"{self._prefix}{self._count & 0xFFFFFFFFFFFF:012x}"


def read_id(headers: dict[bytes, bytes], name: bytes) -> str:
    """A client's id, or the empty text.

    Raises:
        HeadersTooLarge: longer than 100 characters, or not printable ASCII.
    """
    value = headers.get(name)
    if value is None:
        return ""
    text = value.decode("latin-1").strip(" \t")
    if len(text) > MAX_ID_CHARS or not text.isascii() or not text.isprintable():
        raise HeadersTooLarge(
            f"{name.decode()} must be at most {MAX_ID_CHARS} printable characters"
        )
    return text
