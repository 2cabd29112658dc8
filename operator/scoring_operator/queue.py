"""One queue of keys: each key is worked on by one worker at a time, with its own backoff and its own alarm."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque

from scoring_operator.api import Key

_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 60.0


class KeyQueue:
    """A queue that holds each key at most once.

    A key that is added while it is being worked on is handed out again afterwards, so that no change is missed and
    no key has two workers.
    """

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._busy: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._alarms: dict[Key, asyncio.TimerHandle] = {}
        self._added_at: dict[Key, float] = {}
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def is_idle(self) -> bool:
        """Nothing is waiting and nothing is being worked on; alarms do not count."""
        return not self._ready and not self._busy

    def add(self, key: Key) -> None:
        """Have a key worked on soon."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._added_at[key] = time.monotonic()
            self._ready.append(key)
            self._news.set()

    def add_after(self, key: Key, delay_seconds: float) -> None:
        """Have a key worked on later; replaces an earlier alarm of the same key."""
        self._cancel_alarm(key)
        loop = asyncio.get_running_loop()
        self._alarms[key] = loop.call_later(max(delay_seconds, 0), self._ring, key)

    async def get(self) -> tuple[Key, float]:
        """Wait for a key; the caller owes `done`.

        Returns:
            The key, and the seconds that it waited.
        """
        while not self._ready:
            self._news.clear()
            await self._news.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._busy.add(key)
        return key, time.monotonic() - self._added_at.pop(key)

    def done(self, key: Key) -> None:
        """The key's work is over; it is handed out again if it was added meanwhile."""
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def succeed(self, key: Key) -> None:
        """Forget the failures of a key."""
        self._failures.pop(key, None)
        self._cancel_alarm(key)

    def retry(self, key: Key, at_least_seconds: float = 0.0) -> float:
        """Have a failed key worked on again, later each time.

        Args:
            key: the key.
            at_least_seconds: what the server asked for.

        Returns:
            The seconds until then.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        wait = min(_FIRST_WAIT_SECONDS * float(1 << min(failures, 16)), _LONGEST_WAIT_SECONDS)
        # Jitter, so that keys that failed together do not come back together.
        wait = max(wait * (0.75 + random.random() / 2), at_least_seconds)
        self.add_after(key, wait)
        return wait

    def forget(self, key: Key) -> None:
        """Drop all memory of a key whose ScoringModel is gone."""
        self._failures.pop(key, None)
        self._cancel_alarm(key)

    def close(self) -> None:
        """Cancel all alarms."""
        for key in list(self._alarms):
            self._cancel_alarm(key)

    def _ring(self, key: Key) -> None:
        self._alarms.pop(key, None)
        self.add(key)

    def _cancel_alarm(self, key: Key) -> None:
        alarm = self._alarms.pop(key, None)
        if alarm:
            alarm.cancel()
