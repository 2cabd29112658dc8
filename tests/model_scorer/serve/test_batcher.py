"""The batcher on a real event loop with fake runtimes."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from model_scorer.errors import DeadlineExceeded, ModelFailed, Overloaded
from model_scorer.runtimes.protocol import JsonValue, Prepared
from model_scorer.serve import batcher as batcher_module
from model_scorer.serve.batcher import Batcher, BatchLimits


class Numbers:
    """An observer that remembers."""

    def __init__(self):
        self.waits = []
        self.batches = []

    def count_queued(self, seconds, jobs=1):
        self.waits += [seconds] * jobs

    def count_batch(self, rows, seconds):
        self.batches.append(rows)

    def note_expected(self, jobs):
        self.expected = jobs


class FakeJob:
    def __init__(self, payload, *, rows=1, group="g", seconds=10.0):
        self.prepared = Prepared(payload, rows, group)
        self.queued_at = time.monotonic()
        self.deadline = self.queued_at + seconds
        self.settled = False
        self.answer = asyncio.get_running_loop().create_future()

    def settle(self, outcome, exec_seconds):
        assert not self.settled
        self.settled = True
        self.answer.set_result(outcome)


def echo(batch):
    return [JsonValue(item.payload) for item in batch]


def make(execute, *, inline=False, on_hang=lambda: None, **limits):
    limits = {"max_rows": 4, "max_queued": 100} | limits
    observer = Numbers()
    batcher = Batcher(
        asyncio.get_running_loop(),
        execute,
        BatchLimits(**limits),
        inline=inline,
        observer=observer,
        on_hang=on_hang,
    )
    return batcher, observer


async def answers_of(batcher, jobs):
    for job in jobs:
        batcher.submit(job)
    return await asyncio.gather(*(job.answer for job in jobs))


@pytest.mark.parametrize("inline", [True, False])
async def test_every_job_gets_its_own_answer(inline):
    batcher, observer = make(echo, inline=inline)
    jobs = [FakeJob(n) for n in range(10)]
    answers = await answers_of(batcher, jobs)
    assert [a.value for a in answers] == list(range(10))
    assert observer.batches == [4, 4, 2]
    batcher.close()


@pytest.mark.parametrize("inline", [True, False])
async def test_groups_are_never_mixed(inline):
    groups = []

    def execute(batch):
        groups.append({item.group for item in batch})
        return echo(batch)

    batcher, _ = make(execute, inline=inline)
    await answers_of(batcher, [FakeJob(n, group=n % 2) for n in range(8)])
    assert groups == [{0}, {1}]
    batcher.close()


async def test_a_lone_job_does_not_wait_for_company():
    batcher, _ = make(echo, max_delay_seconds=30.0)
    await asyncio.wait_for(answers_of(batcher, [FakeJob(1)]), 5)
    batcher.close()


async def test_a_delay_ends_when_the_batch_is_full():
    batcher, observer = make(echo, max_delay_seconds=30.0)
    await asyncio.wait_for(answers_of(batcher, [FakeJob(n) for n in range(4)]), 5)
    assert observer.batches == [4]
    batcher.close()


async def test_a_delay_ends_when_it_is_over():
    batcher, observer = make(echo, max_delay_seconds=0.02)
    await asyncio.wait_for(answers_of(batcher, [FakeJob(n) for n in range(3)]), 5)
    assert observer.batches == [3]
    batcher.close()


async def test_rows_bound_the_batch_and_one_large_request_goes_alone():
    batcher, observer = make(echo)
    await answers_of(batcher, [FakeJob(0, rows=3), FakeJob(1, rows=9), FakeJob(2)])
    assert observer.batches == [4, 9]
    batcher.close()


@pytest.mark.parametrize("inline", [True, False])
async def test_only_the_guilty_fail(inline):
    def execute(batch):
        return [JsonValue(1 / item.payload) for item in batch]

    batcher, _ = make(execute, inline=inline)
    answers = await answers_of(batcher, [FakeJob(n) for n in (1, 0, 2)])
    assert [type(a) for a in answers] == [JsonValue, ZeroDivisionError, JsonValue]
    batcher.close()


async def test_a_wrong_number_of_results_is_the_models_failure():
    batcher, _ = make(lambda batch: [])
    (answer,) = await answers_of(batcher, [FakeJob(1)])
    assert isinstance(answer, ModelFailed)
    batcher.close()


async def test_a_full_queue_refuses_at_once():
    release = threading.Event()

    def execute(batch):
        release.wait(10)
        return echo(batch)

    batcher, _ = make(execute, max_queued=2, max_rows=1)
    running = FakeJob(0)
    batcher.submit(running)
    await asyncio.sleep(0)
    waiting = [FakeJob(1), FakeJob(2)]
    for job in waiting:
        batcher.submit(job)
    with pytest.raises(Overloaded) as refusal:
        batcher.submit(FakeJob(3))
    assert refusal.value.retry_after_seconds >= 1
    release.set()
    await asyncio.gather(*(job.answer for job in [running, *waiting]))
    batcher.close()


async def test_what_is_too_late_is_never_started():
    seen = []
    release = threading.Event()

    def execute(batch):
        seen.extend(item.payload for item in batch)
        release.wait(10)
        return echo(batch)

    batcher, _ = make(execute, max_rows=1)
    first, late = FakeJob("first"), FakeJob("late", seconds=0.1)
    batcher.submit(first)
    batcher.submit(late)
    assert isinstance(await late.answer, DeadlineExceeded)
    release.set()
    await first.answer
    assert seen == ["first"]
    batcher.close()


async def test_a_cancelled_request_does_not_delay_its_batch():
    batcher, _ = make(echo)
    jobs = [FakeJob(n) for n in range(3)]
    for job in jobs:
        batcher.submit(job)
    jobs[1].settled = True
    assert [(await jobs[n].answer).value for n in (0, 2)] == [0, 2]
    assert not jobs[1].answer.done()
    batcher.close()


async def test_a_call_that_never_returns_costs_only_its_thread():
    release = threading.Event()
    hung = []

    def execute(batch):
        if batch[0].payload == "hang":
            release.wait(30)
        return echo(batch)

    batcher, _ = make(execute, on_hang=lambda: hung.append(1))
    stuck, later = FakeJob("hang", seconds=0.1), FakeJob("later", group="other")
    batcher.submit(stuck)
    batcher.submit(later)
    assert isinstance(await stuck.answer, DeadlineExceeded)
    assert (await asyncio.wait_for(later.answer, 10)).value == "later"
    assert hung == [1]
    release.set()
    batcher.close()


async def test_concurrency_runs_batches_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)

    def execute(batch):
        meeting.wait()
        return echo(batch)

    batcher, _ = make(execute, max_rows=1, concurrency=2)
    await asyncio.wait_for(answers_of(batcher, [FakeJob(n) for n in range(2)]), 10)
    batcher.close()


async def test_a_model_that_turns_out_slow_leaves_the_event_loop():
    def execute(batch):
        time.sleep(0.004)
        return echo(batch)

    batcher, _ = make(execute, inline=True)
    for n in range(25):
        await answers_of(batcher, [FakeJob(n)])
    assert not batcher.inline
    batcher.close()


async def test_rows_that_wait_are_shared_out_among_the_idle():
    running = threading.Event()

    def execute(batch):
        assert running.wait(10)
        return echo(batch)

    batcher, observer = make(execute, max_rows=4, concurrency=2, spreads=True)
    jobs = [FakeJob(n) for n in range(5)]
    for job in jobs:
        batcher.submit(job)
    await asyncio.sleep(0)
    assert (batcher.busy, batcher.queued) == (2, 0)
    running.set()
    await asyncio.gather(*(job.answer for job in jobs))
    assert sorted(observer.batches) == [2, 3]
    batcher.close()


def slow_echo(batch):
    time.sleep(0.02)
    return echo(batch)


async def ask_again_and_again(batcher, name, times):
    for number in range(times):
        job = FakeJob((name, number))
        batcher.submit(job)
        assert (await job.answer).value == (name, number)


async def test_clients_that_ask_again_are_scored_together():
    batcher, observer = make(slow_echo)
    # One begins alone, so that without patience they would take turns for ever.
    first = asyncio.create_task(ask_again_and_again(batcher, "a", 8))
    await asyncio.sleep(0.005)
    await asyncio.gather(
        first, *(ask_again_and_again(batcher, name, 7) for name in ("b", "c", "d"))
    )
    assert observer.batches.count(4) >= 6
    batcher.close()


async def test_a_lone_client_is_never_kept_waiting():
    batcher, observer = make(slow_echo)
    await ask_again_and_again(batcher, "a", 5)
    assert observer.batches == [1] * 5
    # A twentieth of a call, once it is known how long one takes.
    assert min(observer.waits[1:]) < 0.001
    batcher.close()


async def test_who_waits_is_scored_though_those_who_were_answered_stay_away():
    batcher, observer = make(slow_echo)
    first = FakeJob("first")
    batcher.submit(first)
    await asyncio.sleep(0.005)
    late = [FakeJob(n) for n in range(2)]
    for job in late:
        batcher.submit(job)
    assert (await first.answer).value == "first"
    assert [(await job.answer).value for job in late] == [0, 1]
    assert observer.batches == [1, 2]
    batcher.close()


async def test_who_comes_during_the_patience_is_watched_for_its_deadline():
    release = threading.Event()

    def stuck_second(batch):
        if batch[0].payload == "second":
            release.wait(10)
        else:
            time.sleep(0.02)
        return echo(batch)

    batcher, _ = make(stuck_second)
    both = [FakeJob("a"), FakeJob("b")]
    await answers_of(batcher, both)
    job = FakeJob("second", seconds=0.2)
    batcher.submit(job)
    assert isinstance(await job.answer, DeadlineExceeded)
    release.set()
    batcher.close()


async def test_those_who_were_answered_are_expected_until_they_ask_or_go_elsewhere(monkeypatch):
    for name in ("LINGER_SHARE", "MAX_LINGER_SECONDS"):
        monkeypatch.setattr(batcher_module, name, 60)
    batcher, observer = make(slow_echo)
    jobs = [FakeJob(n) for n in range(3)]
    expected = []
    jobs[0].answer.add_done_callback(lambda _: expected.append(batcher.expected))
    await answers_of(batcher, jobs)
    assert expected == [3]
    batcher.submit(again := FakeJob("again"))
    assert observer.expected == batcher.expected == 2
    # Another worker got the other two: nobody is waited for any more.
    batcher.give_away()
    batcher.give_away()
    assert observer.expected == batcher.expected == 0
    assert (await again.answer).value == "again"
    batcher.close()
