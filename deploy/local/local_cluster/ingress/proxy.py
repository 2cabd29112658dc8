"""One request through the proxy: route, pick a pod, forward, and try another pod if need be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time

from local_cluster.ingress.endpoints import Backend, Endpoint
from local_cluster.ingress.front import HOP_BY_HOP, Exchange
from local_cluster.ingress.routing import BackendRef, Route, RouteTable
from local_cluster.ingress.upstream import UpstreamConnection, UpstreamError

DEFAULT_TIMEOUT_SECONDS = 120.0
# Waits before another attempt when no untried pod is left: a pod that was killed is refused by
# its host at once, but leaves the EndpointSlice a moment later.
_RETRY_DELAYS_SECONDS = (0.0, 0.05, 0.2, 0.5, 1.0)

# RFC 9110 9.2.2
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})
# Set by the proxy itself, whatever the client claims.
_REPLACED = HOP_BY_HOP | {
    b"expect",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-real-ip",
    b"forwarded",
}


class Proxy:
    """Answers exchanges by the current routing table.

    Args:
        timeout_seconds: longest silence of a pod before 504, where a route says nothing else.
    """

    def __init__(self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self.table = RouteTable()
        self.backends: dict[BackendRef, Backend] = {}
        self.http_port = 80
        self.https_port = 443
        self._timeout = timeout_seconds

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        host, port_given = _host_of(exchange)
        if host is None:
            exchange.keep_alive = False
            exchange.answer(400, "The request needs exactly one Host header.")
            return
        target = _origin_form(exchange.target)
        path = target.partition(b"?")[0].decode("latin-1")
        site, route = self.table.find(host, path)
        if site.tls and exchange.front.scheme == "http":
            self._redirect(exchange, host, target, port_given)
            return
        if route is None:
            exchange.answer(404, f"No Ingress serves {host}{path}.")
            return
        backend = self._pick(route)
        if backend is None:
            name = f"{route.backend.namespace}/{route.backend.service}"
            exchange.answer(
                503,
                f"Service {name} has no pod that is ready.",
                headers=[(b"Retry-After", b"1")],
            )
            return
        await self._forward(
            exchange, route, backend, _build_head(exchange, target, self._port(exchange))
        )

    def _port(self, exchange: Exchange) -> int:
        return self.https_port if exchange.front.scheme == "https" else self.http_port

    def _redirect(self, exchange: Exchange, host: str, target: bytes, port_given: bool) -> None:
        # A client that came without a port reached us through a forwarder on the usual ports.
        port = f":{self.https_port}" if port_given and self.https_port != 443 else ""
        location = f"https://{host}{port}".encode() + target
        exchange.answer(
            308, "This host is served over HTTPS only.", headers=[(b"Location", location)]
        )

    def _pick(self, route: Route) -> Backend | None:
        main = self.backends.get(route.backend)
        if route.canary is not None and random.random() * 100 < route.canary_weight:
            canary = self.backends.get(route.canary)
            # A canary that is not there must not cost a request.
            if canary is not None and canary.has_ready:
                return canary
        if main is not None and main.has_ready:
            return main
        return None

    async def _forward(
        self, exchange: Exchange, route: Route, backend: Backend, head: bytes
    ) -> None:
        timeout = route.timeout_seconds or self._timeout
        repeatable = exchange.method in _IDEMPOTENT or route.retry_non_idempotent
        tried: list[Endpoint] = []
        problem = "no pod is ready"
        for delay in _RETRY_DELAYS_SECONDS:
            endpoint = backend.choose(tried)
            if endpoint is None or endpoint in tried:
                await asyncio.sleep(delay)
                endpoint = backend.choose(tried)
                if endpoint is None:
                    continue
            again = endpoint in tried
            tried.append(endpoint)
            endpoint.in_flight += 1
            connection: UpstreamConnection | None = None
            try:
                connection = await endpoint.acquire(fresh=again)
                await self._attempt(exchange, connection, head, timeout)
                return
            except UpstreamError as err:
                if exchange.response_started:
                    # Half a response cannot be taken back: the client must see that it broke.
                    exchange.front.abort()
                    return
                problem = str(err)
                if err.answered or not (repeatable and exchange.replayable):
                    break
            except _SilenceError:
                if exchange.response_started:
                    exchange.front.abort()
                    return
                exchange.answer(504, f"The pod did not answer within {timeout:g} s.")
                return
            except OSError as err:
                # Refused or never sent: any request may go to another pod.
                problem = f"cannot connect: {err}"
            finally:
                endpoint.in_flight -= 1
                exchange.upstream = None
                exchange.on_progress = None
                if connection is not None:
                    _settle(connection, endpoint)
        exchange.answer(
            502, f"The request could not be forwarded: {problem}.", headers=[(b"Retry-After", b"1")]
        )

    async def _attempt(
        self,
        exchange: Exchange,
        connection: UpstreamConnection,
        head: bytes,
        silence_seconds: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        exchange.rewind()
        exchange.upstream = connection
        done = connection.begin(exchange, head_only=exchange.method == b"HEAD")
        if exchange.front.write_paused:
            connection.pause_reading()
        try:
            async with asyncio.timeout(silence_seconds) as scope:
                last = time.monotonic()

                def progress() -> None:
                    nonlocal last
                    now = time.monotonic()
                    # Moving a timer for each piece would cost more than it is worth.
                    if now - last > 0.5:
                        last = now
                        scope.reschedule(loop.time() + silence_seconds)

                exchange.on_progress = progress
                await self._send(exchange, connection, head, done)
                await done
        except TimeoutError as err:
            raise _SilenceError from err

    async def _send(
        self,
        exchange: Exchange,
        connection: UpstreamConnection,
        head: bytes,
        done: asyncio.Future[None],
    ) -> None:
        chunked = head.endswith(b"Transfer-Encoding: chunked\r\n\r\n")
        data = _frame(exchange, chunked)
        connection.write(head + data if data else head)
        if exchange.body_complete and not exchange.has_unsent:
            return
        done.add_done_callback(lambda _: exchange.wake())
        while not done.done():
            exchange.front.resume_reading()
            await connection.drain()
            if not exchange.has_unsent and not exchange.body_complete:
                if done.done():
                    break
                await exchange.wait_body()
                continue
            connection.write(_frame(exchange, chunked))
            if exchange.body_complete and not exchange.has_unsent:
                return
        # Answered before all was sent: the rest would be taken for the next request.
        connection.reusable = False


class _SilenceError(Exception):
    """The pod was silent for too long."""


def _settle(connection: UpstreamConnection, endpoint: Endpoint) -> None:
    done = connection.done
    if done is None:
        connection.close()
        return
    if not done.done():
        done.cancel()
        connection.close()
        return
    with contextlib.suppress(asyncio.CancelledError):
        if done.exception() is None:
            connection.resume_reading()
            endpoint.release(connection)
            return
    connection.close()


def _frame(exchange: Exchange, chunked: bool) -> bytes:
    data = exchange.take_body()
    if not chunked:
        return data
    framed = b"%x\r\n%s\r\n" % (len(data), data) if data else b""
    return framed + b"0\r\n\r\n" if exchange.body_complete else framed


def _host_of(exchange: Exchange) -> tuple[str | None, bool]:
    """The host name without its port, and whether a port was given."""
    values = [value for name, value in exchange.headers if name.lower() == b"host"]
    if len(values) > 1 or (not values and not exchange.http_1_0):
        return None, False
    text = values[0].decode("latin-1").lower() if values else ""
    if exchange.target[:1] != b"/" and b"://" in exchange.target:
        # RFC 9112 3.2.2: the authority of an absolute target counts.
        text = exchange.target.split(b"://", 1)[1].partition(b"/")[0].decode("latin-1").lower()
    if text.startswith("["):
        name, _, rest = text.partition("]")
        return name + "]", bool(rest)
    name, colon, _ = text.partition(":")
    return name.rstrip("."), bool(colon)


def _origin_form(target: bytes) -> bytes:
    if target[:1] == b"/" or b"://" not in target:
        return target
    _, slash, rest = target.split(b"://", 1)[1].partition(b"/")
    return b"/" + rest if slash else b"/"


def _build_head(exchange: Exchange, target: bytes, port: int) -> bytes:
    front = exchange.front
    host = b""
    request_id = b""
    named: set[bytes] = set()
    chunked = False
    for name, value in exchange.headers:
        lower = name.lower()
        if lower == b"connection":
            named |= {item.strip().lower() for item in value.split(b",")}
        elif lower == b"transfer-encoding":
            chunked = True
        elif lower == b"host":
            host = value
        elif lower == b"x-request-id":
            request_id = value
    dropped = _REPLACED | named if named else _REPLACED
    lines = [b"%s %s HTTP/1.1\r\n" % (exchange.method, target)]
    lines += [
        b"%s: %s\r\n" % (name, value)
        for name, value in exchange.headers
        if name.lower() not in dropped
    ]
    peer = front.peer.encode()
    lines.append(
        b"X-Forwarded-For: %s\r\nX-Real-IP: %s\r\nX-Forwarded-Proto: %s\r\n"
        b"X-Forwarded-Host: %s\r\nX-Forwarded-Port: %d\r\n"
        % (peer, peer, front.scheme.encode(), host, port)
    )
    if not request_id:
        lines.append(b"X-Request-ID: %s\r\n" % os.urandom(16).hex().encode())
    lines.append(b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
    return b"".join(lines)
