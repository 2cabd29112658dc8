"""One view of all servers, ours and the peers: how to start one with a model, and how to ask it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.environments import BENCH, Peer, Variant
from harness.forms import FORMS, AnswerError, Content, check_answer
from harness.load import Request, Response, send
from harness.processes import ServerError, ServerProcess, find_free_ports, running
from harness.statistics import OURS

LOGS = BENCH / ".logs"
WORKERS = 2
KEY = "bench-key-0123456789abcdef"
POLL_SECONDS = 0.02
OUR_ROUTES = {
    "score": ("/score", "plain"),
    "v1": ("/v1/models/model:predict", "v1"),
    "v2_json": ("/v2/models/model/infer", "v2_json"),
    "v2_binary": ("/v2/models/model/infer", "v2_binary"),
    "image": ("/score", "image"),
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server with a model to serve, ready to be started.

    Attributes:
        name: for tables.
        command: with `{port}` and further ports still to be filled in.
        environment: beside the common one.
        folder: working directory.
        routes: dialect → (path, form).
        headers: that every request needs.
        start_seconds: how long it may take to answer right.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    routes: Mapping[str, tuple[str, str]]
    headers: tuple[tuple[str, str], ...] = ()
    start_seconds: float = 60.0

    def requests(self, dialect: str, contents: Sequence[Content]) -> list[Request]:
        """One request for each content."""
        path, form = self.routes[dialect]
        return [FORMS[form].build(path, c).with_headers(self.headers) for c in contents]

    def parse(self, dialect: str, response: Response) -> Any:
        """The answer in a response."""
        return FORMS[self.routes[dialect][1]].parse(response)


def our_server(
    model_folder: Path,
    framework: str,
    dialects: Sequence[str],
    *,
    workers: int = WORKERS,
    settings: Mapping[str, str] | None = None,
    name: str = OURS,
) -> Server:
    """The scorer as the operator starts it: keys, validation, metrics, every request in the access log.

    Args:
        model_folder: what `fetch` would have filled.
        framework: of the ScoringModel.
        dialects: of OUR_ROUTES, that will be asked.
        workers: worker processes.
        settings: further `SCORER_…` variables.
        name: for tables.
    """
    keys = LOGS / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    (keys / "primary").write_text(KEY)
    environment = {
        "SCORER_MODEL_DIR": str(model_folder),
        "SCORER_FRAMEWORK": framework,
        "SCORER_KEYS_DIR": str(keys),
        "SCORER_WORKERS": str(workers),
        "SCORER_ADDRESS": "127.0.0.1",
        "SCORER_PORT": "{port}",
        "SCORER_PROBE_PORT": "{port2}",
        "SCORER_TERMINATION_LOG": str(LOGS / "termination"),
        "SCORER_DRAIN_SECONDS": "0",
        **(settings or {}),
    }
    return Server(
        name,
        (sys.executable, "-m", "model_scorer", "serve"),
        environment,
        BENCH,
        {dialect: OUR_ROUTES[dialect] for dialect in dialects},
        (("Authorization", f"Bearer {KEY}"),),
        start_seconds=120.0,
    )


def peer_server(peer: Peer, variant: Variant, binaries: Path, workload: str, model: Path) -> Server:
    """A peer in one of its configurations."""
    fill = {"{bin}": str(binaries), "{workers}": str(WORKERS), "{folder}": str(peer.folder)}

    def filled(text: str) -> str:
        for mark, value in fill.items():
            text = text.replace(mark, value)
        return text

    environment = {
        "BENCH_WORKLOAD": workload,
        "BENCH_MODEL_DIR": str(model),
        "BENCH_WORKERS": str(WORKERS),
        # One numeric thread a worker: the two workers are the parallelism.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(BENCH),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        **{name: filled(value) for name, value in variant.environment.items()},
    }
    return Server(
        f"{peer.title}, {variant.name}" if variant.name else peer.title,
        tuple(filled(part) for part in variant.command),
        environment,
        peer.folder,
        peer.routes[workload],
        start_seconds=peer.start_seconds,
    )


@dataclass(frozen=True, slots=True)
class Started:
    """A server that has answered right.

    Attributes:
        server: what was started.
        process: its processes.
        port: where it listens.
        ready_seconds: from the start to its first right answer.
    """

    server: Server
    process: ServerProcess
    port: int
    ready_seconds: float


@contextlib.contextmanager
def started(
    server: Server, dialect: str, content: Content, expected: Any, tolerance: float
) -> Iterator[Started]:
    """Start a server and wait until it answers one request right.

    Raises:
        ServerError: it ended, answered wrong, or was too slow; the message has the end of its log.
    """
    ports = find_free_ports(4)
    marks = {"{port}": ports[0], "{port2}": ports[1], "{port3}": ports[2], "{port4}": ports[3]}

    def filled(text: str) -> str:
        for mark, port in marks.items():
            text = text.replace(mark, str(port))
        return text

    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/tmp"),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        **{name: filled(value) for name, value in server.environment.items()},
        "BENCH_PORT": str(ports[0]),
    }
    command = [filled(part) for part in server.command]
    log_path = LOGS / f"{server.name.replace(' ', '_').replace('/', '_')}.log"
    with running(command, environment, log_path, server.folder) as process:
        request = server.requests(dialect, [content])[0]
        ready = _wait_until_right(server, process, ports[0], request, dialect, expected, tolerance)
        yield Started(server, process, ports[0], ready)


def _wait_until_right(
    server: Server,
    process: ServerProcess,
    port: int,
    request: Request,
    dialect: str,
    expected: Any,
    tolerance: float,
) -> float:
    last = "no connection"
    while time.perf_counter() - process.started < server.start_seconds:
        process.check_alive()
        try:
            response = send(port, request)
            if response.status == 200:
                ready = time.perf_counter() - process.started
                check_answer(server.parse(dialect, response), expected, tolerance)
                return ready
            last = f"status {response.status}: {response.body[:200]!r}"
        except AnswerError as err:
            raise ServerError(str(err)) from None
        except (OSError, ValueError, KeyError) as err:
            last = f"{type(err).__name__}: {err}"
        except Exception as err:  # http.client's own errors while a server comes up
            last = f"{type(err).__name__}: {err}"
        time.sleep(POLL_SECONDS)
    raise ServerError(
        f"no right answer in {server.start_seconds:.0f} s, last {last}; {process.log_tail()}"
    )


def check_all(
    running_server: Started,
    dialect: str,
    contents: Sequence[Content],
    expected: Sequence[Any],
    tolerance: float,
    say: Callable[[str], None],
) -> None:
    """Send every request once and compare every answer.

    Raises:
        ServerError: one of them is wrong.
    """
    server = running_server.server
    for request, answer in zip(server.requests(dialect, contents), expected, strict=True):
        response = send(running_server.port, request)
        if response.status != 200:
            raise ServerError(
                f"{dialect}: status {response.status}: {response.body[:200]!r}; "
                f"{running_server.process.log_tail(300)}"
            )
        try:
            check_answer(server.parse(dialect, response), answer, tolerance)
        except (AnswerError, KeyError, ValueError) as err:
            raise ServerError(f"{dialect}: {err}") from None
    say(f"    {dialect}: {len(contents)} answers checked")
