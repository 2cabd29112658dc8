"""The loader: a process with one thread and no event loop that loads the model once and forks the workers from it.

Workers share its memory, so N of them hold one copy of the model; and it goes on existing, so that a worker that died
is replaced in milliseconds, without another load. It does what the supervisor says, and ends when the supervisor does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from model_scorer.errors import LoadFailed, OutOfMemory, ScorerError
from model_scorer.logs import LineLogger
from model_scorer.runtimes.protocol import Runtime
from model_scorer.serve.messages import describe_error, receive, send
from model_scorer.settings import Settings

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1

RunWorker = Callable[[int, socket.socket, Runtime | None], None]


def run_loader(
    channel: socket.socket, settings: Settings, run_worker: RunWorker, *, load_here: bool
) -> NoReturn:
    """Load, say so, then fork a worker for each `spawn` message until the channel closes.

    Args:
        channel: to the supervisor.
        settings: of the scorer.
        run_worker: a worker's life: slot, its channel, the runtime or None when it must load for itself.
        load_here: load in this process; False for frameworks whose state does not survive a fork.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    redirect_prints()
    runtime: Runtime | None = None
    try:
        started = time.monotonic()
        if load_here:
            runtime = load_model(settings)  # None where it would not survive the fork
        # The server's modules too are imported once, before the fork.
        import model_scorer.serve.worker  # noqa: F401

        threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        if native := count_native_threads():
            threads.append(f"{native} of native code")
        gc.collect()
        gc.freeze()  # the workers' collections would touch, and so copy, every page of the model
        send(
            channel,
            {
                "kind": "loaded",
                "seconds": time.monotonic() - started,
                "threads": threads,
                "in_worker": load_here and runtime is None,
            },
        )
    except ScorerError as err:
        send(channel, describe_error(err))
        os._exit(1)
    _serve_spawns(channel, runtime, run_worker)
    os._exit(0)


def count_native_threads() -> int:
    """Threads of this process that are not Python's and would be missed in a fork.

    GNU's OpenMP keeps those of a parallel region for the thread that began it, and waits for them for ever in a fork of
    that thread. OpenBLAS ends its own at every fork and starts them anew: a fork for nothing tells the two apart.
    """
    if _count_tasks() <= threading.active_count():
        return 0
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return max(0, _count_tasks() - threading.active_count())


def _count_tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def load_model(settings: Settings, *, in_worker: bool = False) -> Runtime | None:
    """Load the model; whatever goes wrong becomes one of our errors, its traceback goes to the log.

    Args:
        settings: of the scorer.
        in_worker: this process will serve; else nothing is loaded that would not survive a fork.

    Returns:
        The runtime, or None when it must be loaded in the worker.
    """
    from model_scorer.runtimes.registry import must_load_in_worker, open_and_load

    try:
        if not in_worker and must_load_in_worker(settings):
            return None
        return open_and_load(settings)
    except ScorerError as err:
        if err.__cause__ is not None:
            log.error("%s", err.message, exc_info=err.__cause__)
        raise
    except MemoryError as err:
        raise OutOfMemory(
            "the model does not fit into memory", "raise spec.resources.limits.memory"
        ) from err
    except BaseException as err:
        log.exception("loading failed")
        raise LoadFailed(
            f"loading failed: {type(err).__name__}: {str(err)[:300]}", "see the pod's log"
        ) from err


def redirect_prints() -> None:
    """What scripts and libraries print becomes log lines."""
    sys.stdout = LineLogger(logging.getLogger("stdout"))
    sys.stderr = LineLogger(logging.getLogger("stderr"), logging.WARNING)


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends (prctl(2))."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve_spawns(channel: socket.socket, runtime: Runtime | None, run_worker: RunWorker) -> None:
    """Fork on demand and report deaths, until the supervisor is gone."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([channel.fileno(), wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 512)
        _report_deaths(channel, children)
        if channel.fileno() not in readable:
            continue
        received = receive(channel)
        if received is None:
            return
        message, descriptors = received
        if message["kind"] == "spawn":
            slot = int(message["slot"])
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (wake_read, wake_write):
                    os.close(fd)
                channel.close()
                _live(slot, descriptors[0], runtime, run_worker)
            for fd in descriptors:
                os.close(fd)
            children[pid] = slot
            send(channel, {"kind": "spawned", "slot": slot, "pid": pid})


def _live(slot: int, descriptor: int, runtime: Runtime | None, run_worker: RunWorker) -> NoReturn:
    """A worker's life, from the fork to its exit code."""
    code = 1
    try:
        die_with_parent()
        run_worker(slot, socket.socket(fileno=descriptor), runtime)
        code = 0
    except BaseException:
        log.exception("worker %d failed", slot)
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
        os._exit(code)


def _report_deaths(channel: socket.socket, children: dict[int, int]) -> None:
    while children:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        slot = children.pop(pid, None)
        if slot is not None:
            report: dict[str, Any] = {
                "kind": "exited",
                "slot": slot,
                "pid": pid,
                "code": os.waitstatus_to_exitcode(status),
            }
            with contextlib.suppress(OSError):
                send(channel, report)
