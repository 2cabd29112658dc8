"""A queue of keys: each once, one worker for a key at a time, failures retried with backoff."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from local_cluster.client.errors import ApiError

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)


class WorkQueue(Generic[K]):
    """Keys waiting for work, as client-go's rate-limited work queue.

    A key added while it waits is not added twice; a key added while it is worked on is worked on
    once more afterwards.

    Args:
        name: for log lines.
        base_delay_seconds: wait after the first failure of a key; doubles with each further one.
        max_delay_seconds: the longest wait after a failure.
    """

    def __init__(
        self, name: str, *, base_delay_seconds: float = 0.01, max_delay_seconds: float = 30.0
    ) -> None:
        self.name = name
        self._base = base_delay_seconds
        self._max = max_delay_seconds
        self._waiting: deque[K] = deque()
        self._dirty: set[K] = set()
        self._active: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._ready = asyncio.Semaphore(0)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is worked on; delayed keys do not count."""
        return not self._dirty and not self._active

    def add(self, key: K) -> None:
        """Queue a key now."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._active:
            self._waiting.append(key)
            self._ready.release()

    def add_after(self, key: K, seconds: float) -> None:
        """Queue a key after a while; of several delays of one key the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._fire, key)

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def add_rate_limited(self, key: K) -> float:
        """Queue a key after its backoff, which grows with each call until ``forget``.

        Returns:
            The delay in seconds.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._max, self._base * 2.0 ** min(failures, 30)) * random.uniform(0.9, 1.1)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """Let a key's backoff start from the beginning."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """Take the next key; ``done`` must follow."""
        await self._ready.acquire()
        key = self._waiting.popleft()
        self._dirty.discard(key)
        self._active.add(key)
        return key

    def done(self, key: K) -> None:
        """The work on a key ended, well or not."""
        self._active.discard(key)
        if key in self._dirty:
            self._waiting.append(key)
            self._ready.release()

    async def run(
        self, reconcile: Callable[[K], Awaitable[float | None]], *, workers: int = 4
    ) -> None:
        """Work on keys until cancelled.

        Args:
            reconcile: called with one key. It returns None, or the seconds after which the key
                shall be looked at again. When it raises, the key is retried with backoff.
            workers: keys worked on at a time.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(workers):
                    group.create_task(self._work(reconcile), name=f"{self.name}-{number}")
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _work(self, reconcile: Callable[[K], Awaitable[float | None]]) -> None:
        while True:
            key = await self.get()
            try:
                again = await reconcile(key)
            except ApiError as err:
                delay = self.add_rate_limited(key)
                # Conflicts are weather; anything else somebody may want to read.
                level = logging.DEBUG if err.status in (0, 404, 409, 429) else logging.WARNING
                log.log(level, "%s %s: %s; again in %.2f s", self.name, key, err, delay)
            except Exception:
                delay = self.add_rate_limited(key)
                log.exception("%s %s failed; again in %.2f s", self.name, key, delay)
            else:
                self.forget(key)
                if again is not None:
                    self.add_after(key, again)
            finally:
                self.done(key)
