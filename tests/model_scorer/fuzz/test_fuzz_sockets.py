"""Anything at all over a real socket: never a 5xx, never silence, never a growing process.

Five properties and five seeds of plain noise; `pytest tests/model_scorer/fuzz --hypothesis-profile=long` (`make fuzz`)
tries each 20,000 times.
"""

from __future__ import annotations

import importlib.util
import json
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def load_noise():
    """The module beside this file, which is no package."""
    spec = importlib.util.spec_from_file_location("noise", Path(__file__).with_name("noise.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


noise = load_noise()

KEY = b"Authorization: Bearer test-key-1\r\n"
ROW = [5.1, 3.5, 1.4, 0.2]
# What every example must stay below, over all examples, beside what the first hundred already took.
MAX_GROWTH_BYTES = 24 * 1024 * 1024

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from([*noise.SCALARS, 10**18, 10**400])
)
KEYS = st.sampled_from(noise.KEYS)
KINDS = st.sampled_from(noise.KINDS)
SHAPES = st.lists(st.sampled_from([*noise.SIZES, 2**40]), max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
# Bodies that are nearly right come deeper into the server than bodies that are nothing.
NEARLY = st.one_of(
    st.builds(lambda v: {"data": [v]}, VALUES),
    st.builds(lambda k, v: {k: [ROW, v]}, KEYS, VALUES),
    st.builds(
        lambda rows: {"instances": rows}, st.lists(st.lists(SCALARS, max_size=5), max_size=4)
    ),
    st.builds(
        lambda shape, kind, data: {
            "inputs": [{"name": "X", "shape": shape, "datatype": kind, "data": data}]
        },
        SHAPES | VALUES,
        KINDS,
        st.lists(SCALARS, max_size=8) | VALUES,
    ),
    st.builds(
        lambda c, d: {"dataframe_split": {"columns": c, "data": d}},
        st.lists(st.text(max_size=3), max_size=4) | VALUES,
        st.lists(st.lists(SCALARS, max_size=4), max_size=3) | VALUES,
    ),
)


class Client:
    """One kept connection; a new one whenever the server closes it."""

    def __init__(self, scorer) -> None:
        self.scorer = scorer
        self.socket: socket.socket | None = None
        self.cases = 0
        self.first_bytes = 0

    def ask(self, data: bytes) -> int | None:
        """The status of the answer; None when the server closed the connection without one."""
        for _ in range(2):
            fresh = self.socket is None
            if self.socket is None:
                self.socket = self.scorer.connect()
            try:
                self.socket.sendall(data)
                status = self._read()
            except ConnectionError:
                status = None
            if status is not None or fresh:
                return status
        return None

    def _read(self) -> int | None:
        assert self.socket is not None
        self.socket.settimeout(20)
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = self.socket.recv(65536)
            if not chunk:
                self.drop()
                return None
            answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length and len(body) < int(length[1]):
            chunk = self.socket.recv(65536)
            if not chunk:
                break
            body += chunk
        if b"connection: close" in head.lower():
            self.drop()
        return int(head[9:12])

    def drop(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def count(self) -> None:
        """Watch the memory of the workers."""
        self.cases += 1
        if self.cases == 100:
            self.first_bytes = self.memory()
        elif self.cases % 2000 == 0:
            assert self.memory() - self.first_bytes < MAX_GROWTH_BYTES

    def memory(self) -> int:
        pids = re.findall(
            r"scorer_worker_pid\S* (\d+)", self.scorer.probe("/metrics").body.decode()
        )
        total = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
            except OSError:
                continue
            mine = f"PPid:\t{self.scorer.process.pid}\n" in text or status.parent.name in pids
            grown = re.search(r"RssAnon:\s+(\d+) kB", text)
            if (mine or self._is_ours(text)) and grown:
                total += int(grown[1]) * 1024
        return total

    def _is_ours(self, text: str) -> bool:
        parent = re.search(r"PPid:\t(\d+)", text)
        if not parent:
            return False
        try:
            above = Path(f"/proc/{parent[1]}/status").read_text()
        except OSError:
            return False
        return f"PPid:\t{self.scorer.process.pid}\n" in above


@pytest.fixture(scope="module")
def client(start_scorer, iris_folder):
    scorer = start_scorer(
        iris_folder,
        "sklearn",
        model_name="iris",
        workers="1",
        max_body_bytes="100000",
        access_log_sample="0",
    )
    client = Client(scorer)
    yield client
    client.drop()
    assert scorer.post("/score", {"data": [ROW]}).json == [0]
    assert scorer.metric("scorer_worker_restarts") == 0
    assert "Traceback" not in scorer.log()


def post(path: str, body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = b"".join(line + b"\r\n" for line in headers)
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode()
        + KEY
        + lines
        + b"Content-Length: %d\r\n\r\n" % size
        + body
    )


def to_json(value) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


JSON_TYPE = b"Content-Type: application/json"


@given(path=st.sampled_from(noise.PATHS), value=NEARLY | VALUES)
@settings(deadline=None)
def test_any_json_is_answered_without_a_5xx(client, path, value):
    client.count()
    status = client.ask(post(path, to_json(value), JSON_TYPE))
    assert status is not None
    assert status < 500


@given(
    path=st.sampled_from(noise.PATHS),
    text=st.binary(max_size=300)
    | st.builds(lambda n, c: c * n, st.integers(1, 30_000), st.sampled_from([b"[", b'{"a":', b"9"]))
    | st.sampled_from(
        [
            b'{"data": [[NaN, 1, 2, 3]]}',
            b'{"data": [[Infinity, 1, 2, 3]]}',
            b'{"data": [[1e999, 1, 2, 3]]}',
            b'{"data": [[1, 2, 3, 4]], "data": "twice"}',
            b'{"data": [["\\ud800", 1, 2, 3]]}',
            b'{"data": [[1,2,3,4]]}\x00',
            b"\xef\xbb\xbf{}",
        ]
    ),
    kind=st.sampled_from(
        [
            b"application/json",
            b"text/csv",
            b"application/octet-stream",
            b"image/png",
            b"application/json; charset=latin-1",
            b"multipart/form-data; boundary=x",
            b"\xff/\xfe",
            b"",
        ]
    ),
    encoding=st.sampled_from([b"", b"gzip", b"identity", b"deflate, br", b"\xff"]),
)
@settings(deadline=None)
def test_any_bytes_of_any_type_are_answered_without_a_5xx(client, path, text, kind, encoding):
    client.count()
    extra = [b"Content-Type: " + kind]
    if encoding:
        extra.append(b"Content-Encoding: " + encoding)
    status = client.ask(post(path, text, *extra))
    assert status is not None
    assert status < 500


@given(
    tail=st.binary(max_size=64),
    sizes=st.lists(st.integers(-2, 80) | st.just(10**12) | SCALARS, min_size=1, max_size=3),
    shape=SHAPES,
    kind=KINDS,
    told=st.none() | st.integers(-1, 400) | st.sampled_from([b"x", b"1e3", b"9" * 30, b"\xff"]),
    wanted=st.none() | VALUES,
)
@settings(deadline=None)
def test_any_binary_tensors_are_answered_without_a_5xx(
    client, tail, sizes, shape, kind, told, wanted
):
    client.count()
    inputs = [
        {
            "name": f"X{i}" if i else "X",
            "shape": shape,
            "datatype": kind,
            "parameters": {"binary_data_size": size},
        }
        for i, size in enumerate(sizes)
    ]
    message = {"inputs": inputs} | ({} if wanted is None else {"outputs": wanted})
    head = to_json(message)
    length = (
        str(len(head) if told is None else told).encode() if not isinstance(told, bytes) else told
    )
    status = client.ask(
        post(
            "/v2/models/iris/infer",
            head + tail,
            b"Content-Type: application/octet-stream",
            b"Inference-Header-Content-Length: " + length,
        )
    )
    assert status is not None
    assert status < 500


METHODS = st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE"])
TARGETS = st.sampled_from(
    [
        *noise.PATHS,
        "/",
        "/v2",
        "/v2/models/iris",
        "/v2/models/x/infer",
        "/v1/models",
        "/score?data=[[1,2,3,4]]",
        "/score?a=%ff&b=[",
        "/openapi.json",
        "/swagger.json?version=%00",
        "/ui",
        "/%2e%2e/etc/passwd",
        "//score",
        "*",
    ]
) | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(lambda t: "/" + t)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"x-request-id",
                b"x-request-timeout-seconds",
                b"x-ms-client-request-id",
                b"traceparent",
                b"x-forwarded-proto",
                b"x-forwarded-host",
                b"authorization",
                b"cookie",
                b"range",
                b"if-none-match",
                b"accept",
                b"x",
            ]
        ),
        st.binary(max_size=30).map(lambda v: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"?", v))
        | st.sampled_from([b"http", b"nan", b"-1", b"1e309", b"bytes=0-1", b"Bearer ", b"*"]),
    ),
    max_size=4,
)


@given(method=METHODS, target=TARGETS, headers=HEADERS, body=st.binary(max_size=20))
@settings(deadline=None)
def test_any_route_and_headers_are_answered_without_a_5xx(client, method, target, headers, body):
    client.count()
    client.drop()  # an answer to HEAD has a length and no body
    lines = b"".join(b"%b: %b\r\n" % item for item in headers)
    if method in ("GET", "HEAD", "OPTIONS", "TRACE"):
        body = b""
    size = b"Content-Length: %d\r\n" % len(body) if body else b""
    start = f"{method} {target} HTTP/1.1\r\nHost: x\r\n".encode("latin-1")
    status = client.ask(start + KEY + lines + size + b"Connection: close\r\n\r\n" + body)
    client.drop()
    # 501 is the protocols' own word for what a model cannot do; 504 what a client asks for that gives no time.
    assert status is not None
    assert status < 500 or status in (501, 504)


WHOLE = post("/score", b'{"data": [[5.1, 3.5, 1.4, 0.2]]}', JSON_TYPE)


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 3), st.binary(max_size=6)), max_size=4
    ),
    prefix=st.sampled_from([b"", b"\r\n", b"\x00", b"\x16\x03\x01", WHOLE]),
    cut=st.integers(0, len(WHOLE)),
)
@settings(deadline=None)
def test_any_damage_to_http_itself_is_answered_or_ends_the_connection(client, edits, prefix, cut):
    client.count()
    client.drop()
    data = WHOLE
    for place, removed, added in edits:
        data = data[:place] + added + data[place + removed :]
    with client.scorer.connect() as connection:
        connection.sendall(prefix + data + WHOLE[:cut])
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    for status in re.findall(rb"HTTP/1\.1 (\d\d\d)", answer):
        assert int(status) < 500 or int(status) in (501, 505)


@pytest.mark.parametrize("seed", range(5))
def test_seeded_noise_is_answered_without_a_5xx(client, seed):
    made = noise.Noise(seed)
    for number in range(settings().max_examples):
        client.count()
        request = made.request()
        status = client.ask(request)
        assert status is not None, (seed, number, request)
        assert status < 500, (seed, number, request)
