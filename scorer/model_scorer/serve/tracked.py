"""A connection that the supervisor keeps an eye on, so that no client is left without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from model_scorer.http1.connection import Connection
from model_scorer.http1.exchange import NOTHING_DUE, Exchange, Handler

if TYPE_CHECKING:
    from model_scorer.serve.sharing import WorkSharing


class TrackedConnection(Connection):
    """See the module.

    Its end is told, so that the supervisor balances and lets go of it; what is due to its client is noted in shared
    memory, so that the supervisor can answer if this process dies on the request.

    Args:
        handler: who answers.
        loop: the event loop.
        number: of the connection; -1 when the supervisor has no descriptor of it.
        flags: what is due to the client of each connection, shared.
        forget: told the number when the connection is closed.
        passed: a request that another worker has read from it, to be answered first.
    """

    __slots__ = ("_flags", "_forget", "_number", "_passed")

    def __init__(
        self,
        handler: Handler,
        loop: asyncio.AbstractEventLoop,
        number: int,
        flags: memoryview,
        forget: Callable[[int], None],
        passed: bytes = b"",
    ) -> None:
        super().__init__(handler, loop)
        self._number = number
        self._flags = flags
        self._forget = forget
        self._passed = passed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        if self._passed:
            passed, self._passed = self._passed, b""
            self.data_received(passed)

    def mark(self, value: int) -> None:
        """Note what is due to the client."""
        if self._number >= 0:
            self._flags[self._number] = value

    def pass_on(self, sharing: WorkSharing, taker: int, exchange: Exchange) -> bool:
        """Give the connection and its request to another worker.

        Returns:
            False when it stays here.
        """
        if self._number < 0 or not self.may_hand_off(exchange):
            return False
        if not sharing.pass_on(self._number, taker, exchange.request):
            return False
        # It is the other's from now on: neither its end nor its state is ours to tell.
        self._number = -1
        self.hand_off()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.mark(NOTHING_DUE)
        super().connection_lost(exc)
        self._forget(self._number)
