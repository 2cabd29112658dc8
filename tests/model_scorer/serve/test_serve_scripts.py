"""The server over real sockets with score scripts: Azure ML's contract, failures at start, overload, deadlines, drain."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

ECHO = """
import json, os, time

def init():
    global started
    started = os.environ["AZUREML_MODEL_DIR"]
    print("init ran")

def run(data):
    value = json.loads(data)
    if value.get("fail"):
        raise ValueError("secret detail")
    if value.get("exit"):
        os._exit(3)
    if "sleep" in value:
        time.sleep(value["sleep"])
    return value.get("data")
"""


@pytest.fixture(scope="module")
def echo(start_scorer, make_script):
    return start_scorer(make_script(ECHO), "python", sample={"request": {"data": 1}, "expect": 1})


def test_run_gets_the_raw_body_and_its_value_is_the_answer(echo):
    assert echo.post("/score", {"data": {"a": [1, 2]}}).json == {"a": [1, 2]}


def test_none_becomes_an_empty_object(echo):
    assert echo.post("/score", {"x": 1}).json == {}


def test_input_is_answered_in_the_flask_servers_form(echo):
    answer = echo.post("/score", {"input": "q", "data": [[1, 2, 0.5]]}).json
    assert answer["result"][0] == [[1, 2, 0.5]]
    assert answer["result"][1].startswith("Computed in ")


def test_a_raising_run_is_a_500_without_details(echo):
    reply = echo.post("/score", {"fail": True})
    assert reply.status == 500
    assert reply.headers["x-ms-run-function-failed"] == "True"
    assert b"secret detail" not in reply.body
    assert "secret detail" in echo.log()


def test_what_a_script_prints_is_a_log_record(echo):
    assert any(r.get("message") == "init ran" for r in echo.records())


def test_a_worker_that_dies_is_replaced(echo, until):
    reply = echo.post("/score", {"exit": True})
    assert reply.status == 500
    assert "process ended" in reply.json["message"]
    assert echo.post("/v2/models/model/infer", {"inputs": [], "exit": True}).json["error"]
    until(lambda: echo.metric("scorer_workers_ready") == 2)
    assert echo.post("/score", {"data": 5}).json == 5


def test_probes_answer_while_the_model_is_busy(start_scorer, make_script):
    busy = "def run(data):\n    x = 0\n    for i in range(30_000_000): x += i\n    return x\n"
    scorer = start_scorer(make_script(busy), "python", workers=1)
    thread = threading.Thread(target=scorer.post, args=("/score", {}))
    thread.start()
    assert scorer.probe("/livez").status == 200
    assert scorer.get("/").status == 200
    thread.join()


def test_deadlines_and_full_queues(start_scorer, make_script, until):
    scorer = start_scorer(
        make_script(ECHO), "python", workers=1, timeout_seconds=0.5, max_queued_requests=1
    )
    replies = []

    def ask(sleep):
        replies.append(scorer.post("/score", {"sleep": sleep, "data": 1}))

    first = threading.Thread(target=ask, args=(0.9,))
    first.start()
    until(lambda: scorer.metric("scorer_requests_in_flight") == 1)
    second = threading.Thread(target=ask, args=(0,))
    second.start()
    until(lambda: scorer.metric("scorer_requests_in_flight") == 2)
    third = scorer.post("/score", {"data": 1})
    assert third.status == 503
    assert int(third.headers["Retry-After"]) >= 1
    first.join()
    second.join()
    assert [r.status for r in replies] == [504, 504]
    until(lambda: scorer.post("/score", {"data": 7}).status == 200)


def test_a_client_may_ask_for_an_earlier_deadline(echo):
    headers = {"x-request-timeout-seconds": "0.1"}
    assert echo.post("/score", {"sleep": 0.4}, headers=headers).status == 504
    assert echo.post("/score", {}, headers={"x-request-timeout-seconds": "x"}).status == 400


def test_a_hung_run_costs_its_worker_and_nobody_else(start_scorer, make_script, until):
    scorer = start_scorer(make_script(ECHO), "python", workers=1, timeout_seconds=0.3)
    assert scorer.post("/score", {"sleep": 30}).status == 504
    until(lambda: scorer.metric("scorer_worker_restarts_total") == 1)
    until(lambda: scorer.probe("/readyz").status == 200)
    assert scorer.post("/score", {"data": 3}).json == 3


def test_run_batch_gets_what_arrived_while_the_model_ran(start_scorer, make_script, until):
    script = """
import json, time
def run(data):
    return run_batch([data])[0]
def run_batch(items):
    time.sleep(0.3)
    return [[len(items), json.loads(i)["n"]] for i in items]
"""
    scorer = start_scorer(make_script(script), "python", workers=1)
    answers = []

    def ask(number):
        answers.append(scorer.post("/score", {"n": number}).json)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(n for _, n in answers) == list(range(8))
    assert max(size for size, _ in answers) > 1


def test_one_bad_request_does_not_spoil_its_batch(start_scorer, make_script):
    script = """
import json, time
def run(data):
    return run_batch([data])[0]
def run_batch(items):
    time.sleep(0.1)
    return [1 / json.loads(i)["n"] for i in items]
"""
    scorer = start_scorer(make_script(script), "python", workers=1)
    statuses = {}

    def ask(number):
        statuses[number] = scorer.post("/score", {"n": number}).status

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {0: 500, 1: 200, 2: 200, 3: 200, 4: 200, 5: 200}


def test_rawhttp_scripts_get_the_request_and_give_the_response(start_scorer, make_script):
    script = """
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse
@rawhttp
def run(request):
    if request.method == "GET":
        return {"args": request.args}
    return AMLResponse(request.get_data()[::-1], 201, {"x-mine": "yes"})
"""
    scorer = start_scorer(make_script(script), "python", workers=1)
    reply = scorer.post("/score", b"abc", headers={"Content-Type": "image/png"})
    assert (reply.status, reply.body, reply.headers["x-mine"]) == (201, b"cba", "yes")
    assert scorer.get("/score?q=1").json == {"args": {"q": "1"}}


def test_request_headers_reach_a_run_that_asks_for_them(start_scorer, make_script):
    script = "def run(data, request_headers):\n    return sorted(request_headers)\n"
    scorer = start_scorer(make_script(script), "python", workers=1)
    names = scorer.post("/score", {}, headers={"x-mine": "1"}).json
    assert "x-mine" in names
    assert "authorization" not in names


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        ("def init(): pass\n", "ScriptFailed", "no function run"),
        ("def run(data:\n", "ScriptFailed", "syntax error in line 1"),
        (
            "def init():\n    raise RuntimeError('no weights')\ndef run(d): pass\n",
            "ScriptFailed",
            "RuntimeError: no weights (score.py line 2, in init)",
        ),
        ("import sys\nsys.exit(4)\n", "ScriptFailed", "SystemExit"),
        ("import no_such_module_x\n", "MissingDependency", "no_such_module_x"),
        (
            "def init():\n    import no_such_module_y\ndef run(d): pass\n",
            "MissingDependency",
            "no_such_module_y",
        ),
        ("import os\ndef init(): os._exit(7)\ndef run(d): pass\n", "LoadFailed", "exit code 7"),
        (
            "import os\ndef init(): os.kill(os.getpid(), 9)\ndef run(d): pass\n",
            "OutOfMemory",
            "killed",
        ),
        ("def run(d): return 2\n", "SampleFailed", "answer: expected 1, got 2"),
        ("def run(d): raise KeyError('x')\n", "SampleFailed", "KeyError"),
    ],
)
def test_a_bad_script_ends_with_a_reason(start_scorer, make_script, text, reason, words):
    scorer = start_scorer(
        make_script(text), "python", wait=False, sample={"request": {"data": 1}, "expect": 1}
    )
    assert scorer.process.wait(timeout=30) == 1
    last = json.loads(scorer.termination_path.read_text())
    assert last["reason"] == reason
    assert words in last["message"]
    assert last["hint"]


def test_threads_of_init_make_each_worker_load_for_itself(start_scorer, make_script):
    script = """
import queue, threading
def init():
    global inbox
    inbox = queue.Queue()
    def answer():
        while True:
            value, reply = inbox.get()
            reply.put(value)
    threading.Thread(target=answer, daemon=True).start()
def run(data):
    reply = queue.Queue()
    inbox.put((42, reply))
    return reply.get(timeout=5)
"""
    scorer = start_scorer(make_script(script), "python")
    assert scorer.post("/score", {}).json == 42


def test_drain_keeps_serving_and_says_not_ready(start_scorer, make_script, until):
    scorer = start_scorer(make_script(ECHO), "python", drain_seconds="4")
    os.kill(scorer.process.pid, signal.SIGTERM)
    until(lambda: scorer.probe("/readyz").status == 503)
    assert scorer.probe("/readyz").json["reason"] == "shutting down"
    reply = scorer.post("/score", {"sleep": 0.1, "data": 9})
    assert reply.json == 9
    assert reply.headers["Connection"] == "close"
    assert scorer.process.wait(timeout=20) == 0


def test_wrong_settings_are_all_named(start_scorer, make_script):
    scorer = start_scorer(make_script(ECHO), "pythn", wait=False, port="x", workers=-1)
    assert scorer.process.wait(timeout=30) == 2
    last = json.loads(scorer.termination_path.read_text())
    assert last["reason"] == "InvalidSpec"
    for variable in ("SCORER_FRAMEWORK", "SCORER_PORT", "SCORER_WORKERS"):
        assert variable in last["message"]
