"""Containers as processes: starting, watching, signalling and finding them again.

Every attempt to run a container has its files in the container's folder: ``N.spec.json``,
``N.log``, ``N.run.json`` (process ids), ``N.termination`` and ``N.exit.json``. They are the whole
memory of the runtime, so a restarted node agent goes on where the old one stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster.node.shim import process_start_ticks, write_json

_SHIM = Path(__file__).with_name("shim.py")
_MAX_MESSAGE_BYTES = 4096
_MAX_LOG_MESSAGE_BYTES = 2048
_MAX_LOG_MESSAGE_LINES = 80
_ADOPTED_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Exit:
    """How one attempt to run a container ended.

    Args:
        exit_code: as container runtimes report it, 128 + signal for a death by signal.
        signal: the signal, 0 for none.
        reason: ``Completed``, ``Error``, ``OOMKilled``, ``StartError`` or the like.
        message: the termination message.
        started_ns: begin, nanoseconds since the epoch, 0 when it never began.
        finished_ns: end, nanoseconds since the epoch.
    """

    exit_code: int
    signal: int
    reason: str
    message: str
    started_ns: int
    finished_ns: int


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Everything a container process needs.

    Args:
        argv: the command, already expanded.
        env: its whole environment.
        cwd: its working folder.
        fallback_to_logs: the end of the log is the message of a failure that left none.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    fallback_to_logs: bool = False


class Attempt:
    """One run of one container; its number counts the container's starts from 0.

    Args:
        folder: the container's folder.
        number: the attempt's number.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self._ready = -1
        self._shim: subprocess.Popen[bytes] | None = None

    def path(self, suffix: str) -> Path:
        """One of the attempt's files."""
        return self.folder / f"{self.number}.{suffix}"

    @property
    def log(self) -> Path:
        """The log in CRI format."""
        return self.path("log")

    @property
    def termination(self) -> Path:
        """Where the container leaves its last words."""
        return self.path("termination")

    def launch(self, spec: LaunchSpec) -> None:
        """Start the supervisor, which starts the container."""
        self.termination.touch()
        self.log.touch()
        spec_path = self.path("spec.json")
        self._ready, ready_w = os.pipe()
        content = {
            "argv": list(spec.argv),
            "env": dict(spec.env),
            "cwd": spec.cwd,
            "log": str(self.log),
            "run": str(self.path("run.json")),
            "exit": str(self.path("exit.json")),
            "fallbackToLogs": spec.fallback_to_logs,
            "ready": ready_w,
        }
        # The environment holds secrets.
        spec_path.touch(mode=0o600)
        spec_path.write_text(json.dumps(content), encoding="utf-8")
        try:
            with self.path("shim.log").open("ab") as errors:
                self._shim = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_SHIM), str(spec_path)],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                    cwd="/",
                    start_new_session=True,
                    pass_fds=(ready_w,),
                )
        finally:
            os.close(ready_w)

    def read_run(self) -> dict[str, Any] | None:
        """The process ids, None while the container has not begun."""
        return _read_json(self.path("run.json"))

    def read_spec(self) -> dict[str, Any] | None:
        """What the container was started with."""
        return _read_json(self.path("spec.json"))

    def is_alive(self) -> bool:
        """Whether the supervisor of this attempt still runs."""
        if self._shim is not None:
            return self._shim.poll() is None
        run = self.read_run()
        return run is not None and _is_process(run["shim"], run["shimStart"])

    async def wait_started(self) -> bool:
        """Wait until the container's process began.

        Returns:
            False when it ended or could not be started.
        """
        if self._ready >= 0:
            try:
                await _wait_readable(self._ready)
            finally:
                os.close(self._ready)
                self._ready = -1
        return self.path("run.json").exists()

    async def wait_ended(self) -> None:
        """Wait until the supervisor ended, and with it the container."""
        if self._shim is not None:
            pid = self._shim.pid
        else:
            run = self.read_run()
            if run is None or not _is_process(run["shim"], run["shimStart"]):
                return
            pid = int(run["shim"])
        if self._shim is not None and self._shim.returncode is not None:
            return
        await _wait_pid(pid, self.is_alive)
        if self._shim is not None:
            self._shim.wait()

    def leave(self) -> None:
        """Let the container run on without this process; a later one finds it by its files."""
        if self._shim is not None and self._shim.poll() is None:
            self._shim.returncode = 0  # else subprocess complains that nobody waited for it
            self._shim = None

    def terminate(self) -> None:
        """Send SIGTERM to the container's first process."""
        self._signal_shim(signal.SIGTERM)

    def kill(self, *, reason: str | None = None) -> None:
        """Kill the container and all its descendants.

        Args:
            reason: what the container status shall say, for example ``OOMKilled``.
        """
        if reason:
            self.path("reason").write_text(reason, encoding="utf-8")
        self._signal_shim(signal.SIGQUIT)

    def _signal_shim(self, number: signal.Signals) -> None:
        run = self.read_run()
        if run is not None and _is_process(run["shim"], run["shimStart"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(run["shim"], number)
        elif self._shim is not None and self._shim.poll() is None:
            self._shim.kill()

    def read_exit(self) -> Exit | None:
        """How the attempt ended, None while it runs."""
        if self.is_alive():
            return None
        run = self.read_run() or {}
        record = _read_json(self.path("exit.json"))
        spec = self.read_spec() or {}
        started_ns = int(run.get("startedAt", 0))
        if record is None:
            finished = self.path("run.json") if run else self.path("spec.json")
            stamp = finished.stat().st_mtime_ns if finished.exists() else 0
            # The supervisor was killed, and the container with it.
            return Exit(137, 9, self._reason() or "Error", self._message(), started_ns, stamp)
        if "startError" in record:
            return Exit(
                128, 0, "StartError", _start_error(record, spec), 0, _mtime(self.path("exit.json"))
            )
        code = int(record["exitCode"])
        message = self._message()
        if not message and code and spec.get("fallbackToLogs"):
            message = read_log_tail(self.log)
        return Exit(
            code,
            int(record.get("signal", 0)),
            self._reason() or ("Completed" if code == 0 else "Error"),
            message,
            started_ns,
            int(record["finishedAt"]),
        )

    def _reason(self) -> str:
        try:
            return self.path("reason").read_text(encoding="utf-8")
        except OSError:
            return ""

    def _message(self) -> str:
        try:
            with self.termination.open("rb") as file:
                return file.read(_MAX_MESSAGE_BYTES).decode(errors="replace")
        except OSError:
            return ""


def find_attempts(folder: Path) -> list[Attempt]:
    """The attempts that a container's folder knows of, the oldest first."""
    numbers = sorted(int(path.name.partition(".")[0]) for path in folder.glob("*.spec.json"))
    return [Attempt(folder, number) for number in numbers]


def remove_old_attempts(folder: Path, newest: int) -> None:
    """Keep the files of the newest attempt and the one before, as the kubelet does."""
    for path in folder.iterdir():
        number = path.name.partition(".")[0]
        if number.isdigit() and int(number) < newest - 1:
            path.unlink(missing_ok=True)


def read_log_tail(log: Path) -> str:
    """The end of a log as a termination message: at most 2048 bytes and 80 lines."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4 * _MAX_LOG_MESSAGE_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    texts = [line.split(" ", 3)[3] for line in lines if line.count(" ") >= 3]
    text = "\n".join(texts[-_MAX_LOG_MESSAGE_LINES:]) + "\n" if texts else ""
    return text.encode()[-_MAX_LOG_MESSAGE_BYTES:].decode(errors="replace")


def _start_error(record: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    program = (spec.get("argv") or [""])[0]
    if record.get("startErrorKind") == "PermissionError":
        why = f'exec: "{program}": permission denied'
    elif record.get("startErrorKind") == "FileNotFoundError":
        why = (
            f'exec: "{program}": stat {program}: no such file or directory'
            if "/" in program
            else f'exec: "{program}": executable file not found in $PATH'
        )
    else:
        why = f'exec: "{program}": {record["startError"]}'
    return (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: "
        f"runc create failed: unable to start container process: error during container init: {why}"
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content


def _mtime(path: Path) -> int:
    return path.stat().st_mtime_ns


def _is_process(pid: int, start_ticks: int) -> bool:
    try:
        if process_start_ticks(pid) != start_ticks:
            return False
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


async def _wait_pid(pid: int, is_alive: Callable[[], bool]) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError as err:
        if err.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        # A kernel without pidfds sends no news of processes that are not our children.
        while is_alive():  # noqa: ASYNC110 - see above
            await asyncio.sleep(_ADOPTED_POLL_SECONDS)
        return
    try:
        await _wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def _wait_readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def mark_readable() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(fd, mark_readable)
    try:
        await readable
    finally:
        loop.remove_reader(fd)


async def run_command(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: str, timeout_seconds: float
) -> tuple[int, str]:
    """Run a command beside a container: exec probes and hooks.

    Returns:
        The exit code (-1 after the timeout) and what it printed.

    Raises:
        OSError: the command cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(env),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout_seconds)
    except TimeoutError:
        return -1, f'command timed out: "{" ".join(argv)}" timed out after {timeout_seconds:g}s'
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert process.returncode is not None
    return process.returncode, output[:10240].decode(errors="replace")


__all__ = [
    "Attempt",
    "Exit",
    "LaunchSpec",
    "find_attempts",
    "read_log_tail",
    "remove_old_attempts",
    "run_command",
    "write_json",
]
