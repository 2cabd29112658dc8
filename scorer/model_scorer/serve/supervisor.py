"""The supervisor: the process that Kubernetes sees. It never runs a model, so it always answers.

    supervisor ── probes and metrics, accepts connections, watches, ends
        └── loader ── loads the model once (loader.py)
              ├── worker 0 ── HTTP and the model on the connections it is handed (worker.py)
              └── worker 1 …

Each new connection goes to the worker with the fewest, counted in shared memory: processes that accept from one socket
leave half of the cores idle whenever the kernel wakes the same one twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import time
from typing import Any

from model_scorer.errors import LoadFailed, OutOfMemory, ScorerError
from model_scorer.serve.cpus import count_cpus, derive_workers, limit_threads
from model_scorer.serve.doorman import Doorman
from model_scorer.serve.listening import bind, raise_descriptor_limit
from model_scorer.serve.loader import run_loader
from model_scorer.serve.messages import error_of, make_pair, receive, send
from model_scorer.serve.shared import (
    ASSIGNED,
    CLOSED,
    EXPECTED,
    HEARTBEAT_MS,
    IN_FLIGHT,
    PID,
    QUEUED,
    STATE,
    STATE_DOWN,
    SharedStats,
)
from model_scorer.settings import Settings

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
# A worker's loop that was silent for this much longer than a request may take is stuck in the model.
HEARTBEAT_GRACE_SECONDS = 10.0
RESPAWN_SECONDS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
# A worker that served this long earned a replacement without delay.
STABLE_SECONDS = 30.0


def run_supervisor(settings: Settings) -> int:
    """Serve until SIGTERM.

    Returns:
        The exit code.

    Raises:
        ScorerError: the model could not be brought to readiness.
    """
    started = time.monotonic()
    raise_descriptor_limit()
    cpus = count_cpus()
    workers = derive_workers(settings.workers, cpus, settings.device)
    limit_threads(workers, cpus)
    # What runs in one process computes on as many cores as there would be workers.
    cores = settings.workers or derive_workers(0, cpus, "cpu")
    settings = dataclasses.replace(settings, workers=cores)
    scoring = bind(settings.address, settings.port)
    probing = bind(settings.address, settings.probe_port)
    stats = SharedStats(workers)
    supervisor = Supervisor(settings, workers, stats, scoring, probing, started)
    # Forked before anything else is imported, so that loading begins at once and runs beside our own imports.
    supervisor.fork_loader(load_here=True)
    return asyncio.run(supervisor.run())


class _Worker:
    """The supervisor's notes on one slot."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.pid = 0
        self.channel: socket.socket | None = None
        self.ready = False
        self.ready_at = 0.0
        self.retiring = False
        self.failures = 0


class Supervisor:
    """See the module; `fork_loader` first, then `run`.

    Args:
        settings: of the scorer.
        workers: how many.
        stats: memory shared with them.
        scoring: bound socket of the scoring port.
        probing: bound socket of the probe port.
        started: monotonic time of the process's start.
    """

    def __init__(
        self,
        settings: Settings,
        workers: int,
        stats: SharedStats,
        scoring: socket.socket,
        probing: socket.socket,
        started: float,
    ) -> None:
        self._settings = settings
        self._stats = stats
        self._scoring = scoring
        self._probing = probing
        self._started = started
        self._workers = [_Worker(slot) for slot in range(workers)]
        # Replaced workers that still answer what they have.
        self._retired: dict[int, socket.socket] = {}
        self._doorman = Doorman(scoring, stats, self._find_takers)
        self._loader: socket.socket | None = None
        self._loader_pid = 0
        self._load_here = True
        self._model_ready = False
        self._draining = False
        self._keys_problem = ""
        self._last_keys_look = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    def fork_loader(self, *, load_here: bool) -> None:
        """Start the process that loads the model; must not be called with threads about."""
        ours, theirs = make_pair()
        self._load_here = load_here
        settings, stats, count = self._settings, self._stats, len(self._workers)

        def worker_life(slot: int, channel: socket.socket, runtime: Any) -> None:
            from model_scorer.serve.worker import run_worker

            run_worker(
                slot,
                channel,
                runtime,
                settings=settings,
                # What cannot be forked is loaded by the one worker that there is.
                workers=count if runtime is not None or not load_here else 1,
                all_stats=stats,
            )

        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ours.close()
                self._scoring.close()
                self._probing.close()
                run_loader(theirs, settings, worker_life, load_here=load_here)
            except BaseException:
                log.exception("the loader failed")
            finally:
                os._exit(code)
        theirs.close()
        ours.setblocking(False)
        self._loader, self._loader_pid = ours, pid

    async def run(self) -> int:
        """Serve; returns the exit code."""
        from tornado.httpserver import HTTPServer

        from model_scorer.serve.metrics import ModelFacts, ScorerCollector
        from model_scorer.serve.probes import build_probes

        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._facts = ModelFacts(
            self._settings.model_name, self._settings.revision, self._settings.framework
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_stop_signal)
        probes = HTTPServer(
            build_probes(
                live=lambda: "",
                ready=self.find_unready,
                started=lambda: "" if self._model_ready else "the model is not loaded yet",
                collector=ScorerCollector(self._stats, self._facts),
            ),
            max_body_size=1024,
            idle_connection_timeout=60,
        )
        self._probing.listen(128)
        probes.add_socket(self._probing)
        log.info(
            "starting",
            extra={
                "address": self._settings.address,
                "port": self._scoring.getsockname()[1],
                "probe_port": self._probing.getsockname()[1],
                "workers": len(self._workers),
                "framework": self._settings.framework,
                "model": self._settings.model_name,
            },
        )
        assert self._loader is not None
        self._loop.add_reader(self._loader.fileno(), self._read_loader)
        self._tick()
        try:
            return await self._ended
        finally:
            probes.stop()
            self._kill_all()

    def find_unready(self) -> str:
        """What keeps the pod from being ready; empty when nothing does."""
        if self._draining:
            return "shutting down"
        if not self._model_ready:
            return "the model is not loaded yet"
        if self._settings.auth_mode == "APIKey" and self._look_for_keys():
            return self._keys_problem
        if not any(worker.ready and not worker.retiring for worker in self._workers):
            return "no worker is alive; a replacement is starting"
        return ""

    def _look_for_keys(self) -> str:
        from model_scorer.serve.keys import KeyStore

        now = time.monotonic()
        if now - self._last_keys_look > 0.5:
            self._last_keys_look = now
            if not hasattr(self, "_keys"):
                self._keys = KeyStore(self._settings.keys_dir)
            self._keys.refresh()
            self._keys_problem = self._keys.problem
        return self._keys_problem

    # ---------------------------------------------------------------------------------------- loader and workers

    def _read_loader(self) -> None:
        assert self._loader is not None
        while True:
            try:
                received = receive(self._loader)
            except BlockingIOError:
                return
            if received is None:
                self._loop.remove_reader(self._loader.fileno())
                self._on_loader_gone()
                return
            self._on_loader_message(received[0])

    def _on_loader_message(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "failed":
            self._fail(error_of(message))
        elif kind == "loaded":
            if message["in_worker"]:
                # A framework with threads of its own: one process, one copy of the model, all cores.
                del self._workers[1:]
            elif message["threads"] and self._load_here:
                self._load_again_in_workers(message["threads"])
                return
            self._facts.phases["load"] = message["seconds"]
            for worker in self._workers:
                self._spawn(worker)
        elif kind == "spawned":
            self._workers[message["slot"]].pid = message["pid"]
            self._stats.slots[message["slot"]].ints[PID] = message["pid"]
        elif kind == "exited":
            self._on_exit(message["slot"], message["pid"], message["code"])

    def _load_again_in_workers(self, threads: list[str]) -> None:
        """Threads do not survive a fork: what they do would never be done in the workers."""
        log.warning(
            "the model starts threads when it is loaded, so that each worker must load it for itself",
            extra={"threads": threads},
        )
        assert self._loader is not None
        self._loop.remove_reader(self._loader.fileno())
        self._loader.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._loader_pid, signal.SIGKILL)
        os.waitpid(self._loader_pid, 0)
        self.fork_loader(load_here=False)
        self._loop.add_reader(self._loader.fileno(), self._read_loader)

    def _on_loader_gone(self) -> None:
        """The loader ended without being told: while it loaded, or later, which leaves nothing to replace workers."""
        _, status = os.waitpid(self._loader_pid, 0)
        self._loader_pid = 0
        if not self._ended.done():
            self._fail(describe_death(os.waitstatus_to_exitcode(status), "loading the model"))

    def _find_takers(self) -> list[tuple[int, socket.socket]]:
        """Slot and channel of each worker that may get connections."""
        return [
            (worker.slot, worker.channel)
            for worker in self._workers
            if worker.ready and not worker.retiring and worker.channel is not None
        ]

    def _spawn(self, worker: _Worker) -> None:
        if self._ended.done() or self._loader is None:
            return
        ours, theirs = make_pair()
        ours.setblocking(False)
        slot = self._stats.slots[worker.slot]
        slot.ints[ASSIGNED] = slot.ints[CLOSED] = slot.ints[IN_FLIGHT] = slot.ints[QUEUED] = 0
        slot.ints[EXPECTED] = 0
        slot.ints[HEARTBEAT_MS] = int(time.monotonic() * 1000)
        worker.channel, worker.ready, worker.retiring = ours, False, False
        try:
            send(self._loader, {"kind": "spawn", "slot": worker.slot}, theirs)
        except OSError as err:
            log.error("the loader does not answer: %s", err)
        theirs.close()
        self._loop.add_reader(ours.fileno(), self._read_worker, worker, ours)

    def _read_worker(self, worker: _Worker, channel: socket.socket) -> None:
        while True:
            try:
                received = receive(channel)
            except BlockingIOError:
                return
            if received is None:
                self._loop.remove_reader(channel.fileno())
                return
            message = received[0]
            kind = message["kind"]
            if kind == "failed" and not self._model_ready:
                self._fail(error_of(message))
            elif kind == "failed":
                log.error("a replacement failed: %s", message["message"])
            elif kind == "ready":
                self._on_ready(worker, message)
            elif kind == "closed":
                self._doorman.let_go(message["numbers"])
            elif kind == "pass":
                self._doorman.pass_on(message["number"], message["to"], received[1][0], channel)
            elif kind == "hung" and worker.channel is channel:
                self._retire(worker)
            elif kind == "lost" and worker.channel is channel:
                self._spare(worker)

    def _on_ready(self, worker: _Worker, message: dict[str, Any]) -> None:
        worker.ready, worker.ready_at = True, time.monotonic()
        log.info(
            "worker ready",
            extra={
                "slot": worker.slot,
                "inline": message["inline"],
                "call_seconds": message["call_seconds"],
            },
        )
        if not self._model_ready and all(w.ready for w in self._workers):
            self._model_ready = True
            self._facts.version = message["version"]
            self._facts.phases["warm_up"] = message["warm_up_seconds"]
            self._facts.phases["start"] = time.monotonic() - self._started
            self._doorman.listen()
            log.info("ready", extra={"seconds": round(self._facts.phases["start"], 3)})
        if self._model_ready:
            self._doorman.set_accepting(True)

    def _on_exit(self, number: int, pid: int, code: int) -> None:
        retired = self._retired.pop(pid, None)
        if retired is not None:
            self._loop.remove_reader(retired.fileno())
            self._doorman.answer_for(retired)
            retired.close()
            return
        worker = self._workers[number]
        if worker.pid not in (0, pid):
            return
        was_ready, worker.ready = worker.ready, False
        if worker.channel is not None:
            self._loop.remove_reader(worker.channel.fileno())
            # A failure that it told just before its end may still wait in the channel.
            with contextlib.suppress(BlockingIOError):
                while (received := receive(worker.channel)) is not None:
                    if received[0]["kind"] == "failed" and not self._model_ready:
                        self._fail(error_of(received[0]))
                    elif received[0]["kind"] == "closed":
                        self._doorman.let_go(received[0]["numbers"])
                    elif received[0]["kind"] == "pass":
                        self._doorman.pass_on(
                            received[0]["number"], received[0]["to"], received[1][0], worker.channel
                        )
            self._doorman.answer_for(worker.channel)
            worker.channel.close()
        worker.ready, worker.channel, worker.pid = False, None, 0
        self._stats.slots[number].ints[STATE] = STATE_DOWN
        if self._ended.done() or self._draining:
            self._check_drained()
            return
        if not self._model_ready:
            self._fail(describe_death(code, "warming the model up"))
            return
        lived = time.monotonic() - worker.ready_at if was_ready else 0.0
        worker.failures = 0 if lived > STABLE_SECONDS else worker.failures + 1
        delay = (
            RESPAWN_SECONDS[min(worker.failures, len(RESPAWN_SECONDS)) - 1]
            if worker.failures
            else 0.0
        )
        self._facts.restarts += 1
        log.error(
            "a worker ended; it is replaced",
            extra={"slot": number, "exit_code": code, "delay_seconds": delay},
        )
        if not any(w.ready for w in self._workers):
            self._doorman.set_accepting(False)
        self._loop.call_later(delay, self._spawn, worker)

    def _spare(self, worker: _Worker) -> None:
        """No connections for a worker that ends by itself; connections wait for its successor if there is no other.

        It is replaced when it is gone: until then its GPU's memory is its own.
        """
        worker.retiring = True
        if not self._find_takers():
            self._doorman.set_accepting(False)

    def _retire(self, worker: _Worker) -> None:
        """Replace a worker that still answers, but whose model is stuck on a thread."""
        if worker.channel is None or worker.retiring:
            return
        log.error("a worker's model is stuck; it is replaced", extra={"slot": worker.slot})
        with contextlib.suppress(OSError):
            send(worker.channel, {"kind": "end", "replaced": True})
        self._retired[worker.pid] = worker.channel
        worker.channel, worker.ready, worker.pid = None, False, 0
        self._facts.restarts += 1
        if not any(w.ready for w in self._workers):
            self._doorman.set_accepting(False)
        self._spawn(worker)

    # ---------------------------------------------------------------------------------------------------- the end

    def _on_stop_signal(self) -> None:
        if self._draining:
            return
        self._draining = True
        self._facts.ready = False
        if not self._model_ready:
            self._end(0)
            return
        log.info("shutting down", extra={"drain_seconds": self._settings.drain_seconds})
        self._tell_workers("retire")
        self._loop.call_later(self._settings.drain_seconds, self._close_door)

    def _close_door(self) -> None:
        """No new connections; the workers answer what they have and end."""
        self._doorman.close()
        self._tell_workers("end")
        self._check_drained()

    def _tell_workers(self, kind: str) -> None:
        for worker in self._workers:
            if worker.channel is not None:
                with contextlib.suppress(OSError):
                    send(worker.channel, {"kind": kind})

    def _check_drained(self) -> None:
        if self._draining and all(w.channel is None for w in self._workers):
            self._end(0)

    def _fail(self, error: ScorerError) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    def _kill_all(self) -> None:
        if self._loader is not None:
            self._loop.remove_reader(self._loader.fileno())
        pids = [w.pid for w in self._workers if w.pid] + list(self._retired)
        for pid in [*pids, self._loader_pid]:
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._loader_pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._loader_pid, 0)
            self._loader_pid = 0

    def _tick(self) -> None:
        """Watch the workers' heartbeats, and refresh what probes and metrics show."""
        if self._ended.done():
            return
        self._facts.ready = not self.find_unready()
        now_ms = int(time.monotonic() * 1000)
        limit_ms = (self._settings.timeout_seconds + HEARTBEAT_GRACE_SECONDS) * 1000
        for worker in self._workers:
            silent_ms = now_ms - self._stats.slots[worker.slot].ints[HEARTBEAT_MS]
            if worker.ready and worker.pid and silent_ms > limit_ms:
                log.error("a worker does not answer; it is killed", extra={"slot": worker.slot})
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
        self._loop.call_later(TICK_SECONDS, self._tick)


def describe_death(code: int, doing: str) -> ScorerError:
    """The error for a process that ended without a word."""
    if code == -signal.SIGKILL:
        return OutOfMemory(
            f"the process was killed while {doing}, most likely for its memory",
            "raise spec.resources.limits.memory",
        )
    if code < 0:
        name = signal.Signals(-code).name
        return LoadFailed(
            f"the process crashed with {name} while {doing}",
            "a native library failed; check that its version fits the model",
        )
    return LoadFailed(f"the process ended with exit code {code} while {doing}", "see the pod's log")
