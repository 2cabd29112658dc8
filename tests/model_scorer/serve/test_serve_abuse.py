"""Clients that are slow, gone, greedy or malicious, and models that block everything: the others do not notice."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import threading
import time

import pytest

from model_scorer.errors import RequestError
from model_scorer.http1.connection import Connection
from model_scorer.http1.exchange import Exchange, HttpLimits

KEY = b"Authorization: Bearer test-key-1\r\n"
ROW = {"data": [[5.1, 3.5, 1.4, 0.2]]}


def wire(body: bytes = b'{"data": [[5.1, 3.5, 1.4, 0.2]]}', extra: bytes = b"") -> bytes:
    return (
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + KEY
        + extra
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )


def read_answers(connection: socket.socket, count: int) -> list[bytes]:
    data = b""
    while data.count(b"HTTP/1.1 ") < count or not data.endswith(b"]"):
        chunk = connection.recv(1 << 20)
        assert chunk, data[-300:]
        data += chunk
    return data.split(b"HTTP/1.1 ")[1:]


@pytest.fixture(scope="module")
def iris(start_scorer, iris_folder):
    return start_scorer(iris_folder, "sklearn", workers="1")


# ------------------------------------------------------------------------------------- the protocol, with a made-up clock


class Silent:
    """A handler that notes and never answers."""

    closing = False
    limits = HttpLimits(max_body_bytes=1 << 20)

    def __init__(self):
        self.paths: dict = {}
        self.known_heads: dict = {}
        self.refused: list[int] = []
        self.handled: list[Exchange] = []

    def begin(self, *args):
        return Exchange(*args)

    def handle(self, exchange):
        self.handled.append(exchange)

    def learn_head(self, head, request):
        raise AssertionError("nothing here comes in one piece")

    def refuse(self, connection, error: RequestError, target):
        self.refused.append(error.status)

    def opened(self, connection): ...

    def closed(self, connection): ...

    def disconnected(self, exchange): ...


class Wire:
    """A transport that notes what is done to it."""

    def __init__(self):
        self.closed = False
        self.written = b""

    def get_extra_info(self, name):
        return ("127.0.0.1", 1)

    def write(self, data):
        self.written += data

    def can_write_eof(self):
        return False

    def close(self):
        self.closed = True

    abort = close

    def pause_reading(self): ...

    def resume_reading(self): ...


@pytest.fixture
async def connected():
    handler = Silent()
    connection = Connection(handler, asyncio.get_running_loop())
    transport = Wire()
    connection.connection_made(transport)
    return connection, handler, transport


@pytest.mark.parametrize(
    ("sent", "seconds", "status"),
    [
        (b"POST /score HTTP/1.1\r\nHost", 11, 408),
        (b"POST /score HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", 31, 408),
    ],
)
async def test_a_client_that_stops_sending_gets_408(connected, sent, seconds, status):
    connection, handler, _ = connected
    connection.data_received(sent)
    connection.check_patience(time.monotonic() + seconds - 2)
    assert handler.refused == []
    connection.check_patience(time.monotonic() + seconds)
    assert handler.refused == [status]


async def test_an_idle_connection_is_closed_in_the_end(connected):
    connection, _, transport = connected
    connection.check_patience(time.monotonic() + 70)
    assert not transport.closed
    connection.check_patience(time.monotonic() + 80)
    assert transport.closed


async def test_a_client_that_does_not_read_is_disconnected(connected):
    connection, _, transport = connected
    connection.pause_writing()
    connection.check_patience(time.monotonic() + 31)
    assert transport.closed


async def test_a_piece_of_the_next_request_counts_as_begun(connected):
    connection, handler, _ = connected
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /sec")
    (exchange,) = handler.handled
    connection.respond(exchange, 200, "text/plain", b"ok", "")
    assert not connection.idle
    connection.check_patience(time.monotonic() + 11)
    assert handler.refused == [408]


async def test_an_endless_head_behind_a_request_is_cut_off(connected):
    connection, handler, _ = connected
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nX: ")
    for _ in range(20):
        connection.data_received(b"x" * 1024)
    connection.respond(handler.handled[0], 200, "text/plain", b"ok", "")
    assert len(handler.handled) == 1
    assert b"Connection: close" in connection._transport.written


# ---------------------------------------------------------------------------------------------------------- real sockets


def test_a_pipelining_flood_is_answered_in_order_and_starves_nobody(iris):
    with iris.connect() as flood:
        rows = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
        bodies = [json.dumps({"data": [rows[i % 2]]}).encode() for i in range(2000)]
        sender = threading.Thread(target=flood.sendall, args=(b"".join(map(wire, bodies)),))
        sender.start()
        for _ in range(20):
            assert iris.post("/score", ROW).json == [0]
        answers = read_answers(flood, 2000)
        sender.join()
    assert [answer[-3:] for answer in answers] == [b"[0]", b"[2]"] * 1000


def test_a_client_that_resets_in_the_middle_leaves_nothing_behind(iris, until):
    for cut in (5, 60, len(wire()) - 1, len(wire())):
        connection = iris.connect()
        connection.sendall(wire()[:cut])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    until(lambda: iris.metric("scorer_connections_open") == 0)
    assert iris.metric("scorer_requests_in_flight") == 0


def test_a_repeated_head_is_answered_as_the_first_time(iris):
    with iris.connect() as connection:
        for row, answer in (([5.1, 3.5, 1.4, 0.2], b"[0]"), ([6.7, 3.0, 5.2, 2.3], b"[2]")) * 3:
            connection.sendall(wire(json.dumps({"data": [row]}).encode()))
            assert read_answers(connection, 1)[0].endswith(answer)
        # The same head with another body: too short, no JSON, then pieces that come one by one.
        connection.sendall(wire(b'{"data": [[5.1, 3.5, 1.4, xxx]]}'))
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")
        whole = wire()
        for place in range(0, len(whole), 50):
            connection.sendall(whole[place : place + 50])
        assert read_answers(connection, 1)[0].endswith(b"[0]")


def test_a_withdrawn_key_is_refused_on_a_connection_that_used_it(start_scorer, iris_folder, until):
    scorer = start_scorer(iris_folder, "sklearn", workers="1")
    with scorer.connect() as connection:
        for _ in range(3):
            connection.sendall(wire())
            assert read_answers(connection, 1)[0].startswith(b"200")
        (scorer.keys_dir / "primary").write_text("another-key")

        def refused():
            connection.sendall(wire())
            return connection.recv(65536).startswith(b"HTTP/1.1 401")

        until(refused, seconds=10)


def test_per_request_ids_are_never_mixed_up(iris):
    with iris.connect() as connection:
        for number in range(5):
            connection.sendall(wire(extra=b"x-request-id: id-%d\r\n" % number))
            assert b"x-request-id: id-%d\r\n" % number in read_answers(connection, 1)[0]


# ------------------------------------------------------------------------------------------------------------ slow models

SLOW = """
import json, os, time

def run(data):
    time.sleep(json.loads(data)["sleep"])
    return [os.getpid()]
"""


def test_a_busy_worker_passes_requests_to_an_idle_one(start_scorer, make_script):
    scorer = start_scorer(make_script(SLOW), "python")
    connections = [scorer.connect() for _ in range(4)]

    def ask(connection, seconds):
        connection.sendall(wire(b'{"sleep": %.3f}' % seconds))

    def pid_of(connection):
        return json.loads(read_answers(connection, 1)[0].rpartition(b"\r\n\r\n")[2])[0]

    owners = []
    for connection in connections:
        ask(connection, 0.02)
        owners.append(pid_of(connection))
    assert len(set(owners)) == 2
    # Two connections of the same worker, while the other has nothing to do.
    crowded = [c for c, owner in zip(connections, owners, strict=True) if owner == owners[0]]
    for _ in range(3):
        for connection in crowded:
            ask(connection, 0.4)
        assert len({pid_of(connection) for connection in crowded}) == 2
    for connection in connections:
        ask(connection, 0.0)
        assert pid_of(connection) in owners
        connection.close()


HOLDS_THE_GIL = """
import ctypes, json

def run(data):
    if json.loads(data).get("hang"):
        ctypes.PyDLL(None).sleep(100)  # as native code that never gives the lock back
    return [1]
"""


def test_a_run_that_hangs_with_the_interpreters_lock_is_killed_and_its_client_answered(
    start_scorer, make_script, until
):
    scorer = start_scorer(make_script(HOLDS_THE_GIL), "python", workers="2", timeout_seconds="0.3")
    with scorer.connect() as stuck:
        stuck.settimeout(60)
        stuck.sendall(wire(b'{"hang": true}'))
        for _ in range(20):
            # The other worker answers; the stuck one gets connections too and can only be waited for.
            assert scorer.probe("/livez").status == 200
        assert stuck.recv(65536).startswith(b"HTTP/1.1 500")
    until(lambda: scorer.metric("scorer_worker_restarts_total") == 1)
    until(lambda: scorer.post("/score", {}).status == 200)


# ------------------------------------------------------------------------------------------- Azure ML's schema decorators

DECORATED = """
from inference_schema.schema_decorators import input_schema

@input_schema("data")
@input_schema("factor")
def run(data, factor=2):
    if factor == 0:
        raise ValueError("mine")
    return [value * factor for value in data]
"""
# As much of the package inference-schema as a server sees of it: a registry, and wrappers that check before they call.
SCHEMA_UTIL = """
KNOWN = {}

def is_schema_decorated(run):
    return hasattr(run, "__wrapped__")

def get_input_schema(run):
    return {"type": "object", "properties": {"data": {}, "factor": {}}}
"""
SCHEMA_DECORATORS = """
import functools
from inference_schema import schema_util

def input_schema(name):
    def decorate(run):
        @functools.wraps(run)
        def checked(**arguments):
            if name == "data" and not isinstance(arguments["data"], list):
                raise ValueError("expected an array of items")
            return run(**arguments)
        return checked
    return decorate
"""


def test_a_decorated_run_gets_the_bodys_keys_as_arguments(start_scorer, make_script):
    folder = make_script(DECORATED)
    package = folder / "inference_schema"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "schema_util.py").write_text(SCHEMA_UTIL)
    (package / "schema_decorators.py").write_text(SCHEMA_DECORATORS)
    (folder / "swagger3.json").write_text('{"openapi": "3.0.0", "mine": true}')
    (folder / "swagger2.json").write_text("{broken")
    scorer = start_scorer(folder, "python", workers="1")
    assert scorer.post("/score", {"data": [1, 2]}).json == [2, 4]
    assert scorer.post("/score", {"data": [1, 2], "factor": 3, "more": 1}).json == [3, 6]
    for body, words in (
        ({"factor": 3}, "missing parameters: data"),
        ([1], "JSON object"),
        ({"data": 1}, "expected an array of items"),
    ):
        reply = scorer.post("/score", body)
        assert reply.status == 400
        assert words in reply.json["message"]
    failed = scorer.post("/score", {"data": [1], "factor": 0})
    assert failed.status == 500
    assert "mine" not in failed.json["message"]
    assert scorer.get("/swagger.json?version=3").json["mine"] is True
    assert scorer.get("/swagger.json").json["swagger"] == "2.0"
    assert os.path.exists(scorer.log_path)
