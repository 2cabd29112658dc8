"""One client connection: requests → responses in order, and patience that ends.

Requests of one connection are answered one after the other; what is pipelined behind waits unparsed in the socket.
Whoever is slow, too large or malformed gets its 4xx and is disconnected; nobody else notices.
"""

from __future__ import annotations

import asyncio
import select
from time import monotonic
from typing import cast

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.errors import RequestError, RequestTimeout
from model_scorer.http1.exchange import NOTHING_DUE, READING, Exchange, Handler, KnownHead
from model_scorer.http1.request_reader import Phase, RequestReader
from model_scorer.http1.responses import render_head

# RFC 9112 section 9.6: close the writing side first, and go on reading for a moment.
LINGER_SECONDS = 1.0
# A server that ends leaves a client this long to ask once more: its request may be on its way, a new client's surely is.
LAST_REQUEST_SECONDS = 1.0


class Connection(RequestReader):
    """The protocol of one connection.

    Args:
        handler: who answers.
        loop: the event loop.
    """

    __slots__ = ("remote",)

    def __init__(self, handler: Handler, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(handler, loop)
        self.remote = ""

    # ----------------------------------------------------------------------------------------- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        # A cast, for uvloop's transports have asyncio's methods and not its base class.
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.remote = str(peer[0]) if isinstance(peer, tuple) else ""
        self._handler.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop; what was asked and not answered is given up."""
        self._transport = None
        exchange, self._exchange = self._exchange, None
        self._pending.clear()
        if exchange is not None:
            self._handler.disconnected(exchange)
        self._handler.closed(self)

    def eof_received(self) -> bool:
        """The client sends no more; it may still read, so what it asked is answered first."""
        if self._exchange is None:
            return False
        self._exchange.keep_alive = False
        if self._pending:
            self._exchange.keep_alive = True
            self._pending[-1].keep_alive = False
        return True

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        self._write_paused = True
        self._since = monotonic()

    def resume_writing(self) -> None:
        """It caught up."""
        self._write_paused = False
        self._since = monotonic()
        self._pump()

    # -------------------------------------------------------------------------------------------------- requests

    def _take(self, request: HttpRequest, keep_alive: bool, http_1_0: bool) -> Exchange:
        exchange = self._handler.begin(self, request, keep_alive, http_1_0, monotonic())
        if self._exchange is None and not self._write_paused:
            self._begin(exchange)
        else:
            self._pending.append(exchange)
            if not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        return exchange

    def _take_known(self, head: KnownHead, body: bytes | memoryview) -> None:
        # It may be answered within the call; `finish` then finds that this is its exchange.
        self._handler.handle_known(self, head, body)

    def adopt(self, exchange: Exchange) -> None:
        """Make an exchange that a handler began by itself the current one."""
        self._exchange = exchange

    # ------------------------------------------------------------------------------------------------- responses

    def respond(
        self,
        exchange: Exchange,
        status: int,
        content_type: str,
        body: bytes,
        lines: str,
    ) -> None:
        """Write the whole response of the current exchange; nothing happens if the client is gone.

        Args:
            exchange: the current one.
            status: HTTP status.
            content_type: of the body.
            body: complete.
            lines: further headers, as `render_lines` makes them.
        """
        transport = self._transport
        if transport is None or self._exchange is not exchange:
            return
        keep_alive = exchange.keep_alive and not self._handler.closing
        head = render_head(
            status,
            content_type,
            len(body),
            lines,
            keep_alive=keep_alive,
            http_1_0=exchange.http_1_0,
        )
        if exchange.request.method == "HEAD":
            transport.write(head)
        elif len(body) < 65536:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        self.finish(exchange, keep_alive=keep_alive)

    def respond_plainly(self, exchange: Exchange, data: bytes) -> bool:
        """Write a complete response to a request of HTTP/1.1 that keeps its connection: what nearly all are.

        Returns:
            False if it is another kind of request, or the client is gone: then nothing was written.
        """
        transport = self._transport
        if (
            transport is None
            or self._exchange is not exchange
            or not exchange.keep_alive
            or exchange.http_1_0
            or self._pending
            or self._paused
            or not self._between
            or self._refused
            or self._handler.closing
        ):
            return False
        transport.write(data)
        self._exchange = None
        self.mark(NOTHING_DUE)
        self._since = exchange.received_at
        self.phase = Phase.IDLE
        return True

    def write_raw(self, exchange: Exchange, data: bytes) -> None:
        """Write a piece of a response that somebody else frames (Tornado)."""
        if self._transport is not None and self._exchange is exchange:
            self._transport.write(data)

    def finish(self, exchange: Exchange, *, keep_alive: bool) -> None:
        """The current exchange's response is written; go on with the next, or close."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        self.mark(NOTHING_DUE if self._between and not self._pending else READING)
        self._since = monotonic()
        # A piece of the next request may have come with this one.
        self.phase = Phase.IDLE if self._between else Phase.BODY if self._started else Phase.HEAD
        if not keep_alive or (self._refused and not self._pending):
            self._pending.clear()
            self.close()
        elif self._pending or self._paused:
            # Not from here: a thousand pipelined requests would be a thousand frames deep.
            self._loop.call_soon(self._pump)

    def close(self) -> None:
        """Close after what is already written."""
        if self._transport is not None:
            self._transport.close()

    def close_with(self, error: RequestError) -> None:
        """Answer what is in flight with an error, then close."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self._transport is not None:
            self._handler.refuse(self, error, exchange.request.path)
        self.close()

    def may_hand_off(self, exchange: Exchange) -> bool:
        """Whether another process could go on with this connection: nothing of a next request was read here."""
        return (
            self._transport is not None
            and self._exchange is exchange
            and self._between
            and not self._pending
            and not self._refused
            and exchange.keep_alive
            and not exchange.http_1_0
        )

    def hand_off(self) -> None:
        """Let go of the socket without ending the connection: somebody else holds a descriptor of it."""
        transport = self._transport
        self._transport = self._exchange = None
        if transport is not None:
            transport.pause_reading()
            # Not `close`, which would wait for what is written: nothing is.
            transport.abort()

    @property
    def idle(self) -> bool:
        """Nothing is being received or answered."""
        return self.phase is Phase.IDLE and self._exchange is None

    def close_if_idle(self, now: float) -> None:
        """Close, unless something is asked or may be on its way: what is closed on a request resets the client."""
        if self.idle and now - self._since > LAST_REQUEST_SECONDS and not self._holds_unread():
            self.close()

    def check_patience(self, now: float) -> None:
        """Disconnect a client that is too slow; called about once a second."""
        limits = self._handler.limits
        waited = now - self._since
        if self._write_paused:
            if waited > limits.write_seconds and self._transport is not None:
                self._transport.abort()
        elif self.phase is Phase.IDLE:
            if waited > limits.idle_seconds:
                self.close()
        elif self.phase is Phase.HEAD:
            if waited > limits.head_seconds:
                self._refuse(RequestTimeout("the request's headers took too long"))
        elif self.phase is Phase.BODY and (
            waited > limits.body_seconds + self._received() / limits.body_rate
        ):
            self._refuse(RequestTimeout("the request's body took too long"))

    def _holds_unread(self) -> bool:
        """Whether the kernel has bytes of the client, or its end, for us to read."""
        if self._transport is None:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    def _begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.phase = Phase.ANSWER
        self._handler.handle(exchange)

    def _pump(self) -> None:
        """Begin the next pipelined request, or read on."""
        if self._exchange is not None or self._write_paused or self._transport is None:
            return
        if self._pending:
            exchange = self._pending.popleft()
            exchange.received_at = monotonic()
            self._begin(exchange)
        elif self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _refuse(self, error: RequestError) -> None:
        """Answer with an error and disconnect: what the client sends next has no meaning any more."""
        self._refused, self._between = True, False
        if self._reader is not None:
            self._step_back()  # what still comes is discarded here
        if self._transport is None:
            return
        if self._exchange is None:
            self._handler.refuse(self, error, self._target.decode("latin-1"))
            self.linger()
        else:
            self._exchange.keep_alive = (
                False  # the earlier request is answered first; this one is dropped
            )

    def write_refusal(self, status: int, content_type: str, body: bytes, lines: str) -> None:
        """Write a response outside any exchange."""
        if self._transport is not None:
            head = render_head(status, content_type, len(body), lines, keep_alive=False)
            self._transport.write(head + body)

    def linger(self) -> None:
        """Close in a moment: closing at once, with unread bytes in the socket, would reset the answer away."""
        transport = self._transport
        if transport is None:
            return
        if transport.can_write_eof():
            transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self.close)
