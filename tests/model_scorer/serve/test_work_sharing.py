"""Clients that all have their connections to one worker are served by all workers."""

from __future__ import annotations

import json
from collections import Counter

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.serve.shared import EXPECTED, IN_FLIGHT, STATE, STATE_READY, SharedStats
from model_scorer.serve.sharing import WorkSharing, render_request

# Slow enough to be worth sharing: a hundredth of a second a call, however many requests it has.
SCRIPT = """
import os, time

def run(data):
    return run_batch([data])[0]

def run_batch(bodies):
    time.sleep(0.01)
    return [os.getpid()] * len(bodies)
"""
ROUNDS = 20


def send(connection) -> None:
    body = b"{}"
    connection.sendall(
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )


def read_owner(connection) -> int:
    """The worker that answers."""
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return int(json.loads(body))


def ask(connections) -> list[int]:
    """Ask on all connections at once, then wait for all answers."""
    for connection in connections:
        send(connection)
    return [read_owner(connection) for connection in connections]


def test_clients_of_one_worker_that_ask_in_step_are_shared_out(start_scorer, make_script, until):
    scorer = start_scorer(make_script(SCRIPT), "python", workers=2, auth_mode="None")
    connections = [scorer.connect() for _ in range(16)]
    # One after the other, so that nothing is shared yet.
    owners = [ask([connection])[0] for connection in connections]
    assert len(set(owners)) == 2
    kept = [c for c, owner in zip(connections, owners, strict=True) if owner == owners[0]]
    for connection in connections:
        if connection not in kept:
            connection.close()
    until(lambda: scorer.metric("scorer_connections_open") == len(kept))

    last = Counter([ask(kept) for _ in range(ROUNDS)][-1])

    for connection in kept:
        connection.close()
    assert len(last) == 2
    assert min(last.values()) >= len(kept) // 4


def sharing(others: dict[int, tuple[int, int]]) -> WorkSharing:
    """Of slot 0, beside others with so many requests in flight and expected."""
    slots = SharedStats(len(others) + 1).slots
    for slot, (in_flight, expected) in others.items():
        slots[slot].ints[STATE] = STATE_READY
        slots[slot].ints[IN_FLIGHT] = in_flight
        slots[slot].ints[EXPECTED] = expected
    return WorkSharing(0, slots, lambda *_: True)


def test_an_idle_worker_takes_what_would_have_company():
    assert sharing({1: (0, 0)}).find_taker(1) == 1


def test_a_worker_with_nothing_to_do_keeps_its_request():
    assert sharing({1: (0, 0)}).find_taker(0) is None


def test_who_has_just_answered_is_not_taken_for_idle():
    assert sharing({1: (0, 4)}).find_taker(3) is None


def test_nothing_moves_between_workers_that_have_about_the_same():
    assert sharing({1: (3, 0)}).find_taker(4) is None


def test_the_least_busy_takes_from_one_that_has_much_more():
    assert sharing({1: (3, 0), 2: (1, 1)}).find_taker(4) == 2


def test_a_passed_request_means_the_same():
    request = HttpRequest(
        "POST", "/score", "a=1", {b"host": b"x", b"content-length": b"9", b"x-b": b"2"}, b"body"
    )
    assert render_request(request) == (
        b"POST /score?a=1 HTTP/1.1\r\nhost: x\r\nx-b: 2\r\ncontent-length: 4\r\n\r\nbody"
    )
