"""Bodies that are read straight into their place: however they are cut, whatever comes behind, whoever goes away."""

from __future__ import annotations

import asyncio
import json
import struct

import numpy as np
import pytest

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.http1.body_reader import LARGE_BODY_BYTES
from model_scorer.http1.connection import Connection
from model_scorer.http1.exchange import Exchange, HttpLimits, KnownHead

LIMIT = 3 * LARGE_BODY_BYTES
BODY = np.random.default_rng(0).bytes(LARGE_BODY_BYTES + 37)


def head_of(length, *lines, path="/score"):
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", "")
    return "\r\n".join(lines).encode()


class Answering:
    """A handler that notes what it is asked and answers with the body's length."""

    def __init__(self):
        self.closing = False
        self.limits = HttpLimits(max_body_bytes=LIMIT)
        self.paths = {}
        self.known_heads = {}
        self.bodies = []
        self.known = 0
        self.refusals = []

    def begin(self, connection, request, keep_alive, http_1_0, received_at):
        return Exchange(connection, request, keep_alive, http_1_0, received_at)

    def handle(self, exchange):
        self.bodies.append((exchange.request.path, exchange.request.body))
        text = str(len(exchange.request.body)).encode()
        exchange.connection.respond(exchange, 200, "text/plain", text, "")

    def learn_head(self, head, request):
        length = int(request.headers[b"content-length"])
        self.known_heads[head] = KnownHead(length, request.path, request.headers, None)

    def handle_known(self, connection, head, body):
        self.known += 1
        request = HttpRequest("POST", head.path, "", head.headers, body)
        exchange = Exchange(connection, request, True, False, 0.0)
        connection.adopt(exchange)
        self.handle(exchange)

    def refuse(self, connection, error, target):
        self.refusals.append(error.status)
        connection.write_refusal(error.status, "text/plain", b"", "")

    def disconnected(self, exchange):
        pass

    def opened(self, connection):
        pass

    def closed(self, connection):
        pass


class Wire:
    """A transport that hands out bytes as a loop would: to whoever is the protocol, no more than it has room for."""

    def __init__(self, handler):
        self.sent = []
        self.closed = False
        self.buffered = False
        self.protocol = Connection(handler, asyncio.get_running_loop())
        self.protocol.connection_made(self)

    def get_extra_info(self, name):
        return ("127.0.0.1", 1)

    def write(self, data):
        self.sent.append(bytes(data))

    def set_protocol(self, protocol):
        self.protocol = protocol
        self.buffered |= isinstance(protocol, asyncio.BufferedProtocol)

    def pause_reading(self):
        pass

    resume_reading = pause_reading
    write_eof = pause_reading

    def can_write_eof(self):
        return True

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    abort = close

    def bring(self, data):
        while data:
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                room = self.protocol.get_buffer(len(data))
                size = min(len(room), len(data))
                room[:size] = data[:size]
                self.protocol.buffer_updated(size)
            else:
                size = len(data)
                self.protocol.data_received(data)
            data = data[size:]


HEAD = head_of(len(BODY))
MESSAGE = HEAD + BODY
CUTS = sorted(
    {
        *range(1, len(HEAD) + 4),
        *range(len(MESSAGE) - 4, len(MESSAGE)),
        len(HEAD) + LARGE_BODY_BYTES // 2,
        len(HEAD) + LARGE_BODY_BYTES,
    }
)


async def test_a_large_body_may_be_cut_anywhere():
    for cut in CUTS:
        handler = Answering()
        wire = Wire(handler)
        wire.bring(MESSAGE[:cut])
        assert not handler.bodies
        wire.bring(MESSAGE[cut:])
        assert handler.bodies == [("/score", BODY)], cut
        assert wire.buffered == (cut >= len(HEAD)), cut


async def test_a_large_body_may_come_in_many_pieces():
    handler = Answering()
    wire = Wire(handler)
    for start in range(0, len(MESSAGE), 997):
        wire.bring(MESSAGE[start : start + 997])
    assert handler.bodies == [("/score", BODY)]


@pytest.mark.parametrize("cut", [len(HEAD), len(HEAD) + 5, len(MESSAGE) - 1])
async def test_what_follows_a_large_body_is_the_next_request(cut):
    handler = Answering()
    wire = Wire(handler)
    data = MESSAGE + head_of(2, path="/small") + b"ab" + MESSAGE
    wire.bring(data[:cut])
    wire.bring(data[cut : len(MESSAGE) + 20])
    wire.bring(data[len(MESSAGE) + 20 :])
    for _ in range(5):
        await asyncio.sleep(0)
    assert handler.bodies == [("/score", BODY), ("/small", b"ab"), ("/score", BODY)]
    assert b"".join(wire.sent).count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize("cut", [len(HEAD), len(HEAD) + 5, len(MESSAGE) - 1, len(MESSAGE)])
async def test_a_head_that_comes_again_is_known_and_its_body_may_be_cut_anywhere(cut):
    handler = Answering()
    wire = Wire(handler)
    wire.bring(MESSAGE[: len(HEAD) + 10])
    wire.bring(MESSAGE[len(HEAD) + 10 :])
    assert (handler.known, list(handler.known_heads)) == (0, [HEAD])
    for number in range(3):
        other = MESSAGE[:-1] + bytes([number])
        wire.bring(other[:cut])
        assert len(handler.bodies) == number + 1 + (cut == len(MESSAGE))
        if cut < len(MESSAGE):
            wire.bring(other[cut:])
        assert handler.known == number + 1
        assert handler.bodies[-1] == ("/score", other[len(HEAD) :])
    wire.bring(MESSAGE + MESSAGE[: len(HEAD) + 1])
    wire.bring(MESSAGE[len(HEAD) + 1 :])
    assert handler.bodies[-2:] == [("/score", BODY)] * 2
    assert b"".join(wire.sent).count(b"HTTP/1.1 200") == 6


async def test_a_known_head_without_its_body_is_refused_after_a_while():
    handler = Answering()
    wire = Wire(handler)
    wire.bring(HEAD)
    wire.bring(BODY)
    wire.bring(HEAD + BODY[:3])
    wire.protocol._connection.check_patience(1e12)
    assert handler.refusals == [408]
    assert len(handler.bodies) == 1


async def test_a_head_that_came_in_pieces_is_not_learned():
    handler = Answering()
    wire = Wire(handler)
    wire.bring(HEAD[:20])
    wire.bring(HEAD[20:])
    wire.bring(BODY)
    assert handler.bodies == [("/score", BODY)]
    assert handler.known_heads == {}


async def test_a_client_that_goes_away_in_its_body_is_forgotten():
    handler = Answering()
    wire = Wire(handler)
    wire.bring(MESSAGE[:-10])
    assert wire.protocol.eof_received() is False
    wire.protocol.connection_lost(None)
    assert handler.bodies == []


async def test_a_client_that_stops_in_its_body_is_told_and_what_it_still_sends_is_dropped():
    handler = Answering()
    wire = Wire(handler)
    connection = wire.protocol
    wire.bring(MESSAGE[: len(HEAD) + 100])
    assert wire.protocol is not connection
    connection.check_patience(1e12)
    assert handler.refusals == [408]
    assert wire.protocol is connection
    wire.bring(BODY)
    assert handler.bodies == []


async def test_an_announced_body_takes_memory_only_as_it_comes():
    handler = Answering()
    wire = Wire(handler)
    wire.bring(head_of(LIMIT))
    assert wire.protocol.received == 0
    assert len(wire.protocol.get_buffer(1)) == LIMIT


async def test_a_body_beyond_the_limit_is_never_begun():
    handler = Answering()
    wire = Wire(handler)
    wire.bring(head_of(LIMIT + 1))
    assert handler.refusals == [413]
    assert not wire.buffered


async def test_a_close_is_obeyed_after_a_large_body():
    handler = Answering()
    wire = Wire(handler)
    data = head_of(len(BODY), "Connection: close") + BODY
    wire.bring(data[:200])
    wire.bring(data[200:])
    assert b"Connection: close" in b"".join(wire.sent)
    assert wire.closed


# ------------------------------------------------------------------------------------------------------- real sockets


@pytest.fixture(scope="module")
def iris(start_scorer, iris_folder):
    return start_scorer(iris_folder, "sklearn", model_name="iris", max_body_bytes=400_000)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(1).uniform(0.1, 7.0, (4000, 4))


@pytest.fixture(scope="module")
def expected(iris_folder, rows):
    import joblib

    return joblib.load(iris_folder / "model.joblib").predict(rows).tolist()


def ask_binary(iris, rows, **more):
    tensor = {
        "name": "X",
        "shape": rows.shape,
        "datatype": {"d": "FP64", "f": "FP32"}[rows.dtype.char],
        "parameters": {"binary_data_size": rows.nbytes},
    }
    head = json.dumps({"inputs": [tensor], **more}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return iris.post("/v2/models/iris/infer", head + rows.tobytes(), headers=headers)


@pytest.mark.parametrize("count", [1, 8, 9, 500, 4000])
def test_all_dialects_agree_however_many_rows(iris, rows, expected, count):
    some, answer = rows[:count], expected[:count]
    plain = some.tolist()
    assert iris.post("/score", {"data": plain}).json == answer
    assert iris.post("/score", {"instances": plain}).json == {"predictions": answer}
    assert iris.post("/score", {"input": plain}).json["result"][0] == answer
    assert iris.post("/v1/models/iris:predict", {"instances": plain}).json["predictions"] == answer
    assert iris.post("/invocations", {"inputs": plain}).json["predictions"] == answer
    for data in (plain, some.reshape(-1).tolist()):
        tensor = {"name": "X", "shape": some.shape, "datatype": "FP64", "data": data}
        reply = iris.post("/v2/models/iris/infer", {"inputs": [tensor]}).json
        assert reply["outputs"] == [
            {"name": "predict", "shape": [count], "datatype": "INT64", "data": answer}
        ]
    for dtype in (np.float64, np.float32):
        assert ask_binary(iris, some.astype(dtype)).json["outputs"][0]["data"] == answer


def test_binary_answers_differ_as_their_values_do_not_as_their_heads(iris, rows, expected):
    for index in (0, 1, 2, 0):
        reply = ask_binary(iris, rows[index : index + 1], parameters={"binary_data_output": True})
        split = int(reply.headers["Inference-Header-Content-Length"])
        output = json.loads(reply.body[:split])["outputs"][0]
        assert output["parameters"] == {"binary_data_size": 8}
        assert struct.unpack("<q", reply.body[split:]) == (expected[index],)


def test_every_answer_has_an_id_of_its_own_or_the_clients(iris, rows):
    ids = {ask_binary(iris, rows[:1]).json["id"] for _ in range(5)}
    assert len(ids) == 5
    assert {len(i) for i in ids} == {36}
    assert ask_binary(iris, rows[:1], id='mine "1"').json["id"] == 'mine "1"'
    assert ask_binary(iris, rows[:1]).json["id"] not in ids


def test_a_known_head_with_another_length_is_a_400(iris, rows):
    assert ask_binary(iris, rows[:2]).status == 200
    tensor = {"name": "X", "shape": [2, 4], "datatype": "FP64"}
    tensor["parameters"] = {"binary_data_size": 64}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    for _ in range(2):
        for body in (rows[:3], rows[:1]):
            reply = iris.post("/v2/models/iris/infer", head + body.tobytes(), headers=dict(headers))
            assert reply.status == 400
            assert "bytes" in reply.json["error"]


def test_outputs_are_remembered_with_their_head(iris, rows):
    asked = [{"name": "predict_proba", "parameters": {"binary_data": True}}, {"name": "predict"}]
    for _ in range(2):
        reply = ask_binary(iris, rows[:2], outputs=asked)
        split = int(reply.headers["Inference-Header-Content-Length"])
        outputs = json.loads(reply.body[:split])["outputs"]
        assert [o["name"] for o in outputs] == ["predict_proba", "predict"]
        assert len(reply.body) - split == 2 * 3 * 8
    assert [o["name"] for o in ask_binary(iris, rows[:2]).json["outputs"]] == ["predict"]


def test_large_rows_with_a_mistake_are_told_where(iris, rows):
    for value, words in ((None, "row 3000"), ("a", "row 3000"), ([1], "row 3000")):
        plain = rows.tolist()
        plain[3000][2] = value
        reply = iris.post("/score", {"data": plain})
        assert reply.status == 400
        assert words in reply.json["message"]
    ragged = rows.tolist()
    ragged[5], ragged[6] = ragged[5][:3], [*ragged[6], 1.0]
    assert iris.post("/score", {"data": ragged}).status == 400
