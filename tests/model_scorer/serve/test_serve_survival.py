"""What a model's worst requests cost the others, and which requests the access log keeps."""

from __future__ import annotations

import json
import threading

SCRIPT = """
import json, os, time

def run(data):
    asked = json.loads(data)
    if asked.get("exit"):
        os._exit(3)
    time.sleep(asked.get("sleep", 0))
    if asked.get("fail"):
        raise ValueError("no")
    return asked.get("data")
"""


REQUEST = b"""POST /score HTTP/1.1\r
Host: a\r
Content-Type: application/json\r
Content-Length: 11\r
\r
{"data": 1}"""


def read_response(connection):
    """The head and what of the body came with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {received!r}"
        received += piece
    return received


class Askers:
    """Threads that ask all the time, until they are told to end.

    Args:
        scorer: to ask.
        count: of threads.
    """

    def __init__(self, scorer, count):
        self.statuses = []
        self._scorer = scorer
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        while not self._ended.is_set():
            # A connection that is reset instead of answered raises here, and the thread's end fails the test.
            self.statuses.append(self._scorer.post("/score", {"data": 1, "sleep": 0.01}).status)


def test_a_worker_that_dies_leaves_no_request_without_an_answer(start_scorer, make_script, until):
    scorer = start_scorer(make_script(SCRIPT), "python", workers=2, auth_mode="None")
    with Askers(scorer, 4) as askers:
        until(lambda: len(askers.statuses) > 20)
        assert scorer.post("/score", {"exit": True}).status == 500
        until(lambda: scorer.metric("scorer_worker_restarts_total") == 1)
        until(lambda: scorer.metric("scorer_workers_ready") == 2)
        seen = len(askers.statuses)
        until(lambda: len(askers.statuses) > seen + 50)
    # At most what was in the dead worker with it.
    assert sum(status != 200 for status in askers.statuses) <= 4
    assert set(askers.statuses) <= {200, 500, 503}
    assert set(askers.statuses[seen:]) == {200}


def test_a_client_that_had_not_asked_yet_is_answered_by_the_next_worker(start_scorer, make_script):
    scorer = start_scorer(make_script(SCRIPT), "python", workers=1, auth_mode="None")
    with scorer.connect() as early, scorer.connect() as idle:
        idle.sendall(REQUEST)
        assert read_response(idle).startswith(b"HTTP/1.1 200 ")
        assert scorer.post("/score", {"exit": True}).status == 500
        # Whether the dead worker had read a next request nobody knows, so it is closed, and nothing is said.
        assert idle.recv(1) == b""
        early.sendall(REQUEST)
        assert read_response(early).startswith(b"HTTP/1.1 200 ")


def test_a_request_that_was_half_read_by_a_worker_that_dies_gets_an_error(
    start_scorer, make_script
):
    scorer = start_scorer(make_script(SCRIPT), "python", workers=1, auth_mode="None")
    with scorer.connect() as half:
        half.sendall(REQUEST[:-2])
        # What was sent before is read before.
        assert scorer.post("/score", {"data": 1}).status == 200
        assert scorer.post("/score", {"exit": True}).status == 500
        assert read_response(half).startswith(b"HTTP/1.1 500 ")


def test_a_run_that_hangs_delays_nobody_beyond_its_own_deadline(start_scorer, make_script, until):
    scorer = start_scorer(
        make_script(SCRIPT), "python", workers=2, auth_mode="None", timeout_seconds="1"
    )
    with Askers(scorer, 2) as askers:
        assert scorer.post("/score", {"sleep": 60}).status == 504
        until(lambda: scorer.metric("scorer_worker_restarts_total") == 1)
        until(lambda: scorer.metric("scorer_workers_ready") == 2)
    assert set(askers.statuses) <= {200, 503, 504}
    assert sum(status != 200 for status in askers.statuses) <= 2


def test_the_access_log_keeps_failures_when_it_samples_successes(start_scorer, make_script, until):
    scorer = start_scorer(
        make_script(SCRIPT), "python", workers=1, auth_mode="None", access_log_sample="0"
    )
    assert (
        scorer.post("/score", {"data": "a payload"}, headers={"x-request-id": "r-200"}).status
        == 200
    )
    assert scorer.post("/score", b"{", headers={"x-request-id": "r-400"}).status == 400
    assert scorer.get("/nothing", headers={"x-request-id": "r-404"}).status == 404
    assert scorer.post("/score", {"fail": 1}, headers={"x-request-id": "r-500"}).status == 500

    def logged():
        records = [json.loads(line) for line in scorer.log().splitlines()]
        return {r["request_id"]: r for r in records if r.get("logger") == "access"}

    until(lambda: "r-500" in logged())
    assert {name: r["status"] for name, r in logged().items()} == {
        "r-400": 400,
        "r-404": 404,
        "r-500": 500,
    }
    assert [r["reason"] for r in logged().values()] == ["bad_request", "not_found", "model_failed"]
    assert "a payload" not in scorer.log()
