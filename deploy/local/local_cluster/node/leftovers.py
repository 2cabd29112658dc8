"""Ending containers whose node agent is gone. Needs no API and no event loop."""

from __future__ import annotations

import time
from pathlib import Path

from local_cluster.node.runtime import find_attempts

_WAIT_SECONDS = 5.0


def end_leftovers(pods_folder: Path) -> int:
    """Kill every container that still runs below a folder of pods, and wait until it is gone.

    Returns:
        How many there were.
    """
    alive = [
        attempt
        for container in pods_folder.glob("*/*/")
        for attempt in find_attempts(container)
        if attempt.is_alive()
    ]
    for attempt in alive:
        attempt.kill()
    deadline = time.monotonic() + _WAIT_SECONDS
    while any(attempt.is_alive() for attempt in alive) and time.monotonic() < deadline:
        time.sleep(0.01)  # the processes are nobody's children that could be waited for
    return len(alive)
