"""Running the model: failures kept apart, on a thread that takes one call after the other and wakes in microseconds."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from model_scorer.errors import ModelFailed
from model_scorer.runtimes.protocol import Output, Prepared

Execute = Callable[[Sequence[Prepared]], Sequence[Output | Exception]]

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


def execute_isolated(execute: Execute, batch: Sequence[Prepared]) -> Sequence[Output | Exception]:
    """Run the model; when it fails for a whole batch, run it for each call alone, so that only the guilty fail.

    Returns:
        One outcome for each call, in order; never raises.
    """
    try:
        outcomes = execute(batch)
        if len(outcomes) == len(batch):
            return outcomes
        failure: Exception = ModelFailed(
            f"the runtime gave {len(outcomes)} results for {len(batch)} calls"
        )
    except Exception as err:
        failure = err
    except (SystemExit, KeyboardInterrupt) as err:
        failure = ModelFailed(f"the model raised {type(err).__name__}")
    if len(batch) == 1:
        return [failure]
    return [execute_isolated(execute, [item])[0] for item in batch]
