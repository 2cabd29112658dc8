"""Bytes → complete requests, with limits on everything a client controls; what becomes of them is the connection's."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from enum import Enum, auto
from time import monotonic

import httptools

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.errors import (
    BadRequest,
    HeadersTooLarge,
    PayloadTooLarge,
    RequestError,
    UriTooLong,
)
from model_scorer.http1.body_reader import LARGE_BODY_BYTES, BodyReader
from model_scorer.http1.exchange import READING, Exchange, Handler, HttpLimits, KnownHead
from model_scorer.http1.responses import CONTINUE

# What is longer carries tokens or cookies that change.
MAX_LEARNED_HEAD_BYTES = 2048
# A client that sends a body without waiting for 100 sees the 413 only if the body is read.
MAX_DISCARDED_BYTES = 16 * 1024 * 1024


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()


class RequestReader(asyncio.Protocol):
    """The half of a connection that reads.

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
        "_length",
        "_loop",
        "_parser",
        "_paused",
        "_pending",
        "_reader",
        "_refused",
        "_since",
        "_started",
        "_target",
        "_transport",
        "_write_paused",
        "phase",
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
        # Of a large body that is announced, else 0; and who reads the rest of it, while somebody does.
        self._length = 0
        self._reader: BodyReader | None = None
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

    @abstractmethod
    def _take(self, request: HttpRequest, keep_alive: bool, http_1_0: bool) -> Exchange:
        """A request is complete: have it answered when its turn comes."""

    @abstractmethod
    def _take_known(self, head: KnownHead, body: bytes | memoryview) -> None:
        """A request is complete whose head is known; its turn is now."""

    def mark(self, value: int) -> None:
        """Told what is due to the client, whenever that changes: see `exchange.READING`."""

    @abstractmethod
    def _refuse(self, error: RequestError) -> None:
        """Answer with an error, and read no further request."""

    # -------------------------------------------------------------------------------------------------------- bytes

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
            if known is not None:
                rest = known.length - len(data) + end
                if not rest:
                    self.phase = Phase.ANSWER
                    self._take_known(known, data[end:])
                    return
                if rest > 0 and known.length >= LARGE_BODY_BYTES:
                    self._read_known(known, memoryview(data)[end:])
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
            end = data.find(b"\r\n\r\n") + 4
            self._offer_head(data[:end], len(data) - end)
        self._last = None
        if self._exchange is None and not self._between:
            self.mark(READING)
        if self._length and not self._between:
            self._step_aside(
                data[: data.find(b"\r\n\r\n") + 4] if self._begun == 1 and alone else b""
            )

    def _step_aside(self, head: bytes) -> None:
        """Let the rest of a large body be read into one place, unless something else is going on.

        Args:
            head: of this request, if it came in one piece; else empty.
        """
        transport = self._transport
        length, self._length = self._length, 0
        begin = self._body if self._chunks is None else self._chunks
        if (
            transport is None
            or transport.is_closing()
            or self._refused
            or self._exchange is not None
            or self._pending
            or self._paused
            or len(begin) >= length
        ):
            return
        parser = self._parser
        method, keep_alive = parser.get_method(), parser.should_keep_alive()
        http_1_0 = parser.get_http_version() == "1.0"

        def complete(body: memoryview) -> None:
            self._step_back()
            # The old one still waits for the body.
            self._parser = httptools.HttpRequestParser(self)
            self._complete(method, body, keep_alive=keep_alive, http_1_0=http_1_0)
            self._offer_head(head, length)
            self._last = None

        self._reader = BodyReader(self, length, begin, complete)
        self._body, self._chunks = b"", None
        self._change_protocol(transport, self._reader)

    def _step_back(self) -> None:
        self._reader = None
        if self._transport is not None and not self._transport.is_closing():
            self._change_protocol(self._transport, self)

    def _change_protocol(
        self, transport: asyncio.Transport, protocol: asyncio.BaseProtocol
    ) -> None:
        # A transport decides when it begins to read how it will read.
        transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()

    def _read_known(self, known: KnownHead, begin: memoryview) -> None:
        """Let a large body whose head is known be read into one place; the parser never sees it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._between, self._started = False, True
        self._headers, self._target = known.headers, known.path.encode("latin-1")
        self._head_bytes = 0
        self.phase, self._since = Phase.BODY, monotonic()
        self.mark(READING)

        def complete(body: memoryview) -> None:
            self._step_back()
            self._between = True
            self.phase = Phase.ANSWER
            self._take_known(known, body)

        self._reader = BodyReader(self, known.length, begin, complete)
        self._change_protocol(transport, self._reader)

    def _offer_head(self, head: bytes, length: int) -> None:
        """Let the handler learn the head of a request, if it came in one piece."""
        headers = self._headers
        if (
            4 <= len(head) <= MAX_LEARNED_HEAD_BYTES
            and headers.get(b"content-length") == b"%d" % length
            and b"expect" not in headers
            and self._last is not None
            and self._last.keep_alive
            and not self._last.http_1_0
        ):
            self._handler.learn_head(head, self._last.request)

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
        self._length = 0
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
        if length is not None and b"transfer-encoding" not in headers:
            size = int(length)
            self._length = size if size >= LARGE_BODY_BYTES else 0
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
        if self._reader is not None:
            return self._reader.received
        return len(self._body) if self._chunks is None else len(self._chunks)

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._refused:
            return
        parser = self._parser
        self._complete(
            parser.get_method(),
            self._body if self._chunks is None else bytes(self._chunks),
            keep_alive=parser.should_keep_alive(),
            http_1_0=parser.get_http_version() == "1.0",
        )

    def _complete(
        self, method: bytes, body: bytes | memoryview, *, keep_alive: bool, http_1_0: bool
    ) -> None:
        target = self._target
        path = self._handler.paths.get(target)
        query = ""
        if path is None:
            raw_path, _, raw_query = target.partition(b"?")
            path, query = raw_path.decode("latin-1"), raw_query.decode("latin-1")
        request = HttpRequest(
            "POST" if method == b"POST" else method.decode("ascii"),
            path,
            query,
            self._headers,
            body,
        )
        self._body, self._chunks = b"", None
        self._length = 0
        self._between = True
        self._last = self._take(request, keep_alive and b"upgrade" not in self._headers, http_1_0)


def _too_large(limits: HttpLimits) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limits.max_body_bytes} bytes")
