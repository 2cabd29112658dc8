"""What the demo prints while it works, and how it fails."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class DemoError(Exception):
    """A stage of the demo failed; the message says which and what to look at."""


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Print a stage when it begins and how long it took when it ends."""
    live = sys.stdout.isatty()
    print(f"▸ {title} …", end="" if live else "\n", flush=True)
    began = time.monotonic()
    yield
    took = f"{time.monotonic() - began:.1f} s"
    print(f"\r✓ {title} ({took})" + " " * 8 if live else f"✓ {title} ({took})", flush=True)


def run(command: list[str], what: str) -> str:
    """Run a command and return its output; a failure becomes a DemoError with the command's own words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise DemoError(f"{what} failed: {' '.join(command)}\n{words}")
    return done.stdout
