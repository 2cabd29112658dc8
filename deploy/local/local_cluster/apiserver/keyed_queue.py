"""A queue of keys for one worker: a key that waits twice is worked on once, failures are retried later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
_BURST = 50
"""Keys worked on before requests get their turn again."""


class KeyedQueue(Generic[Key]):
    """Runs `process` for each key that was added, one at a time.

    Args:
        name: for the log.
        process: must not wait; what it raises is logged and the key tried again.
    """

    def __init__(self, name: str, process: Callable[[Key], None]) -> None:
        self._name = name
        self._process = process
        self._keys: dict[Key, None] = {}
        self._wake = asyncio.Event()

    def add(self, key: Key) -> None:
        """Ask for a key to be worked on."""
        self._keys[key] = None
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            for _ in range(min(_BURST, len(self._keys))):
                key = next(iter(self._keys))
                del self._keys[key]
                try:
                    self._process(key)
                except Exception:
                    logger.exception("%s failed for %s and will be tried again", self._name, key)
                    loop.call_later(_RETRY_SECONDS, self.add, key)
            if not self._keys:
                self._wake.clear()
            await asyncio.sleep(0)
