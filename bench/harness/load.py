"""Load by wrk, and single requests by http.client: what is sent is made once, as complete HTTP/1.1 requests."""

from __future__ import annotations

import http.client
import json
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.processes import ServerProcess

_SCRIPT = Path(__file__).with_name("rotate.lua")
WRK_MISSING = (
    "wrk is not on the PATH: `apt-get install wrk` (Debian, Ubuntu), or build it from its source"
)


class LoadGeneratorError(Exception):
    """wrk is missing."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, the same for wrk and for the check before it.

    Attributes:
        path: with query, if any.
        body: complete.
        headers: all but Host and Content-Length.
        method: of HTTP.
    """

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    method: str = "POST"

    def with_headers(self, headers: Sequence[tuple[str, str]]) -> Request:
        """The same with further headers."""
        return Request(self.path, self.body, (*self.headers, *headers), self.method)

    def render(self, port: int) -> bytes:
        """The bytes on the wire."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode("ascii") + self.body


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured cell of one round.

    Attributes:
        rate: right answers a second.
        p50_ms, p99_ms: latency.
        errors: answers of 400 and above, broken connections, time-outs.
        cpu: seconds of CPU for each second and process of the server, busiest first.
        generator_cpu: of the load generator, which shares the machine.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int = 0
    cpu: tuple[float, ...] = field(default=())
    generator_cpu: float = 0.0


def send(port: int, request: Request, timeout_seconds: float = 30.0) -> Response:
    """Send one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_seconds)
    try:
        connection.request(request.method, request.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, headers, answer.read())
    finally:
        connection.close()


def find_wrk() -> str:
    """The path of wrk.

    Raises:
        LoadGeneratorError: it is not installed; the message says how to get it.
    """
    path = shutil.which("wrk")
    if path is None:
        raise LoadGeneratorError(WRK_MISSING)
    return path


def write_requests(path: Path, requests: Sequence[Request], port: int) -> None:
    """Write the file that rotate.lua reads."""
    with path.open("wb") as file:
        for request in requests:
            wire = request.render(port)
            file.write(f"{len(wire)}\n".encode() + wire)


def derive_steady_rate(times: Sequence[float], clients: int, seconds: float) -> float | None:
    """Answers a second between bursts, without the time before the first answers and after the last.

    A server that scores 32 requests in one call answers in bursts. Whoever divides the answers by the whole duration
    counts the calls at its end as if nothing had been done: several per cent where a call takes long.

    Args:
        times: of the answers in seconds, ascending.
        clients: connections; the first answers of all of them are left out, if enough is left.
        seconds: that the load lasted.

    Returns:
        None when what is left spans less than half of that: a few answers say nothing about a rate.
    """
    first = min(clients, len(times) // 3)
    # On to the end of the burst: answers of one call come within milliseconds.
    while first < len(times) and first > 0 and times[first] - times[first - 1] < 0.005:
        first += 1
    if first == 0 or len(times) - first < 2:
        return None
    span = times[-1] - times[first - 1]
    return (len(times) - first) / span if span >= seconds / 2 else None


def run_wrk(
    requests_path: Path,
    port: int,
    *,
    clients: int,
    seconds: float,
    server: ServerProcess,
    steady: bool = False,
) -> Sample:
    """A closed loop of some clients with keep-alive for some seconds.

    Args:
        requests_path: from `write_requests`.
        port: on 127.0.0.1.
        clients: connections, each with one request at a time.
        seconds: whole seconds, at least 1: wrk knows no fractions.
        server: whose CPU time is read.
        steady: for models slower than milliseconds: take the rate from the answers' times, see `derive_steady_rate`.
    """
    times_path = requests_path.with_suffix(".times")
    command = [
        find_wrk(),
        "-t1",
        f"-c{clients}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "20s",
    ]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}", "--", str(requests_path)]
    if steady:
        command.append(str(times_path))
    before, generated = server.cpu_seconds(), _cpu_of_ended_children()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    after, generated = server.cpu_seconds(), _cpu_of_ended_children() - generated
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk failed: {done.stdout[-300:]} {done.stderr[-300:]}")
    result = json.loads(lines[-1].removeprefix("RESULT "))
    elapsed = result["seconds"] or 1.0
    used = sorted(((after[pid] - before.get(pid, 0.0)) / elapsed for pid in after), reverse=True)
    errors = result["status_errors"] + result["socket_errors"] + result["timeouts"]
    good = max(0, result["requests"] - result["status_errors"])
    rate = good / elapsed
    if steady and not errors:
        times = [float(line) for line in times_path.read_text().split()]
        rate = derive_steady_rate(times, clients, elapsed) or rate
    return Sample(
        rate, result["p50_ms"], result["p99_ms"], errors, tuple(used), generated / elapsed
    )


def _cpu_of_ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
