"""A thread that runs the model: one call after the other, handed over by a queue that wakes it in microseconds."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from queue import SimpleQueue

_numbers = itertools.count(1)


class ComputeThread:
    """A daemon thread that runs what is submitted, in order."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name=f"compute-{next(_numbers)}", daemon=True
        )
        self._thread.start()

    def submit(self, work: Callable[[], None]) -> None:
        """Run a function that never raises."""
        self._work.put(work)

    def stop(self) -> None:
        """End the thread after what was submitted."""
        self._work.put(None)

    def join(self, timeout_seconds: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
