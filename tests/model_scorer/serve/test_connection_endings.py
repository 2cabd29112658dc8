"""When a server that ends closes a connection: never on a request that is on its way."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from types import SimpleNamespace

import pytest
import uvloop

from model_scorer.http1.connection import LAST_REQUEST_SECONDS, Connection

REQUEST = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
LATER = LAST_REQUEST_SECONDS + 1


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    loop = request.param()
    yield loop
    loop.close()


@pytest.fixture
def idle(loop):
    """A connection that waits for a request, and its client."""
    handler = SimpleNamespace(opened=lambda _: None, closed=lambda _: None)
    ours, client = socket.socketpair()
    ours.setblocking(False)
    protocol = Connection(handler, loop)
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(lambda: protocol, ours))
    with client:
        yield protocol, transport, client
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))


def test_a_new_client_gets_a_moment_to_ask(idle):
    connection, transport, _ = idle
    connection.close_if_idle(monotonic())
    assert not transport.is_closing()


def test_a_client_that_was_silent_for_longer_is_closed(idle):
    connection, transport, _ = idle
    connection.close_if_idle(monotonic() + LATER)
    assert transport.is_closing()


def test_a_request_that_the_kernel_holds_keeps_the_connection(idle):
    connection, transport, client = idle
    client.sendall(REQUEST)
    connection.close_if_idle(monotonic() + LATER)
    assert not transport.is_closing()
