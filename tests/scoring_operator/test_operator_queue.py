from __future__ import annotations

import asyncio

import pytest

from scoring_operator.api import Key
from scoring_operator.events import EventLimiter, build_event
from scoring_operator.queue import KeyQueue

A, B = Key("default", "a"), Key("default", "b")


@pytest.fixture
async def queue():
    queue = KeyQueue()
    yield queue
    queue.close()


async def test_a_key_waits_once(queue):
    queue.add(A)
    queue.add(A)
    queue.add(B)
    assert [(await queue.get())[0], (await queue.get())[0]] == [A, B]
    assert len(queue) == 0


async def test_a_key_has_one_worker_and_is_handed_out_again(queue):
    queue.add(A)
    key, _ = await queue.get()
    queue.add(A)
    assert len(queue) == 0
    queue.done(key)
    assert (await queue.get())[0] == A


async def test_a_worker_waits_for_news(queue):
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add(B)
    assert (await waiting)[0] == B


async def test_failures_wait_longer_each_time_and_are_forgotten(queue):
    waits = [queue.retry(A) for _ in range(12)]
    assert waits[0] < 0.5
    assert waits[5] > waits[0]
    assert max(waits) <= 75
    queue.succeed(A)
    assert queue.retry(A) < 0.5


async def test_the_server_may_ask_for_a_longer_wait(queue):
    assert queue.retry(A, at_least_seconds=30) >= 30


async def test_an_alarm_adds_the_key_and_success_cancels_it(queue):
    queue.add_after(A, 0)
    assert (await asyncio.wait_for(queue.get(), 5))[0] == A
    queue.done(A)
    queue.add_after(A, 0)
    queue.succeed(A)
    queue.add_after(B, 0)
    assert (await asyncio.wait_for(queue.get(), 5))[0] == B
    assert len(queue) == 0


async def test_a_failing_key_does_not_hold_up_others(queue):
    queue.retry(A)
    queue.add(B)
    assert (await queue.get())[0] == B


def test_the_same_news_is_told_once_in_a_while():
    now = 0.0
    limiter = EventLimiter(lambda: now)
    assert limiter.admit(A, "LoadFailed")
    assert not limiter.admit(A, "LoadFailed")
    assert limiter.admit(B, "LoadFailed")
    assert limiter.admit(A, "Ready")
    now = 601.0
    assert limiter.admit(A, "LoadFailed")


def test_events_are_of_the_two_standard_types(stored):
    from datetime import UTC, datetime

    for reason, kind in [("Ready", "Normal"), ("OutOfMemory", "Warning")]:
        event = build_event(
            stored(), {"reason": reason, "message": "m" * 5000}, now=datetime.now(UTC)
        )
        assert event["type"] == kind
        assert len(event["message"]) <= 1024
