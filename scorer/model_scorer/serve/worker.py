"""A worker: warm-up, the sample request, then HTTP on the connections that the supervisor hands over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import socket
import time
from time import monotonic
from typing import Any

import uvloop

from model_scorer.dialects.protocol import Answer, Target
from model_scorer.errors import LoadFailed, ScorerError
from model_scorer.http1.exchange import HttpLimits
from model_scorer.runtimes.model_folder import open_model_folder, read_model_digest
from model_scorer.runtimes.protocol import Prepared, Runtime
from model_scorer.serve.access_log import AccessLog
from model_scorer.serve.app import AppOptions, ScoringApp
from model_scorer.serve.batcher import Batcher, BatchLimits
from model_scorer.serve.device_watch import DeviceWatch
from model_scorer.serve.keys import KeyStore
from model_scorer.serve.loader import load_model
from model_scorer.serve.messages import describe_error, receive, send, send_with
from model_scorer.serve.pages import build_pages, read_swagger_files
from model_scorer.serve.payload_log import PayloadLog
from model_scorer.serve.sample import prove_sample
from model_scorer.serve.shared import (
    ACCEPTED,
    CLOSED,
    COMPUTE_SINCE_MS,
    HEARTBEAT_MS,
    STATE,
    STATE_READY,
    STATE_RETIRING,
    STATE_STARTING,
    SharedStats,
)
from model_scorer.serve.sharing import WorkSharing, read_passed
from model_scorer.serve.tracing import build_tracer
from model_scorer.serve.tracked import TrackedConnection
from model_scorer.settings import Settings
from model_scorer.ui import build_ui, describe_model

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
# A hand-over to the compute thread and back costs about 60 us and a thread switch under load: below this it does not pay.
INLINE_SECONDS = 0.001
_TIMED_CALLS = 5
GC_THRESHOLD = 20_000
# Connection numbers in one message.
MAX_TOLD = 1000
# Answers in flight may take as long as their deadline; longer than this no orchestrator waits.
MAX_CLOSING_SECONDS = 120.0


def warm_up(runtime: Runtime, target_of: Any, settings: Settings) -> tuple[Target, float | None]:
    """Warm up, prove the sample, time the model.

    Args:
        runtime: loaded.
        target_of: makes the dialects' view of the runtime, once the warm-up has refined its signature.
        settings: of the scorer.

    Returns:
        The dialects' view, and the seconds of a call, None when it could not be timed.

    Raises:
        ScorerError: the warm-up or the sample failed.
    """
    try:
        prepared = runtime.warm_up()
    except ScorerError:
        raise
    except Exception as err:
        log.exception("the warm-up failed")
        raise LoadFailed(
            f"the model's warm-up failed: {type(err).__name__}: {str(err)[:300]}",
            "the pod's log has the traceback",
        ) from err
    target: Target = target_of()
    if settings.sample is not None:
        sampled = prove_sample(runtime, target, settings.sample)
        prepared = prepared or sampled
    return target, time_call(runtime, prepared) if prepared is not None else None


def time_call(runtime: Runtime, prepared: Prepared) -> float | None:
    """The fastest of a few calls in seconds, which a busy machine distorts least; None when the model raises."""
    seconds = []
    for _ in range(_TIMED_CALLS):
        started = time.perf_counter()
        try:
            runtime.execute([prepared])
        except Exception:
            return None
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > 1.0:
            break
    return min(seconds)


def run_worker(
    slot: int,
    channel: socket.socket,
    runtime: Runtime | None,
    *,
    settings: Settings,
    workers: int,
    all_stats: SharedStats,
) -> None:
    """A worker's life; returns when it was told to end and its last answer is out.

    Args:
        slot: its number, from 0.
        channel: to the supervisor.
        runtime: loaded before the fork, or None: load here.
        settings: of the scorer.
        workers: how many there are, which share the queue's bound.
        all_stats: the shared numbers of all workers.
    """
    stats = all_stats.slots[slot]
    stats.ints[STATE] = STATE_STARTING
    stats.ints[HEARTBEAT_MS] = int(monotonic() * 1000)
    try:
        if runtime is None:
            runtime = load_model(settings, in_worker=True)
        assert runtime is not None
        folder = open_model_folder(settings.model_dir)
        loaded = runtime
        started = monotonic()
        target, call_seconds = warm_up(
            loaded,
            lambda: Target(
                settings.model_name,
                settings.revision or "1",
                loaded.info,
                loaded.signature,
                folder.config,
            ),
            settings,
        )
    except ScorerError as err:
        if err.__cause__ is not None:
            log.error("%s", err.message, exc_info=err.__cause__)
        with contextlib.suppress(OSError):
            send(channel, describe_error(err))
        return
    gc.freeze()
    # Requests make no cycles worth looking for every 700 objects, the default.
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = Worker(slot, channel, loaded, target, call_seconds, loop, settings, workers, all_stats)
    report = {
        "kind": "ready",
        "slot": slot,
        "warm_up_seconds": monotonic() - started,
        "call_seconds": call_seconds,
        "inline": worker.inline,
        "framework": loaded.info.framework,
        "version": loaded.info.version,
    }
    try:
        loop.run_until_complete(worker.run(report))
    finally:
        loop.close()
        if not worker.device_lost:
            loaded.close()


class Worker:
    """The running half of a worker: see `run_worker` for the arguments."""

    def __init__(
        self,
        slot: int,
        channel: socket.socket,
        runtime: Runtime,
        target: Target,
        call_seconds: float | None,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        workers: int,
        all_stats: SharedStats,
    ) -> None:
        info = runtime.info
        self.inline = (
            not info.may_block
            and info.prepare_threads == 0
            and call_seconds is not None
            and call_seconds < INLINE_SECONDS
        )
        max_rows = settings.max_batch_size if info.batches else 1
        if info.max_batch_rows is not None:
            max_rows = min(max_rows, info.max_batch_rows)
        self._loop = loop
        self._channel = channel
        self._stats = stats = all_stats.slots[slot]
        self._settings = settings
        self._ended = loop.create_future()
        self._retiring = False
        self._closed: list[int] = []
        self.pending = all_stats.pending
        self._tasks: set[asyncio.Task[Any]] = set()
        self.device_lost = False
        # On a CPU nothing can be lost, and calls of microseconds are spared the look.
        execute = (
            DeviceWatch(runtime.execute, self._tell_device_lost)
            if settings.device == "gpu"
            else runtime.execute
        )
        self._batcher = Batcher(
            loop,
            execute,
            BatchLimits(
                max_rows=max_rows,
                max_queued=math.ceil(settings.max_queued_requests / workers),
                max_delay_seconds=settings.max_batch_delay_ms / 1000,
                concurrency=info.concurrency,
                spreads=info.spreads,
            ),
            inline=self.inline,
            observer=stats,
            on_hang=self._hung,
        )
        self._access_log = AccessLog(
            loop, sample=settings.access_log_sample, model=settings.model_name
        )
        self._tracer = build_tracer(
            os.environ, model=settings.model_name, revision=settings.revision
        )
        keys = KeyStore(settings.keys_dir) if settings.auth_mode == "APIKey" else None
        self._app = ScoringApp(
            loop,
            runtime=runtime,
            target=target,
            batcher=self._batcher,
            pages=build_pages(
                target,
                _try_it_page(target, settings),
                read_swagger_files(settings.model_dir),
                settings.sample.request if settings.sample else None,
            ),
            options=AppOptions(
                timeout_seconds=settings.timeout_seconds,
                limits=HttpLimits(max_body_bytes=settings.max_body_bytes),
                keys=keys,
                payload_log=PayloadLog(
                    settings.payload_log_sample, settings.redact_fields, target.signature.columns
                )
                if settings.payload_log_sample
                else None,
                tracer=self._tracer,
                model_digest=read_model_digest(settings.model_dir),
            ),
            access_log=self._access_log,
            slot=stats,
        )
        if workers > 1:
            self._app.sharing = WorkSharing(slot, all_stats.slots, self._pass)

    async def run(self, report: dict[str, Any]) -> None:
        """Serve until the supervisor says to end, or is gone."""
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel.fileno(), self._read_channel)
        self._stats.ints[STATE] = STATE_READY
        self._tick()
        self._tell(report)
        await self._ended
        self._access_log.flush()
        self._batcher.close()
        if self._tracer is not None:
            self._tracer.close()

    def _read_channel(self) -> None:
        # Several a pass: one at a time would let the last of a crowd wait behind the first ones' batches.
        for _ in range(64):
            try:
                received = receive(self._channel)
            except BlockingIOError:
                return
            if received is None:
                os._exit(1)  # the supervisor is gone: nobody would ever replace or end us
            message, descriptors = received
            kind = message["kind"]
            if kind == "connection":
                self._stats.ints[ACCEPTED] += 1
                passed = read_passed(descriptors[1]) if len(descriptors) > 1 else b""
                task = self._loop.create_task(
                    self._adopt(descriptors[0], message["number"], passed)
                )
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif kind == "retire":
                self._stats.ints[STATE] = STATE_RETIRING
                self._app.begin_closing()
            elif kind == "end" and not self._retiring:
                self._retiring = True
                if message.get("replaced"):
                    # The slot belongs to the successor from now on.
                    self._stats = SharedStats(1).slots[0]
                    self._app.move_to(self._stats)
                self._app.begin_closing()
                task = self._loop.create_task(self._finish())
                self._tasks.add(task)

    async def _adopt(self, descriptor: int, number: int, passed: bytes) -> None:
        """Serve a connection; `passed` is a request that another worker has read from it."""
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(
                lambda: TrackedConnection(
                    self._app, self._loop, number, self.pending, self.forget, passed
                ),
                connection,
            )
        except OSError as err:
            connection.close()
            self.forget(number)
            log.debug("a connection was gone before it began: %s", err)

    async def _finish(self) -> None:
        """Answer what is in flight, close the rest, end."""
        limit = monotonic() + min(self._settings.timeout_seconds + 1, MAX_CLOSING_SECONDS)
        self._app.close_idle(monotonic())
        while self._app.connections and monotonic() < limit:
            await asyncio.sleep(0.02)
            self._app.close_idle(monotonic())
        self._app.abort()
        # Two passes: the transports close, then their ends are told.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._tell_closed()
        if not self._ended.done():
            self._ended.set_result(None)

    def forget(self, number: int) -> None:
        """A connection is closed here; the supervisor must close it too before the client sees the end."""
        self._stats.ints[CLOSED] += 1
        if number >= 0:
            self._closed.append(number)
            if len(self._closed) == 1:
                self._loop.call_soon(self._tell_closed)

    def _tell_closed(self) -> None:
        numbers, self._closed = self._closed[:MAX_TOLD], self._closed[MAX_TOLD:]
        if not numbers:
            return
        try:
            send(self._channel, {"kind": "closed", "numbers": numbers})
        except BlockingIOError:
            self._closed = numbers + self._closed
            self._loop.call_later(0.01, self._tell_closed)
            return
        except OSError as err:
            log.debug("the supervisor does not listen: %s", err)
        if self._closed:
            self._loop.call_soon(self._tell_closed)

    def _pass(self, message: dict[str, Any], descriptor: int) -> bool:
        if self._retiring or self._app.closing:
            return False
        try:
            send_with(self._channel, message, descriptor)
        except OSError:
            return False
        return True

    def _hung(self) -> None:
        """The model never came back: this process serves on, and asks to be replaced by a clean one."""
        self._tell({"kind": "hung"})

    def _tell_device_lost(self) -> None:
        """From the thread that ran the model, while the loop may be at its end."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end_without_device)

    def _end_without_device(self) -> None:
        """Nothing here will ever be scored again: get no more connections, answer what is here, end."""
        self.device_lost = True
        log.error("the GPU is lost to this process, which ends")
        self._tell({"kind": "lost"})
        if not self._retiring:
            self._retiring = True
            self._app.begin_closing()
            task = self._loop.create_task(self._finish())
            self._tasks.add(task)

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            send(self._channel, message)
        except OSError as err:
            log.warning("the supervisor does not listen: %s", err)

    def _tick(self) -> None:
        now = monotonic()
        self._stats.ints[HEARTBEAT_MS] = int(monotonic() * 1000)
        self._stats.ints[COMPUTE_SINCE_MS] = self._batcher.busy
        self._app.tick(now)
        self._loop.call_later(TICK_SECONDS, self._tick)


def _try_it_page(target: Target, settings: Settings) -> dict[str, Answer]:
    if not settings.ui:
        return {}
    return build_ui(
        describe_model(
            target,
            sample=settings.sample.request if settings.sample else None,
            needs_key=settings.auth_mode == "APIKey",
            max_body_bytes=settings.max_body_bytes,
        )
    )
