"""The server side: client connections, requests as they arrive, responses as they leave."""

from __future__ import annotations

import asyncio
import http
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import httptools

from local_cluster.ingress.upstream import Headers, UpstreamConnection

MAX_HEAD_BYTES = 65536
IDLE_TIMEOUT_SECONDS = 75.0
LINGER_SECONDS = 5.0
# What a request body may buffer: this much is kept so that it can be sent again to another pod.
REPLAY_LIMIT_BYTES = 1 << 20
_READ_AHEAD_BYTES = 1 << 18

_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}
# RFC 9110 7.6.1: these concern one connection only.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

log = logging.getLogger(__name__)


class Exchange:
    """One request and its response.

    Args:
        front: the client's connection.
        method: the method.
        target: the request target as it came.
        headers: the request headers as they came.
        keep_alive: whether the client wants to keep the connection.
        http_1_0: whether the client speaks HTTP/1.0.
    """

    __slots__ = (
        "_awaited",
        "_chunked",
        "_out",
        "body",
        "body_bytes",
        "body_complete",
        "front",
        "headers",
        "http_1_0",
        "keep_alive",
        "method",
        "on_progress",
        "replayable",
        "response_complete",
        "response_started",
        "sent_chunks",
        "target",
        "upstream",
    )

    def __init__(
        self,
        front: FrontConnection,
        method: bytes,
        target: bytes,
        headers: Headers,
        keep_alive: bool,
        http_1_0: bool,
    ) -> None:
        self.front = front
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.body: deque[bytes] = deque()
        self.body_bytes = 0
        self.body_complete = False
        self.replayable = True
        self.sent_chunks = 0
        self.response_started = False
        self.response_complete = False
        self.upstream: UpstreamConnection | None = None
        self.on_progress: Callable[[], None] | None = None
        self._out: list[bytes] = []
        self._chunked = False
        self._awaited: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """Part of the request body came."""
        if self.response_complete:
            return
        self.body.append(data)
        self.body_bytes += len(data)
        self.wake()

    def finish(self) -> None:
        """The request is complete."""
        self.body_complete = True
        self.wake()

    def wake(self) -> None:
        """Let ``wait_body`` look again."""
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def wait_body(self) -> None:
        """Wait for more of the body, its end, or a wake-up."""
        self._awaited = asyncio.get_running_loop().create_future()
        try:
            await self._awaited
        finally:
            self._awaited = None

    def take_body(self) -> bytes:
        """The part of the body that has not been sent yet; kept while a replay is possible."""
        if self.body_bytes > REPLAY_LIMIT_BYTES and self.replayable:
            self.replayable = False
        if self.replayable:
            fresh = [self.body[i] for i in range(self.sent_chunks, len(self.body))]
            self.sent_chunks = len(self.body)
            return fresh[0] if len(fresh) == 1 else b"".join(fresh)
        for _ in range(self.sent_chunks):
            self.body.popleft()
        self.sent_chunks = 0
        data = b"".join(self.body)
        self.body.clear()
        return data

    @property
    def has_unsent(self) -> bool:
        """Whether part of the body waits to be sent."""
        return len(self.body) > self.sent_chunks

    def rewind(self) -> None:
        """Send the body from its start again; only while ``replayable``."""
        self.sent_chunks = 0

    def response_head(self, status: int, headers: Headers, length_known: bool) -> None:
        """Write the head, with the framing that fits this client."""
        self.response_started = True
        dropped = HOP_BY_HOP
        for name, value in headers:
            if name.lower() == b"connection" and value.lower() not in (b"close", b"keep-alive"):
                dropped = dropped | {item.strip().lower() for item in value.split(b",")}
        lines = [b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b"Unknown"))]
        lines += [
            b"%s: %s\r\n" % (name, value) for name, value in headers if name.lower() not in dropped
        ]
        if not length_known:
            if self.http_1_0:
                self.keep_alive = False
            else:
                self._chunked = True
                lines.append(b"Transfer-Encoding: chunked\r\n")
        if not self.keep_alive or self.front.leaving:
            self.keep_alive = False
            lines.append(b"Connection: close\r\n")
        elif self.http_1_0:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self._out.append(b"".join(lines))
        self._progress()

    def response_body(self, data: bytes) -> None:
        """Write part of the body."""
        if self._chunked:
            self._out.append(b"%x\r\n%s\r\n" % (len(data), data))
        else:
            self._out.append(data)
        self._progress()

    def response_end(self) -> None:
        """Write the end of the body."""
        if self._chunked:
            self._out.append(b"0\r\n\r\n")
        self.response_complete = True

    def flush(self) -> None:
        """Hand what was written to the client's transport."""
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self.front.write(data)

    def _progress(self) -> None:
        if self.on_progress is not None:
            self.on_progress()

    def answer(
        self, status: int, message: str, *, headers: Headers | None = None, code: str = ""
    ) -> None:
        """Answer with a small JSON document of the proxy's own."""
        phrase = _REASONS.get(status, b"").decode()
        document = {"error": {"status": status, "reason": code or phrase, "message": message}}
        payload = json.dumps(document).encode() + b"\n"
        head: Headers = [
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(payload)),
            *(headers or []),
        ]
        self.response_head(status, head, True)
        if self.method != b"HEAD":
            self.response_body(payload)
        self.response_end()
        self.flush()


Handler = Callable[[Exchange], Awaitable[None]]


class ConnectionSet:
    """The open client connections of a proxy."""

    def __init__(self) -> None:
        self._open: set[FrontConnection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def add(self, connection: FrontConnection) -> None:
        """A connection was opened."""
        self._open.add(connection)
        self._empty.clear()

    def discard(self, connection: FrontConnection) -> None:
        """A connection was closed."""
        self._open.discard(connection)
        if not self._open:
            self._empty.set()

    async def close(self, drain_seconds: float) -> None:
        """Close all: idle ones now, the others after their response, or when time is up."""
        for connection in list(self._open):
            connection.leave()
        try:
            async with asyncio.timeout(drain_seconds):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._open):
                connection.abort()
            await self._empty.wait()


class FrontConnection(asyncio.Protocol):
    """One client connection.

    Args:
        handler: answers one exchange.
        connections: the open connections; it adds and removes itself.
        scheme: ``http`` or ``https``.
    """

    def __init__(self, handler: Handler, connections: ConnectionSet, scheme: str) -> None:
        self.scheme = scheme
        self.peer = ""
        self.leaving = False
        self.closed = False
        self.write_paused = False
        self._handler = handler
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._task: asyncio.Task[None] | None = None
        self._queue: deque[Exchange] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._receiving: Exchange | None = None
        self.current: Exchange | None = None
        self._target = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._reading_paused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start serving."""
        # A cast, because uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if peer else ""
        self._connections.add(self)
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went: so does what is done for it."""
        self.closed = True
        self._connections.discard(self)
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._receiving is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The parser announced the request before it found that it asks for something else.
            if self._queue:
                self._queue.pop()
            self._refuse(501, "Upgrades and tunnels are not supported.")
        except httptools.HttpParserError:
            self._refuse(400, "The request is not valid HTTP/1.1.")
        else:
            if self._receiving is None and self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, "The request's head is too large.")
            self._limit_reading()

    def _refuse(self, status: int, message: str) -> None:
        # Only when nothing else is under way can an answer be attributed to this request.
        if self.current is None and not self._queue:
            exchange = Exchange(self, b"GET", b"/", [], False, False)
            exchange.answer(status, message)
        if self._transport is not None:
            self._transport.close()

    def write(self, data: bytes) -> None:
        """Send to the client."""
        if self._transport is not None and not self.closed:
            self._transport.write(data)

    def abort(self) -> None:
        """Cut the connection: the response cannot be completed."""
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """The client is slow: let its pod wait."""
        self.write_paused = True
        if self.current is not None and self.current.upstream is not None:
            self.current.upstream.pause_reading()

    def resume_writing(self) -> None:
        """The client takes more."""
        self.write_paused = False
        if self.current is not None and self.current.upstream is not None:
            self.current.upstream.resume_reading()

    def _limit_reading(self) -> None:
        exchange = self._receiving
        waiting = 0
        if exchange is not None:
            waiting = sum(
                len(exchange.body[i]) for i in range(exchange.sent_chunks, len(exchange.body))
            )
        if waiting > _READ_AHEAD_BYTES or len(self._queue) > 8:
            if not self._reading_paused and self._transport is not None and not self.closed:
                self._transport.pause_reading()
                self._reading_paused = True
        else:
            self.resume_reading()

    def resume_reading(self) -> None:
        """Take more from the client."""
        if self._reading_paused and self._transport is not None and not self.closed:
            self._transport.resume_reading()
            self._reading_paused = False

    def leave(self) -> None:
        """Close as soon as nothing is under way."""
        self.leaving = True
        if self.current is None and not self._queue and self._transport is not None:
            self._transport.close()

    def on_message_begin(self) -> None:
        """Parser: a request starts."""
        self._target = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        """Parser: part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser: one header."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Parser: the head is there, the exchange can start."""
        parser = self._parser
        exchange = Exchange(
            self,
            parser.get_method(),
            self._target,
            self._headers,
            bool(parser.should_keep_alive()),
            parser.get_http_version() == "1.0",
        )
        self._receiving = exchange
        self._head_bytes = 0
        self._queue.append(exchange)
        for name, value in self._headers:
            if name.lower() == b"expect" and value.lower() == b"100-continue":
                if self.current is None and len(self._queue) == 1:
                    self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                break
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def on_body(self, data: bytes) -> None:
        """Parser: part of the body."""
        if self._receiving is not None:
            self._receiving.feed(data)

    def on_message_complete(self) -> None:
        """Parser: the request is complete."""
        if self._receiving is not None:
            self._receiving.finish()
            self._receiving = None

    async def _serve(self) -> None:
        try:
            while not self.closed:
                exchange = await self._next()
                self.current = exchange
                await self._handler(exchange)
                if not exchange.body_complete:
                    await self._discard_rest(exchange)
                self.current = None
                self.resume_reading()
                if not exchange.keep_alive or not exchange.body_complete or self.leaving:
                    break
        except asyncio.CancelledError:
            if not self.closed:
                raise
        except Exception:
            log.exception("a request failed")
            self.abort()
        finally:
            self._stop_timer()
            if self._transport is not None:
                self._transport.close()

    async def _next(self) -> Exchange:
        while not self._queue:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(IDLE_TIMEOUT_SECONDS, self._idle_too_long)
            self._arrived = loop.create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
                self._stop_timer()
        return self._queue.popleft()

    async def _discard_rest(self, exchange: Exchange) -> None:
        """Read on for a while: closing at once would destroy the response on its way."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not exchange.body_complete:
                    exchange.take_body()
                    self.resume_reading()
                    await exchange.wait_body()
        except TimeoutError:
            pass

    def _idle_too_long(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
