"""One container's supervisor: starts its process, writes its log, records how it ended.

Runs as a program of its own, one for each container, so that containers and their exit codes
outlive a restart of the node agent. It imports the standard library only and little of that: it
is started with ``python -I -S``, which takes some 20 ms.

    python -I -S shim.py SPEC.json

The spec names argv, env, cwd and the files to write: the log (CRI format), ``run`` (process ids,
once the container runs) and ``exit`` (how it ended, written last). SIGTERM is passed on to the
container's first process; SIGQUIT kills the container with all its descendants.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any

MAX_LOG_BYTES = 10 * 1024 * 1024
MAX_LOG_FILES = 5
# containerd splits longer lines and marks all but the last piece as partial.
MAX_LINE_BYTES = 16 * 1024
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_DRAIN_SECONDS = 1.0


def format_timestamp(now_ns: int) -> str:
    """RFC 3339 in UTC with nine decimals, as container runtimes write it."""
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def split_lines(stream: str, pending: bytes, data: bytes, stamp: str) -> tuple[bytes, bytes]:
    """Cut output into CRI log lines.

    Args:
        stream: ``stdout`` or ``stderr``.
        pending: the unfinished line of the previous call.
        data: what the container wrote since.
        stamp: the timestamp of these lines.

    Returns:
        The log lines to append, and the line that is still unfinished.
    """
    head = f"{stamp} {stream} ".encode()
    *whole, rest = (pending + data).split(b"\n")
    out = []
    for line in whole:
        while len(line) > MAX_LINE_BYTES:
            out.append(head + b"P " + line[:MAX_LINE_BYTES] + b"\n")
            line = line[MAX_LINE_BYTES:]
        out.append(head + b"F " + line + b"\n")
    while len(rest) > MAX_LINE_BYTES:
        out.append(head + b"P " + rest[:MAX_LINE_BYTES] + b"\n")
        rest = rest[MAX_LINE_BYTES:]
    return b"".join(out), rest


def process_start_ticks(pid: int) -> int:
    """When a process began, in clock ticks since boot: tells a reused process id from the old one.

    Raises:
        OSError: there is no such process.
    """
    with open(f"/proc/{pid}/stat", "rb") as stat:
        # The command name in parentheses may hold anything, so count from its end.
        return int(stat.read().rpartition(b")")[2].split()[19])


class LogFile:
    """A log that is renamed with a timestamp when it is full; the oldest are removed."""

    def __init__(self, path: str, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append; a full disk loses lines but never stops the container."""
        if not data:
            return
        if self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        try:
            self._size += os.write(self._fd, data)
        except OSError:
            return

    def _rotate(self) -> None:
        os.close(self._fd)
        now_ns = time.time_ns()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_ns // 1_000_000_000))
        os.rename(self._path, f"{self._path}.{stamp}-{now_ns % 1_000_000_000:09d}")
        folder, name = os.path.split(self._path)
        rotated = sorted(entry for entry in os.listdir(folder) if entry.startswith(name + "."))
        for entry in rotated[: -(MAX_LOG_FILES - 1)]:
            os.unlink(os.path.join(folder, entry))
        self._open()


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write a file that readers see either not at all or whole."""
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.rename(temporary, path)


def _start(spec: dict[str, Any], libc: ctypes.CDLL) -> tuple[int, dict[int, str], str | None]:
    """Fork and exec; returns the process id, the pipes to read, and why exec failed."""
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    report_r, report_w = os.pipe()
    shim = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != shim:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out_w, 1)
            os.dup2(err_w, 2)
            os.umask(0o022)
            os.chdir(spec["cwd"])
            os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
        except BaseException as err:
            os.write(report_w, f"{type(err).__name__}|{err}".encode())
        os._exit(127)
    for fd in (out_w, err_w, report_w):
        os.close(fd)
    failure = os.read(report_r, 4096).decode(errors="replace")
    os.close(report_r)
    return pid, {out_r: "stdout", err_r: "stderr"}, failure or None


def _kill_descendants(first: int) -> None:
    """Kill the container's process group and whatever was left to this process to reap."""
    with contextlib.suppress(OSError):
        os.killpg(first, signal.SIGKILL)
    for _ in range(64):
        children: list[int] = []
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                children += [int(child) for child in file.read().split()]
        if not children:
            return
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
                if child != first:
                    os.waitpid(child, 0)
            except OSError:
                pass
        if children == [first]:
            return


def _reap(first: int) -> int | None:
    """Collect ended children; returns the wait status of the container's first process."""
    status = None
    while True:
        try:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == first:
            status = wait_status


def run(spec: dict[str, Any]) -> None:
    """Start the container of a spec and stay until it ended and its log is complete."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if "ready" in spec:
        os.set_inheritable(spec["ready"], False)
    log = LogFile(spec["log"], spec.get("maxLogBytes", MAX_LOG_BYTES))
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    os.set_blocking(wake_r, False)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, lambda number, _frame: asked.append(number))
    started_ns = time.time_ns()
    first, pipes, failure = _start(spec, libc)
    if failure:
        os.waitpid(first, 0)
        kind, _, message = failure.partition("|")
        write_json(spec["exit"], {"startError": message, "startErrorKind": kind, "exitCode": 128})
        return
    run_record = {
        "pid": first,
        "pidStart": process_start_ticks(first),
        "shim": os.getpid(),
        "shimStart": process_start_ticks(os.getpid()),
        "startedAt": started_ns,
    }
    write_json(spec["run"], run_record)
    if "ready" in spec:
        os.close(spec["ready"])  # the node agent waits for the other end
    poll = select.poll()
    poll.register(wake_r, select.POLLIN)
    for fd in pipes:
        poll.register(fd, select.POLLIN)
    pending = dict.fromkeys(pipes, b"")
    status: int | None = None
    finished_ns = 0
    deadline = 0.0
    while pipes or status is None:
        timeout_ms = None if status is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = poll.poll(timeout_ms)
        if status is not None and not ready:
            break  # something outside the container's tree holds the pipe open
        for fd, _ in ready:
            if fd == wake_r:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_r, 512)
                continue
            data = os.read(fd, 65536)
            stamp = format_timestamp(time.time_ns())
            lines, pending[fd] = split_lines(pipes[fd], pending[fd], data, stamp)
            log.write(lines)
            if not data:
                poll.unregister(fd)
                os.close(fd)
                stream = pipes.pop(fd)
                if pending[fd]:
                    log.write(f"{stamp} {stream} F ".encode() + pending[fd] + b"\n")
        while asked:
            request = asked.pop(0)
            if request == signal.SIGTERM and status is None:
                os.kill(first, signal.SIGTERM)
            elif request == signal.SIGQUIT:
                _kill_descendants(first)
        if status is None:
            status = _reap(first)
            if status is not None:
                finished_ns = time.time_ns()
                deadline = time.monotonic() + _DRAIN_SECONDS
                # As when the first process of a pid namespace ends: the rest goes with it.
                _kill_descendants(first)
    code = os.waitstatus_to_exitcode(status)
    write_json(
        spec["exit"],
        {
            **run_record,
            # Container runtimes report a death by signal as 128 + its number.
            "exitCode": code if code >= 0 else 128 - code,
            "signal": -code if code < 0 else 0,
            "finishedAt": finished_ns,
        },
    )


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as spec_file:
        run(json.load(spec_file))
