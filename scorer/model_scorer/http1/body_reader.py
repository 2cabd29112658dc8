"""Large bodies: the socket is read straight into the memory that the codecs look at, without a piece being copied.

A connection steps aside for this protocol once a request's head is read and most of its body is still to come, and takes
over again with the whole body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

# Below this, changing protocols costs more than the copies.
LARGE_BODY_BYTES = 64 * 1024
# As malloc aligns, and at least any number's size.
_ALIGNMENT = 16


class BodyReader(asyncio.BufferedProtocol):
    """Reads the rest of one body.

    Args:
        connection: told of everything that is not data.
        length: of the whole body in bytes, within the connection's limit.
        begin: what of it was read already; shorter than `length`.
        complete: called with the body when all of it is there.
    """

    __slots__ = ("_buffer", "_complete", "_connection", "received")

    def __init__(
        self,
        connection: asyncio.Protocol,
        length: int,
        begin: bytes | bytearray | memoryview,
        complete: Callable[[memoryview], None],
    ) -> None:
        self._connection = connection
        self._complete = complete
        # Not a bytearray, which writes zeros: a client that announces much and sends little must not take memory.
        # Raw tensors end a body: where its end is aligned, so are they, and numpy need not copy them once more.
        padding = -length % _ALIGNMENT
        self._buffer = np.empty(length + padding, np.uint8).data[padding:]
        self.received = len(begin)
        self._buffer[: self.received] = begin

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes belong; no more than this body has, so that a next request stays in the socket."""
        return self._buffer[self.received :]

    def buffer_updated(self, nbytes: int) -> None:
        """That many bytes came."""
        self.received += nbytes
        if self.received == len(self._buffer):
            self._complete(self._buffer)

    def eof_received(self) -> bool:
        """Called by the loop: the body is cut off."""
        return bool(self._connection.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._connection.resume_writing()
