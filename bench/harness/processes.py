"""Server processes: start one on a free loopback port, read its CPU time and memory, stop all of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_SECONDS = 10.0
_IDLE_SECONDS = 0.3


class ServerError(Exception):
    """A server ended, or never answered; the message has the end of its log."""


def find_free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass(slots=True)
class ServerProcess:
    """A started server with all its descendants.

    Attributes:
        process: the one that was started, leader of its own process group.
        log_path: its stdout and stderr.
        started: `time.perf_counter()` just before the start.
    """

    process: subprocess.Popen[bytes]
    log_path: Path
    started: float

    def tree(self) -> list[psutil.Process]:
        """The process and its descendants that are alive."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> dict[int, float]:
        """User and system time of each process of the tree so far, by process id."""
        seconds = {}
        for each in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = each.cpu_times()
                seconds[each.pid] = times.user + times.system
        return seconds

    def wait_until_idle(self, limit_seconds: float = 10.0) -> None:
        """Wait until the tree uses next to no CPU, as it does once everything that it was asked is computed."""
        started = time.perf_counter()
        before = sum(self.cpu_seconds().values())
        while time.perf_counter() - started < limit_seconds:
            time.sleep(_IDLE_SECONDS)
            now = sum(self.cpu_seconds().values())
            if now - before < 0.2 * _IDLE_SECONDS:
                return
            before = now

    def pss_bytes(self) -> int:
        """Memory of the tree: every page counted once, shared ones split between those that share them."""
        total = 0
        for each in self.tree():
            # A process that ends meanwhile counts as nothing.
            with contextlib.suppress(OSError, ValueError):
                for line in Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total

    def check_alive(self) -> None:
        """Look whether the server still runs.

        Raises:
            ServerError: it ended.
        """
        code = self.process.poll()
        if code is not None:
            raise ServerError(f"the server ended with code {code}: {self.log_tail()}")

    def log_tail(self, characters: int = 600) -> str:
        """The end of its log, on one line."""
        text = self.log_path.read_text(errors="replace")[-characters:]
        return " | ".join(line.strip() for line in text.splitlines() if line.strip())

    def stop(self) -> None:
        """End the whole tree: SIGTERM first, SIGKILL for what is left."""
        everyone = self.tree()
        if self.process.poll() is None:
            self.process.terminate()
        _, alive = psutil.wait_procs(everyone, timeout=STOP_SECONDS)
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log_path: Path, folder: Path
) -> Iterator[ServerProcess]:
    """Run a server for the length of a `with` block.

    Args:
        command: program and arguments.
        environment: complete; nothing is inherited.
        log_path: where its output goes.
        folder: its working directory.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
        )
    server = ServerProcess(process, log_path, started)
    try:
        yield server
    finally:
        server.stop()
