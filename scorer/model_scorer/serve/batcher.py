"""The batcher: what arrived while the model ran is scored in the next call, without a timer; nobody waits for company.

Jobs come in on the event loop and are settled on it. A model that takes well under a millisecond runs right there; all
others on compute threads. The queue is bounded, deadlines are kept for waiting and for running jobs, a failure of a
batch is tried again one by one, and a call that never returns costs its thread, not the worker.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from model_scorer.errors import DeadlineExceeded, Overloaded
from model_scorer.runtimes.protocol import Output, Prepared
from model_scorer.serve.compute import ComputeThread, Execute, execute_isolated

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.05
# A call that outlives the deadlines of all its requests by this much is taken for hung.
HANG_GRACE_SECONDS = 1.0
# An inline model that is this slow this many times in a row blocks the loop too much: it moves to the compute thread.
INLINE_LIMIT_SECONDS = 0.003
INLINE_LIMIT_CALLS = 20

# After a call its clients mostly ask again at once. A moment's patience, a small share of a call, scores them together
# instead of one half while the other waits: measured, 2.1 -> 4 rows a call with four clients a worker.
LINGER_SHARE = 0.05
MAX_LINGER_SECONDS = 0.005
# Below this a call costs about as much as the moment.
MIN_LINGER_CALL_SECONDS = 0.003
# Where nobody comes back it is tried ever more rarely, down to once in 2 ** this many calls.
MAX_LINGER_MISSES = 5


class Job(Protocol):
    """A request as the batcher sees it."""

    prepared: Prepared
    deadline: float
    queued_at: float
    settled: bool

    def settle(self, outcome: Output | Exception, exec_seconds: float) -> None:
        """Take the outcome; called once, on the event loop, and never raises."""
        ...


class BatchObserver(Protocol):
    """Where the batcher's numbers go."""

    def count_queued(self, seconds: float, jobs: int = 1) -> None:
        """The wait of jobs that waited together."""
        ...

    def count_batch(self, rows: int, seconds: float) -> None:
        """One call of the model."""
        ...

    def note_expected(self, jobs: int) -> None:
        """How many clients that were just answered will most likely ask again at once."""
        ...


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What bounds the batcher.

    Attributes:
        max_rows: rows in one call; a single request may bring more.
        max_queued: jobs that wait; beyond it `Overloaded`.
        max_delay_seconds: longest wait for a fuller batch, while others arrive.
        concurrency: calls at the same time.
        spreads: share the rows that wait out among the idle of `concurrency`.
    """

    max_rows: int
    max_queued: int
    max_delay_seconds: float = 0.0
    concurrency: int = 1
    spreads: bool = False


@dataclass(slots=True, eq=False)
class _Running:
    jobs: list[Job]
    thread: ComputeThread
    last_deadline: float


class Batcher:
    """Collects jobs and runs the model on them.

    Args:
        loop: the event loop that all calls come from.
        execute: the runtime's.
        limits: see there.
        inline: run on the event loop; given up by itself when the model turns out to be slow.
        observer: where numbers go.
        on_hang: called when a call never returned and its thread was given up.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        execute: Execute,
        limits: BatchLimits,
        *,
        inline: bool,
        observer: BatchObserver,
        on_hang: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._execute = execute
        self._limits = limits
        self.inline = inline
        self._observer = observer
        self._on_hang = on_hang
        self._queue: deque[Job] = deque()
        self._idle: list[ComputeThread] = []
        self._running: set[_Running] = set()
        self._scheduled = False
        self._sweeping = False
        self._delay: asyncio.TimerHandle | None = None
        # While it lingers: how many jobs the next call waits for, and how many there were at the beginning.
        self._awaited = 0
        self._found = 0
        self._linger: asyncio.TimerHandle | None = None
        self._misses = 0
        self._calls_without = 0
        self._mean_seconds = 0.0
        self._slow_calls = 0

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._queue)

    @property
    def most_in_flight(self) -> int:
        """Requests that fill the queue and all calls of the model; more than these need not be prepared."""
        limits = self._limits
        return limits.max_queued + limits.concurrency * limits.max_rows

    @property
    def busy(self) -> int:
        """Calls that run on compute threads."""
        return len(self._running)

    @property
    def expected(self) -> int:
        """Jobs that the next call waits for."""
        return max(0, self._awaited - len(self._queue))

    @property
    def mean_seconds(self) -> float:
        """A moving mean of the model's call time."""
        return self._mean_seconds

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Overloaded: the queue is full.
        """
        queue = self._queue
        if len(queue) >= self._limits.max_queued:
            waits = len(queue) * self._mean_seconds / max(1, self._limits.concurrency)
            raise Overloaded("too many requests are waiting", max(1, min(60, round(waits))))
        queue.append(job)
        if self._awaited:
            self._observer.note_expected(self.expected)
        if len(queue) < self._awaited:
            pass  # `_end_linger` comes soon
        elif not self._scheduled and (self.inline or len(self._running) < self._limits.concurrency):
            if self._awaited:
                self._misses = 0
            # Not at once: requests that came in the same pass of the loop are scored together.
            self._scheduled = True
            self._loop.call_soon(self._dispatch)
        if not self.inline and not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def give_away(self) -> None:
        """A job that came was given to somebody else: it is expected no more."""
        if self._awaited:
            self._await(self._awaited - 1)
            if len(self._queue) >= self._awaited:
                self._end_linger()

    def close(self) -> None:
        """Stop the idle compute threads; running calls are not waited for."""
        self._stop_lingering()
        for thread in self._idle:
            thread.stop()
        self._idle.clear()

    # --------------------------------------------------------------------------------------------------- batches

    def _dispatch(self) -> None:
        self._scheduled = False
        self._stop_lingering()
        if self.inline:
            self._run_inline()
            return
        while self._queue and len(self._running) < self._limits.concurrency:
            if self._should_wait():
                return
            jobs = self._take_batch(monotonic())
            if not jobs:
                return
            self._start(jobs)

    def _should_wait(self) -> bool:
        """Whether a fuller batch is worth a wait: only when asked for, and only while requests come close together."""
        delay = self._limits.max_delay_seconds
        if not delay or len(self._queue) < 2:
            return False
        if sum(job.prepared.rows for job in self._queue) >= self._limits.max_rows:
            return False
        due = self._queue[0].queued_at + delay
        if due <= monotonic():
            return False
        if self._delay is None:
            self._delay = self._loop.call_later(due - monotonic(), self._end_delay)
        return True

    def _end_delay(self) -> None:
        self._delay = None
        self._dispatch()

    def _take_batch(self, now: float) -> list[Job]:
        """The next jobs of one group, oldest first; those that are too late are settled and left out."""
        queue = self._queue
        batch: list[Job] = []
        passed: list[Job] = []
        group: Hashable = None
        rows = 0
        max_rows = self._limits.max_rows
        if self._limits.spreads:
            idle = self._limits.concurrency - len(self._running)
            waiting = sum(job.prepared.rows for job in queue)
            max_rows = min(max_rows, math.ceil(waiting / max(1, idle)))
        while queue:
            job = queue.popleft()
            if job.settled:
                continue
            if now >= job.deadline:
                job.settle(DeadlineExceeded("the deadline passed while the request waited"), 0.0)
                continue
            prepared = job.prepared
            if not batch:
                group = prepared.group
            elif prepared.group != group or rows + prepared.rows > max_rows:
                passed.append(job)
                # Looking far beyond the first mismatch would cost more than a fuller batch gains.
                if len(passed) >= 64 or rows >= max_rows:
                    break
                continue
            batch.append(job)
            rows += prepared.rows
            if rows >= max_rows:
                break
        if passed:
            queue.extendleft(reversed(passed))
        if self.inline:
            # They came in the same pass of the loop: one wait stands for all.
            if batch:
                self._observer.count_queued(now - batch[0].queued_at, len(batch))
        else:
            for job in batch:
                self._observer.count_queued(now - job.queued_at)
        return batch

    def _run_inline(self) -> None:
        now = monotonic()
        jobs = self._take_batch(now)
        if not jobs:
            return
        started = time.perf_counter()
        outcomes = execute_isolated(self._execute, [job.prepared for job in jobs])
        seconds = time.perf_counter() - started
        self._note(jobs, seconds)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if not job.settled:
                job.settle(outcome, seconds)
        self._slow_calls = self._slow_calls + 1 if seconds > INLINE_LIMIT_SECONDS else 0
        if self._slow_calls >= INLINE_LIMIT_CALLS:
            log.info("the model is slow: from the event loop to the compute thread")
            self.inline = False
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _start(self, jobs: list[Job]) -> None:
        thread = self._idle.pop() if self._idle else ComputeThread()
        running = _Running(jobs, thread, max(job.deadline for job in jobs))
        self._running.add(running)
        batch = [job.prepared for job in jobs]
        execute, loop, done = self._execute, self._loop, self._done

        def work() -> None:
            started = time.perf_counter()
            outcomes = execute_isolated(execute, batch)
            seconds = time.perf_counter() - started
            try:
                loop.call_soon_threadsafe(done, running, outcomes, seconds)
            except RuntimeError:
                log.debug("the loop was closed while the model ran")

        thread.submit(work)

    def _done(
        self, running: _Running, outcomes: Sequence[Output | Exception], seconds: float
    ) -> None:
        if running not in self._running:
            running.thread.stop()  # it was given up as hung, and came back after all
            return
        self._running.discard(running)
        self._idle.append(running.thread)
        self._note(running.jobs, seconds)
        lingers = self._may_linger()
        if lingers:
            # Noted before the answers are sent, so that no other worker takes this one for idle meanwhile.
            self._found = len(self._queue)
            self._await(min(self._found + len(running.jobs), self._limits.max_rows))
        elif self._queue and not self._scheduled:
            # First the next batch, so that the model works while answers are encoded.
            self._dispatch()
        for job, outcome in zip(running.jobs, outcomes, strict=True):
            if not job.settled:
                job.settle(outcome, seconds)
        if lingers:
            self._calls_without = 0
            patience = min(LINGER_SHARE * self._mean_seconds, MAX_LINGER_SECONDS)
            self._linger = self._loop.call_later(patience, self._end_linger)

    # ------------------------------------------------------------------------------------------------- lingering

    def _may_linger(self) -> bool:
        """Whether the next call may wait for those who are answered now."""
        limits = self._limits
        if (
            limits.concurrency > 1
            or self._running
            or self._scheduled
            or limits.max_rows == 1
            or self._mean_seconds < MIN_LINGER_CALL_SECONDS
            or len(self._queue) >= limits.max_rows
        ):
            return False
        self._calls_without += 1
        return self._calls_without >> self._misses > 0

    def _await(self, jobs: int) -> None:
        self._awaited = jobs
        self._observer.note_expected(self.expected)

    def _end_linger(self) -> None:
        """Nobody else came back in time."""
        if self._found:  # else nobody was kept waiting
            gained = len(self._queue) > self._found
            self._misses = 0 if gained else min(self._misses + 1, MAX_LINGER_MISSES)
        self._stop_lingering()
        if self._queue and not self._scheduled:
            self._dispatch()

    def _stop_lingering(self) -> None:
        if self._awaited:
            self._await(0)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _note(self, jobs: list[Job], seconds: float) -> None:
        mean = self._mean_seconds
        self._mean_seconds = seconds if not mean else mean + 0.1 * (seconds - mean)
        self._observer.count_batch(sum([job.prepared.rows for job in jobs]), seconds)

    # ------------------------------------------------------------------------------------------------- deadlines

    def _sweep(self) -> None:
        """Settle what is too late: waiting jobs are dropped, running ones are answered without their result."""
        now = monotonic()
        while self._queue and (self._queue[0].settled or now >= self._queue[0].deadline):
            job = self._queue.popleft()
            if not job.settled:
                job.settle(DeadlineExceeded("the deadline passed while the request waited"), 0.0)
        for running in list(self._running):
            for job in running.jobs:
                if not job.settled and now >= job.deadline:
                    job.settle(DeadlineExceeded("the model did not answer in time"), 0.0)
            if now >= running.last_deadline + HANG_GRACE_SECONDS:
                log.error("a call of the model never returned; its thread is given up")
                self._running.discard(running)
                self._on_hang()
                self._dispatch()
        if self._queue or self._running:
            self._loop.call_later(SWEEP_SECONDS, self._sweep)
        else:
            self._sweeping = False
