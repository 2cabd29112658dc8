"""One worker's application: routes, keys, deadlines, decoding, the batcher; `answers.py` is the way out."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import unquote

from tornado.web import Application

from model_scorer.dialects.azureml import SCRIPT_ERROR
from model_scorer.dialects.protocol import Answer, Dialect, HttpRequest, Target
from model_scorer.errors import (
    DeadlineExceeded,
    MethodNotAllowed,
    ModelFailed,
    NotReady,
    Overloaded,
    RequestError,
)
from model_scorer.http1.connection import Connection
from model_scorer.http1.exchange import READING, HttpLimits, KnownHead
from model_scorer.http1.tornado_bridge import ExchangeConnection, hand_over
from model_scorer.runtimes.protocol import Call, Output, Prepared, Runtime
from model_scorer.serve.access import TIMEOUT_HEADER, check_access, read_timeout
from model_scorer.serve.access_log import AccessLog
from model_scorer.serve.answers import AZURE_IDS, Answers, azure_ids
from model_scorer.serve.batcher import Batcher
from model_scorer.serve.job import ScoringJob
from model_scorer.serve.keys import KeyStore
from model_scorer.serve.known_heads import learn, may_be_known
from model_scorer.serve.payload_log import PayloadLog
from model_scorer.serve.query_body import body_from_query
from model_scorer.serve.request_ids import RequestIds, read_id
from model_scorer.serve.routes import SCORE, Route, build_routes, dialect_of_path
from model_scorer.serve.shared import IN_FLIGHT, QUEUED, WorkerSlot
from model_scorer.serve.sharing import MIN_CALL_SECONDS, WorkSharing
from model_scorer.serve.tracing import Tracer
from model_scorer.serve.tracked import TrackedConnection

log = logging.getLogger(__name__)

# What a page can fail with: Tornado's handlers tell the server the status alone.
_PAGE_REASONS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    500: "internal",
    501: "not_supported",
}


@dataclass(frozen=True, slots=True)
class AppOptions:
    """What of the settings the application needs.

    Attributes:
        timeout_seconds: per-request deadline.
        limits: of a connection.
        keys: None when the port is open.
        payload_log: None unless payload sampling is on.
        tracer: None unless traces are on.
        model_digest: of what was fetched, in a header of every answer; empty: unknown.
    """

    timeout_seconds: float
    limits: HttpLimits
    keys: KeyStore | None
    payload_log: PayloadLog | None = None
    tracer: Tracer | None = None
    model_digest: str = ""


class ScoringApp:
    """Answers the requests of one worker's connections.

    Args:
        loop: the worker's event loop.
        runtime: loaded and warm.
        target: the model as dialects see it.
        batcher: in front of the runtime.
        pages: Tornado's application, for everything that is not a scoring route.
        options: see there.
        access_log: where requests are noted.
        slot: the worker's shared numbers.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        runtime: Runtime,
        target: Target,
        batcher: Batcher,
        pages: Application,
        options: AppOptions,
        access_log: AccessLog,
        slot: WorkerSlot,
    ) -> None:
        self._loop = loop
        self._runtime = runtime
        self._prepare = runtime.prepare
        self._target = target
        self._batcher = batcher
        self._pages = pages
        self._keys = options.keys
        self._tracer = options.tracer
        self._ints = slot.ints
        self._ids = RequestIds()
        self._answers = Answers(
            target.version, self._ids, access_log, options.payload_log, slot, options.model_digest
        )
        self._routes = build_routes(target.name, target.version)
        # Targets that need no parsing: the scoring routes without a query.
        self.paths = {path.encode(): path for path in self._routes}
        self.known_heads: dict[bytes, KnownHead] = {}
        if self._keys is not None:
            self._keys.on_change = self.known_heads.clear
        self._connections: set[Connection] = set()
        self._decoders = (
            ThreadPoolExecutor(runtime.info.prepare_threads, thread_name_prefix="decode")
            if runtime.info.prepare_threads
            else None
        )
        self.limits = options.limits
        self.timeout_seconds = options.timeout_seconds
        self.closing = False
        self.in_flight = 0
        # Set by the worker where several share the work.
        self.sharing: WorkSharing | None = None

    # ---------------------------------------------------------------------------------------- connections' handler

    def opened(self, connection: Connection) -> None:
        """See `Handler`."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """See `Handler`."""
        self._connections.discard(connection)

    def begin(
        self,
        connection: Connection,
        request: HttpRequest,
        keep_alive: bool,
        http_1_0: bool,
        received_at: float,
    ) -> ScoringJob:
        """See `Handler`."""
        return ScoringJob(self, connection, request, keep_alive, http_1_0, received_at)

    def learn_head(self, head: bytes, request: HttpRequest) -> None:
        """See `Handler`."""
        route = self._routes.get(request.path)
        if route is not None and may_be_known(request, self._keys):
            learn(self.known_heads, head, request, route)

    def handle_known(
        self, connection: Connection, head: KnownHead, body: bytes | memoryview
    ) -> None:
        """See `Handler`: `learn_head` has checked what `handle` would check."""
        request = HttpRequest("POST", head.path, "", head.headers, body)
        job = ScoringJob(self, connection, request, True, False, monotonic())
        connection.adopt(job)
        job.route = route = head.context
        job.request_id = self._ids.new()
        try:
            if self.sharing is not None and self._pass_on(job):
                return
            if self._tracer is not None:
                job.span = self._tracer.begin(route.dialect.name, request)
            if self._decoders is not None:
                self._decode_elsewhere(job)
                return
            call, job.context = route.dialect.decode(request, self._target)
            job.prepared = self._prepare(call)
            self._batcher.submit(job)
            self._count_in(job)
        except RequestError as err:
            self._fail(job, err)
        except Exception:
            log.exception("a request failed in the server itself")
            self._fail(job, RequestError("internal error"))

    def disconnected(self, exchange: ScoringJob) -> None:
        """Work that nobody waits for is not begun."""
        if exchange.page is not None:
            exchange.page.lost()
        elif not exchange.settled:
            exchange.settled = True
            self._leave(exchange)

    def refuse(self, connection: Connection, error: RequestError, target: str) -> None:
        """A request that was malformed, too large or too slow."""
        path = target.partition("?")[0]
        dialect, index = self._dialect_of(path)
        self._answers.refuse(connection, error, path, dialect, index)

    def handle(self, exchange: ScoringJob) -> None:
        """Answer one request; see `Handler`."""
        job = exchange
        request = job.request
        path = request.path
        route = self._routes.get(path)
        if route is None and "%" in path:
            route = self._routes.get(unquote(path))
        job.route = route
        try:
            check_access(request, path, self._keys)
            headers = request.headers
            job.request_id = (
                read_id(headers, b"x-request-id") if b"x-request-id" in headers else ""
            ) or self._ids.new()
            if not AZURE_IDS.isdisjoint(headers):
                read_id(headers, b"x-ms-client-request-id")
                read_id(headers, b"x-ms-request-id")
            if route is None:
                self._serve_page(job)
                return
            if self.sharing is not None and request.method == "POST" and self._pass_on(job):
                return
            if self._tracer is not None:
                job.span = self._tracer.begin(route.dialect.name, request)
            self._enter(job, route)
        except RequestError as err:
            self._fail_early(job, err)
        except Exception:
            log.exception("a request failed in the server itself")
            self._fail_early(job, RequestError("internal error"))

    # ------------------------------------------------------------------------------------------------ the way in

    def _enter(self, job: ScoringJob, route: Route) -> None:
        request = job.request
        method = request.method
        if method != "POST":
            if method == "OPTIONS":
                self._answers.send(job, Answer(200, b"", headers=(("Allow", _allow(route)),)))
                return
            if method not in route.methods:
                raise MethodNotAllowed("Method not allowed", (("Allow", _allow(route)),))
            request.buffer = body_from_query(request.query)
            request.headers[b"content-type"] = b"application/json"
        if TIMEOUT_HEADER in request.headers:
            job.deadline = min(job.deadline, job.received_at + read_timeout(request))
        if self._decoders is not None:
            self._decode_elsewhere(job)
            return
        call, job.context = route.dialect.decode(request, self._target)
        job.prepared = self._prepare(call)
        self._batcher.submit(job)
        self._count_in(job)

    def _pass_on(self, job: ScoringJob) -> bool:
        """Give a request to a worker that has less to do, if that is worth it."""
        batcher = self._batcher
        if batcher.inline or batcher.mean_seconds < MIN_CALL_SECONDS:
            return False
        assert self.sharing is not None
        # Of those that the next call waits for, this is one.
        taker = self.sharing.find_taker(self.in_flight + max(0, batcher.expected - 1))
        if taker is None:
            return False
        connection = job.connection
        if not isinstance(connection, TrackedConnection):
            return False
        assert job.route is not None
        # On its way it is as lost as elsewhere if the taker dies.
        connection.mark(job.route.index + 1)
        if not connection.pass_on(self.sharing, taker, job):
            return False
        batcher.give_away()
        return True

    def _count_in(self, job: ScoringJob) -> None:
        assert job.route is not None
        job.counted = True
        job.connection.mark(job.route.index + 1)
        self.in_flight += 1
        self._ints[IN_FLIGHT] = self.in_flight

    def _leave(self, job: ScoringJob) -> None:
        if not job.counted:
            return
        job.counted = False
        self.in_flight -= 1
        ints = self._ints
        ints[IN_FLIGHT] = self.in_flight
        if not self._batcher.inline:
            ints[QUEUED] = self._batcher.queued

    def _decode_elsewhere(self, job: ScoringJob) -> None:
        assert self._decoders is not None
        if self.in_flight >= self._batcher.most_in_flight:
            raise Overloaded("too many requests are waiting")
        self._count_in(job)
        self._decoders.submit(self._decode_on_thread, job)

    def _decode_on_thread(self, job: ScoringJob) -> None:
        outcome: tuple[Call, Any, Prepared] | Exception
        if job.settled:
            return  # nobody waits for it any more
        try:
            assert job.route is not None
            if monotonic() >= job.deadline:
                raise DeadlineExceeded("the deadline passed while the request waited")
            call, context = job.route.dialect.decode(job.request, self._target)
            outcome = (call, context, self._prepare(call))
        except Exception as err:
            outcome = err
        try:
            self._loop.call_soon_threadsafe(self._decoded, job, outcome)
        except RuntimeError:
            log.debug("the loop was closed while a request was decoded")

    def _decoded(self, job: ScoringJob, outcome: tuple[Call, Any, Prepared] | Exception) -> None:
        if job.settled:
            return
        try:
            if isinstance(outcome, RequestError):
                raise outcome
            if isinstance(outcome, Exception):
                log.error("decoding failed in the server itself", exc_info=outcome)
                raise RequestError("internal error") from outcome
            _, job.context, job.prepared = outcome
            job.queued_at = monotonic()
            self._batcher.submit(job)
        except RequestError as err:
            job.settled = True
            self._leave(job)
            self._fail(job, err)

    # ----------------------------------------------------------------------------------------------- the way out

    def answer(self, job: ScoringJob, outcome: Output | Exception, exec_seconds: float) -> None:
        """Encode a job's outcome and send it; called by the batcher through the job."""
        route = job.route
        assert route is not None
        self._leave(job)
        try:
            if isinstance(outcome, Exception):
                self._fail(job, self._translate(job, outcome), exec_seconds)
                return
            answer = route.dialect.encode(outcome, job.context, self._target, exec_seconds * 1000)
            self._answers.send(job, answer, exec_seconds)
        except Exception as err:
            log.error(
                "the model's result cannot be encoded",
                exc_info=err,
                extra={"request_id": job.request_id},
            )
            self._fail(job, ModelFailed(f"the model's result cannot be encoded: {_brief(err)}"))

    def _translate(self, job: ScoringJob, error: Exception) -> RequestError:
        """What the client is told of a failure; the log has the rest."""
        if isinstance(error, RequestError):
            return error
        log.error(
            "the model failed on a request", exc_info=error, extra={"request_id": job.request_id}
        )
        if self._target.info.scripted:
            return ModelFailed(SCRIPT_ERROR)
        return ModelFailed(f"the model failed on this request ({type(error).__name__})")

    def _fail(self, job: ScoringJob, error: RequestError, exec_seconds: float = 0.0) -> None:
        assert job.route is not None
        self._answers.slot.count_error(error.reason)
        self._answers.send(job, job.route.dialect.error(error), exec_seconds, error.reason)

    def _fail_early(self, job: ScoringJob, error: RequestError) -> None:
        """An error before the request was queued, or on a path that is no scoring route."""
        if job.route is None:
            job.route = Route(*self._dialect_of(job.request.path))
        if not job.request_id:
            job.request_id = self._ids.new()
        self._fail(job, error)

    def _serve_page(self, job: ScoringJob) -> None:
        request = job.request
        dialect, index = self._dialect_of(request.path)
        job.connection.mark(READING)

        # Counted before it is sent: whoever has the answer finds it in the metrics.
        def answered(status: int) -> None:
            self._answers.slot.count_request(index, status, monotonic() - job.received_at)
            if status in _PAGE_REASONS:
                self._answers.slot.count_error(_PAGE_REASONS[status])

        def finished(status: int, size: int) -> None:
            self._answers.note_page(
                job.request_id,
                request.method,
                request.path,
                dialect.name,
                status,
                monotonic() - job.received_at,
                size,
                _PAGE_REASONS.get(status, ""),
            )

        job.page = ExchangeConnection(
            job,
            closing=self.closing,
            extra_headers=(
                ("x-request-id", job.request_id),
                *self._answers.revision,
                *(azure_ids(request.headers, job.request_id) if dialect is SCORE else ()),
            ),
            on_answer=answered,
            on_finish=finished,
        )
        hand_over(self._pages, job, job.page)

    def _dialect_of(self, path: str) -> tuple[Dialect, int]:
        route = self._routes.get(path)
        return (route.dialect, route.index) if route else dialect_of_path(path)

    # -------------------------------------------------------------------------------------------------- lifecycle

    def tick(self, now: float) -> None:
        """Once a second: slow clients, changed keys."""
        if self._keys is not None:
            self._keys.refresh()
        for connection in list(self._connections):
            connection.check_patience(now)

    def move_to(self, slot: WorkerSlot) -> None:
        """Count elsewhere from now on."""
        self._answers.slot = slot
        self._ints = slot.ints

    def begin_closing(self) -> None:
        """From now on every answer ends its connection."""
        self.closing = True

    def close_idle(self, now: float) -> None:
        """Close the connections that wait for nothing."""
        for connection in list(self._connections):
            connection.close_if_idle(now)

    def abort(self, error: RequestError | None = None) -> None:
        """Close all connections; what is still unanswered gets a 503."""
        for connection in list(self._connections):
            if not connection.idle:
                connection.close_with(error or NotReady("the server is shutting down"))
            else:
                connection.close()

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)


def _allow(route: Route) -> str:
    return ", ".join((*route.methods, "OPTIONS"))


def _brief(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error)[:200]}"
        if isinstance(error, TypeError)
        else type(error).__name__
    )
