"""Tornado on the same port: its Application answers what the fast path does not, behind Tornado's own interfaces.

An `Exchange` becomes Tornado's `HTTPConnection`; the application's `HTTPMessageDelegate` gets the request that the C
parser has read. https://www.tornadoweb.org/en/stable/httputil.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from tornado import httputil
from tornado.concurrent import Future

from model_scorer.errors import BadRequest
from model_scorer.http1.exchange import Exchange
from model_scorer.http1.responses import SERVER, reason_phrase

if TYPE_CHECKING:
    from tornado.web import Application


class _Context:
    """What Tornado's request asks of the connection."""

    def __init__(self, remote_ip: str) -> None:
        self.remote_ip = remote_ip
        self.protocol = "http"


class ExchangeConnection(httputil.HTTPConnection):
    """Tornado's view of one exchange.

    Args:
        exchange: answered through this object.
        closing: whether the connection must end with this response.
        on_answer: told the status before the first byte leaves.
        on_finish: told the status and the body's size once the response is complete.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        closing: bool,
        extra_headers: tuple[tuple[str, str], ...],
        on_answer: Callable[[int], None],
        on_finish: Callable[[int, int], None],
    ) -> None:
        self._exchange = exchange
        self._keep_alive = exchange.keep_alive and not closing
        self._extra_headers = extra_headers
        self._on_answer = on_answer
        self._on_finish = on_finish
        self._status = 0
        self._sent = 0
        self._chunked = False
        self._close_callback: Callable[[], None] | None = None
        self.context = _Context(exchange.connection.remote)
        self.no_keep_alive = not self._keep_alive
        self.stream = None

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Tornado wants to know when the client goes away."""
        self._close_callback = callback

    def lost(self) -> None:
        """The client went away."""
        callback, self._close_callback = self._close_callback, None
        if callback is not None:
            callback()

    def write_headers(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Future[None]:
        """Write the head, and a first piece of the body."""
        assert isinstance(start_line, httputil.ResponseStartLine)
        self._status = start_line.code
        headers["Server"] = SERVER
        for name, value in self._extra_headers:
            headers.setdefault(name, value)
        no_body = start_line.code in (204, 304) or self._exchange.request.method == "HEAD"
        if not no_body and "Content-Length" not in headers:
            if self._exchange.http_1_0:
                self._keep_alive = False
            else:
                self._chunked = True
                headers["Transfer-Encoding"] = "chunked"
        headers["Connection"] = "keep-alive" if self._keep_alive else "close"
        lines = [f"HTTP/1.1 {start_line.code} {reason_phrase(start_line.code)}"]
        lines += [f"{name}: {value}" for name, value in headers.get_all()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        self._on_answer(self._status)
        self._exchange.connection.write_raw(
            self._exchange, head + (self._frame(chunk) if chunk and not no_body else b"")
        )
        return _done()

    def write(self, chunk: bytes) -> Future[None]:
        """Write a piece of the body."""
        self._exchange.connection.write_raw(self._exchange, self._frame(chunk))
        return _done()

    def finish(self) -> None:
        """The response is complete."""
        if self._chunked:
            self._exchange.connection.write_raw(self._exchange, b"0\r\n\r\n")
        self._on_finish(self._status, self._sent)
        self._exchange.connection.finish(self._exchange, keep_alive=self._keep_alive)

    def _frame(self, chunk: bytes) -> bytes:
        self._sent += len(chunk)
        return b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked and chunk else chunk


def _done() -> Future[None]:
    future: Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def hand_over(application: Application, exchange: Exchange, connection: ExchangeConnection) -> None:
    """Let a Tornado application answer an exchange.

    Raises:
        BadRequest: Tornado finds the head malformed (HTTP/1.1 without a Host, say).
    """
    request = exchange.request
    target = f"{request.path}?{request.query}" if request.query else request.path
    headers = httputil.HTTPHeaders()
    version = "HTTP/1.0" if exchange.http_1_0 else "HTTP/1.1"
    start_line = httputil.RequestStartLine(request.method, target, version)
    delegate = application.start_request(connection, connection)
    try:
        for name, value in request.headers.items():
            headers.add(name.decode("latin-1").title(), value.decode("latin-1").strip(" \t"))
        delegate.headers_received(start_line, headers)
        if request.body:
            delegate.data_received(request.body)
        # Tornado reads forms here, whether or not anybody asks for one.
        delegate.finish()
    except httputil.HTTPInputError as err:
        raise BadRequest(f"malformed HTTP request: {err}") from err
