"""What a connection must survive: raw bytes over real sockets."""

from __future__ import annotations

import json
import socket

import pytest

BODY = b'{"data": 1}'


@pytest.fixture(scope="module")
def server(start_scorer, make_script):
    script = "import json\ndef run(data): return json.loads(data).get('data')\n"
    return start_scorer(make_script(script), "python", max_body_bytes=5000, auth_mode="None")


def head(*lines, method="POST", path="/score", length=11):
    fixed = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json"]
    if length is not None:
        fixed.append(f"Content-Length: {length}")
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def read_responses(connection, count=1):
    """Status, headers and body of each response."""
    reader = connection.makefile("rb")
    out = []
    for _ in range(count):
        status_line = reader.readline()
        if not status_line:
            break
        headers = {}
        while (line := reader.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        body = reader.read(int(headers.get("content-length", 0)))
        out.append((int(status_line.split()[1]), headers, body))
    return out


def ask(server, data, count=1):
    with server.connect() as connection:
        connection.sendall(data)
        return read_responses(connection, count)


def closed(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_pipelined_requests_are_answered_in_order(server):
    bodies = [json.dumps({"data": n}).encode() for n in range(50)]
    data = b"".join(head(length=len(b)) + b for b in bodies)
    answers = ask(server, data, 50)
    assert [json.loads(body) for _, _, body in answers] == list(range(50))


def test_pipelined_errors_keep_their_place(server):
    data = (head(length=1) + b"{") * 300 + head() + BODY
    answers = ask(server, data, 301)
    assert [status for status, _, _ in answers] == [400] * 300 + [200]


def test_a_request_may_come_byte_by_byte(server):
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head() + BODY:
            connection.send(bytes([byte]))
        assert read_responses(connection)[0][0] == 200


def test_chunked_bodies_are_read(server):
    data = head("Transfer-Encoding: chunked", length=None)
    data += b"5\r\n" + BODY[:5] + b"\r\n" + b"%x\r\n" % (len(BODY) - 5) + BODY[5:]
    data += b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
    status, _, body = ask(server, data)[0]
    assert (status, body) == (200, b"1")


def test_chunked_bodies_are_bounded(server):
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    answers = ask(server, head("Transfer-Encoding: chunked", length=None) + chunk * 6)
    assert answers[0][0] == 413


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server):
    status, headers, body = ask(server, head(length=5001))[0]
    assert status == 413
    assert headers["connection"] == "close"
    assert "5000" in json.loads(body)["message"]


def test_expect_100_is_answered_before_the_body(server):
    with server.connect() as connection:
        connection.sendall(head("Expect: 100-continue"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert read_responses(connection)[0][0] == 200


def test_expect_100_with_too_large_a_body_is_413_at_once(server):
    assert ask(server, head("Expect: 100-continue", length=9999))[0][0] == 413


def test_connection_close_is_obeyed(server):
    with server.connect() as connection:
        connection.sendall(head("Connection: close") + BODY)
        assert read_responses(connection)[0][1]["connection"] == "close"
        assert closed(connection)


def test_keep_alive_serves_many(server):
    with server.connect() as connection:
        for _ in range(20):
            connection.sendall(head() + BODY)
            assert read_responses(connection)[0][0] == 200


def test_http_1_0_is_closed_unless_asked_to_stay(server):
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read_responses(connection)[0][2] == b"Healthy"
        assert closed(connection)


def test_a_half_closed_client_gets_its_answer(server):
    with server.connect() as connection:
        connection.sendall((head() + BODY) * 3)
        connection.shutdown(socket.SHUT_WR)
        assert [s for s, _, _ in read_responses(connection, 3)] == [200] * 3
        assert closed(connection)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /score HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /score HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /score HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: \x00\r\n\r\n",
    ],
)
def test_malformed_http_is_a_400_and_a_close(server, data):
    with server.connect() as connection:
        connection.sendall(data)
        answers = read_responses(connection)
        assert answers[0][0] == 400
        assert closed(connection)
    assert ask(server, head() + BODY)[0][0] == 200


def test_huge_headers_get_431(server):
    assert ask(server, head("X-Big: " + "a" * 20_000) + BODY)[0][0] == 431
    many = [f"X-{n}: 1" for n in range(200)]
    assert ask(server, head(*many) + BODY)[0][0] == 431


def test_an_endless_header_is_cut_off(server):
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):  # noqa: PT012 - the reset comes with any of the sends
            for _ in range(1000):
                connection.sendall(b"a" * 10_000)


def test_a_long_target_gets_414(server):
    assert ask(server, head(method="GET", path="/" + "a" * 9000, length=None))[0][0] == 414


def test_upgrades_are_ignored(server):
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    status, headers, _ = ask(server, head(*lines, method="GET", path="/", length=None))[0]
    assert status == 200
    assert headers["connection"] == "close"


def test_head_has_no_body(server):
    data = head(method="HEAD", path="/", length=None) + head() + BODY
    with server.connect() as connection:
        connection.sendall(data)
        reader = connection.makefile("rb")
        assert b"200" in reader.readline()
        while reader.readline().strip():
            pass
        assert reader.readline().startswith(b"HTTP/1.1 200")


def test_slow_clients_do_not_delay_others(server):
    slow = [server.connect() for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(head()[:-10])
        assert ask(server, head() + BODY)[0][0] == 200
    finally:
        for connection in slow:
            connection.close()


def test_connections_are_spread_over_the_workers(server, until):
    connections = [server.connect() for _ in range(8)]
    try:
        until(lambda: server.metric("scorer_connections_open") >= 8)
        for connection in connections:
            connection.sendall(head() + BODY)
            assert read_responses(connection)[0][0] == 200
    finally:
        for connection in connections:
            connection.close()
    until(lambda: server.metric("scorer_connections_open") == 0)
