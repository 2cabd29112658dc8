"""The GPU, if there is one: its name, and how busy it is while something else is measured."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Utilisation:
    """Filled when the measured block ends; None without nvidia-smi."""

    percent: float | None = None


def find_gpu() -> str | None:
    """The first GPU's name and driver, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


@contextlib.contextmanager
def watch_utilisation() -> Iterator[Utilisation]:
    """Sample nvidia-smi's utilisation five times a second during a `with` block; the median of the middle part counts."""
    found = Utilisation()
    if shutil.which("nvidia-smi") is None:
        yield found
        return
    query = [
        "nvidia-smi",
        "--query-gpu=utilization.gpu",
        "--format=csv,noheader,nounits",
        "-lms",
        "200",
    ]
    process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield found
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=10)
        values = [float(line) for line in output.split() if line.replace(".", "").isdigit()]
        middle = values[len(values) // 5 : -(len(values) // 5) or None]
        if middle:
            found.percent = statistics.median(middle)
