"""One client connection: bytes → complete requests → responses in order, with limits on everything a client controls.

Requests of one connection are answered one after the other; what is pipelined behind waits unparsed in the socket.
Whoever is slow, too large or malformed gets its 4xx and is disconnected; nobody else notices.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from time import monotonic
from typing import cast

import httptools

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.errors import (
    BadRequest,
    HeadersTooLarge,
    PayloadTooLarge,
    RequestError,
    RequestTimeout,
    UriTooLong,
)
from model_scorer.http1.exchange import Exchange, Handler, HttpLimits
from model_scorer.http1.responses import CONTINUE, render_head


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()


class Connection(asyncio.Protocol):
    """The protocol of one connection.

    Args:
        handler: who answers.
        loop: the event loop.
    """

    __slots__ = (
        "_begun",
        "_between",
        "_body",
        "_chunks",
        "_exchange",
        "_handler",
        "_head_bytes",
        "_headers",
        "_last",
        "_loop",
        "_parser",
        "_paused",
        "_pending",
        "_refused",
        "_since",
        "_started",
        "_target",
        "_transport",
        "_write_paused",
        "phase",
        "remote",
    )

    def __init__(self, handler: Handler, loop: asyncio.AbstractEventLoop) -> None:
        self._handler = handler
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._target = b""
        self._body = b""
        self._chunks: bytearray | None = None
        self._exchange: Exchange | None = None
        self._pending: deque[Exchange] = deque()
        self._paused = False
        self._write_paused = False
        self._refused = False
        self._started = False
        # Between two requests: the parser holds no piece of one.
        self._between = True
        # Requests begun, and the last one completed, in what is being parsed just now.
        self._begun = 0
        self._last: Exchange | None = None
        self._since = monotonic()
        self.phase = Phase.IDLE
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

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._refused:
            self._discard(len(data))
            return
        alone = (
            self._between
            and self._exchange is None
            and not self._pending
            and not self._write_paused
        )
        if alone:
            end = data.find(b"\r\n\r\n") + 4
            known = self._handler.known_heads.get(data[:end])
            if known is not None and len(data) - end == known.length:
                self.phase = Phase.ANSWER
                # It may be answered within the call; `finish` then finds that this is its exchange.
                self._handler.handle_known(self, known, data[end:])
                return
            self._begun = 0
        begun = self._begun
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No protocol is offered for an upgrade: the request was answered as it is, what follows it is unknown.
            self._refused = True
        except httptools.HttpParserError as err:
            if not self._refused:
                self._refuse(BadRequest(f"malformed HTTP request: {type(err).__name__}"))
        if not self._between and not self._started and self._begun == (1 if alone else begun):
            # One endless header, or endlessly many: the parser would go on collecting them.
            self._head_bytes += len(data)
            if self._head_bytes > self._handler.limits.max_head_bytes and not self._refused:
                self._refuse(HeadersTooLarge("the request's headers are too large"))
        if alone and self._between and self._begun == 1:
            self._offer_head(data)
        self._last = None

    def _offer_head(self, data: bytes) -> None:
        """Let the handler learn the head of a request that came in one piece."""
        end = data.find(b"\r\n\r\n") + 4
        headers = self._headers
        if (
            4 <= end <= MAX_LEARNED_HEAD_BYTES
            and headers.get(b"content-length") == b"%d" % (len(data) - end)
            and b"expect" not in headers
            and self._last is not None
            and self._last.keep_alive
            and not self._last.http_1_0
        ):
            self._handler.learn_head(data[:end], self._last.request)

    def _discard(self, size: int) -> None:
        """Read on for a moment after a refusal, so that the client sees it; but not for ever."""
        self._head_bytes += size
        limit = MAX_DISCARDED_BYTES if self._started else self._handler.limits.max_head_bytes * 16
        if self._head_bytes > limit and self._transport is not None:
            self._transport.abort()

    # ---------------------------------------------------------------------------------------- the parser's callbacks

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._between = False
        self._begun += 1
        self._headers = {}
        self._target = b""
        self._body = b""
        self._chunks = None
        self._started = False
        self._head_bytes = 0
        if self._exchange is None:
            self.phase = Phase.HEAD
            self._since = monotonic()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._target += url
        if len(self._target) > self._handler.limits.max_target_bytes and not self._refused:
            self._refuse(UriTooLong("the request target is too long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the body, a trailer, which is ignored."""
        if not self._started:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The headers are there: the last moment to refuse a body."""
        self._started = True
        if self._refused:
            return
        limits = self._handler.limits
        headers = self._headers
        if (
            len(headers) > limits.max_headers
            or sum(map(len, headers.values())) > limits.max_head_bytes
        ):
            self._refuse(HeadersTooLarge("the request's headers are too large"))
            return
        length = headers.get(b"content-length")
        if length is not None and (len(length) > 18 or int(length) > limits.max_body_bytes):
            self._refuse(_too_large(limits))
            return
        if self._exchange is None:
            self.phase = Phase.BODY
        if (
            b"expect" in headers
            and headers[b"expect"].lower() == b"100-continue"
            and self._exchange is None
            and self._transport is not None
        ):
            self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._refused:
            return
        if not self._body:
            self._body = body  # nearly always the only one
        elif self._chunks is None:
            self._chunks = bytearray(self._body)
            self._chunks += body
        else:
            self._chunks += body
        if self._received() > self._handler.limits.max_body_bytes:
            self._refuse(_too_large(self._handler.limits))

    def _received(self) -> int:
        """Bytes of the body so far."""
        return len(self._body) if self._chunks is None else len(self._chunks)

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._refused:
            return
        parser = self._parser
        method = parser.get_method()
        target = self._target
        path = self._handler.paths.get(target)
        query = ""
        if path is None:
            raw_path, _, raw_query = target.partition(b"?")
            path, query = raw_path.decode("latin-1"), raw_query.decode("latin-1")
        exchange = self._handler.begin(
            self,
            HttpRequest(
                "POST" if method == b"POST" else method.decode("ascii"),
                path,
                query,
                self._headers,
                self._body if self._chunks is None else bytes(self._chunks),
            ),
            parser.should_keep_alive() and b"upgrade" not in self._headers,
            parser.get_http_version() == "1.0",
            monotonic(),
        )
        self._body, self._chunks = b"", None
        self._between = True
        self._last = exchange
        if self._exchange is None and not self._write_paused:
            self._begin(exchange)
        else:
            self._pending.append(exchange)
            if not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()

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
        self._since = exchange.received_at
        self.phase = Phase.IDLE
        return True

    def mark(self, value: int) -> None:
        """Told with what is due to the client; see `serve/worker.py`."""

    def write_raw(self, exchange: Exchange, data: bytes) -> None:
        """Write a piece of a response that somebody else frames (Tornado)."""
        if self._transport is not None and self._exchange is exchange:
            self._transport.write(data)

    def finish(self, exchange: Exchange, *, keep_alive: bool) -> None:
        """The current exchange's response is written; go on with the next, or close."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        self.mark(0)
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


# RFC 9112 section 9.6: close the writing side first, and go on reading for a moment.
LINGER_SECONDS = 1.0
# What is longer carries tokens or cookies that change.
MAX_LEARNED_HEAD_BYTES = 2048
# A client that sends a body without waiting for 100 sees the 413 only if the body is read.
MAX_DISCARDED_BYTES = 16 * 1024 * 1024


def _too_large(limits: HttpLimits) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limits.max_body_bytes} bytes")
