"""One keep-alive connection to a pod, one request at a time."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

Headers = list[tuple[bytes, bytes]]


class UpstreamError(Exception):
    """A pod did not answer properly.

    Args:
        message: what happened.
        answered: whether any byte of an answer had come.
    """

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


class ResponseSink(Protocol):
    """Takes a response as it arrives."""

    def response_head(self, status: int, headers: Headers, length_known: bool) -> None:
        """The status line and the headers; without a known length the body may be of any."""

    def response_body(self, data: bytes) -> None:
        """Part of the body, transfer coding removed."""

    def flush(self) -> None:
        """All that came in one read has been handed over."""

    def response_end(self) -> None:
        """The response is complete."""


class UpstreamConnection(asyncio.Protocol):
    """The client side of HTTP/1.1 over an asyncio transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.reusable = True
        self.uses = 0
        self.last_used = 0.0
        self.done: asyncio.Future[None] | None = None
        self._sink: ResponseSink | None = None
        self._head_only = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._answered = False
        self._in_body = False
        self._until_close = False
        self._interim = False
        self._writable: asyncio.Future[None] | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # A cast, because uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def begin(self, sink: ResponseSink, *, head_only: bool) -> asyncio.Future[None]:
        """Get ready for one response.

        Returns:
            A future that ends with the response, or with an UpstreamError.
        """
        self._sink = sink
        self._head_only = head_only
        self._answered = self._in_body = self._until_close = False
        self.uses += 1
        self.done = asyncio.get_running_loop().create_future()
        return self.done

    def write(self, data: bytes) -> None:
        """Send part of the request; ignored when the connection is gone already."""
        if self.transport is not None and not self.closed:
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the pod takes more, or the exchange is over."""
        if self._paused and not self.closed:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport's buffer has room again."""
        self._paused = False
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def pause_reading(self) -> None:
        """Let the pod wait, because the client is slow."""
        if self.transport is not None and not self.closed:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more from the pod."""
        if self.transport is not None and not self.closed:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._sink is None:
            # Nobody asked: an answer to nothing cannot be trusted.
            self.close()
            return
        self._answered = True
        sink = self._sink
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as err:
            self._end(UpstreamError(f"not an HTTP response: {err}", answered=True))
            self.close()
        sink.flush()

    def eof_received(self) -> bool:
        """The pod is done; so is the connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Settle what was under way."""
        self.closed = True
        self._wake_writer()
        sink = self._sink
        if sink is None:
            return
        if self._in_body and self._until_close and exc is None:
            sink.response_end()
            sink.flush()
            self._end(None)
            return
        message = str(exc) if exc else "the connection was closed before the response ended"
        self._end(UpstreamError(message, answered=self._answered))

    def _end(self, error: UpstreamError | None) -> None:
        self._sink = None
        self._wake_writer()
        done = self.done
        if done is not None and not done.done():
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def close(self) -> None:
        """Close now; a response under way is lost."""
        self.reusable = False
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Parser: a response starts."""
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser: one header."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Parser: the head is there."""
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        if self._sink is None:
            return
        framed = any(
            name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._headers
        )
        length_known = any(name.lower() == b"content-length" for name, _ in self._headers)
        bodiless = self._head_only or status in (204, 304)
        self._until_close = not framed and not bodiless
        self.reusable = bool(self._parser.should_keep_alive()) and not self._until_close
        self._in_body = True
        self._sink.response_head(status, self._headers, length_known or bodiless)
        if self._head_only:
            # The parser would wait for the body that the length announces and that never comes.
            self.reusable = False
            self._finish()

    def on_body(self, data: bytes) -> None:
        """Parser: part of the body."""
        if self._sink is not None:
            self._sink.response_body(data)

    def on_message_complete(self) -> None:
        """Parser: the response is complete."""
        if self._interim:
            self._interim = False
            return
        self._finish()

    def _finish(self) -> None:
        if self._sink is not None:
            self._sink.response_end()
            self._end(None)
