"""One worker's application: routes, keys, deadlines, the batcher, and the answers' common headers."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import unquote

from tornado.web import Application

from model_scorer.dialects.azureml import SCRIPT_ERROR
from model_scorer.dialects.protocol import Answer, Dialect, HttpRequest, Target
from model_scorer.errors import (
    BadRequest,
    DeadlineExceeded,
    MethodNotAllowed,
    ModelFailed,
    NotReady,
    PlainHttp,
    RequestError,
    Unauthorized,
)
from model_scorer.http1.connection import Connection, Exchange, HttpLimits
from model_scorer.http1.responses import render_lines
from model_scorer.http1.tornado_bridge import ExchangeConnection, hand_over
from model_scorer.runtimes.protocol import Call, Output, Prepared, Runtime
from model_scorer.serve.access_log import AccessLog
from model_scorer.serve.batcher import Batcher
from model_scorer.serve.keys import KeyStore, presented_key
from model_scorer.serve.query_body import body_from_query
from model_scorer.serve.request_ids import RequestIds, read_id
from model_scorer.serve.routes import Route, build_routes, dialect_of_path
from model_scorer.serve.shared import DIALECTS, IN_FLIGHT, QUEUED, WorkerSlot
from model_scorer.ui import OPEN_PATHS as UI_PATHS

log = logging.getLogger(__name__)

_OPEN_PATHS = frozenset({"/", *UI_PATHS})
_TIMEOUT_HEADER = b"x-request-timeout-seconds"
_HOST = re.compile(r"[A-Za-z0-9._~:\[\]-]{1,300}")
_OTHER = DIALECTS.index("other")


@dataclass(frozen=True, slots=True)
class AppOptions:
    """What of the settings the application needs.

    Attributes:
        timeout_seconds: per-request deadline.
        limits: of a connection.
        keys: None when the port is open.
    """

    timeout_seconds: float
    limits: HttpLimits
    keys: KeyStore | None


class ScoringJob:
    """A request between its validation and its answer."""

    __slots__ = (
        "app",
        "context",
        "deadline",
        "exchange",
        "prepared",
        "queued_at",
        "queued_seconds",
        "request_id",
        "route",
        "settled",
    )

    def __init__(self, app: ScoringApp, exchange: Exchange, route: Route, request_id: str) -> None:
        self.app = app
        self.exchange = exchange
        self.route = route
        self.request_id = request_id
        self.prepared: Prepared = _NOTHING
        self.context: Any = None
        self.deadline = exchange.received_at + app.timeout_seconds
        self.queued_at = exchange.received_at
        self.settled = False

    def settle(self, outcome: Output | Exception, exec_seconds: float) -> None:
        """Answer with the outcome."""
        self.settled = True
        self.app.answer(self, outcome, exec_seconds)


_NOTHING = Prepared(None, 0, None)


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
        self._log = access_log
        self._slot = slot
        self._ints = slot.ints
        self._ids = RequestIds()
        self._routes = build_routes(target.name, target.version)
        # Targets that need no parsing: the scoring routes without a query.
        self.paths = {path.encode(): path for path in self._routes}
        self._connections: set[Connection] = set()
        self._decoders = (
            ThreadPoolExecutor(runtime.info.prepare_threads, thread_name_prefix="decode")
            if runtime.info.prepare_threads
            else None
        )
        self._revision = (("x-model-revision", target.version),)
        self._revision_line = render_lines(self._revision)
        self.limits = options.limits
        self.timeout_seconds = options.timeout_seconds
        self.closing = False
        self.in_flight = 0

    # ---------------------------------------------------------------------------------------- connections' handler

    def opened(self, connection: Connection) -> None:
        """See `Handler`."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """See `Handler`."""
        self._connections.discard(connection)

    def disconnected(self, exchange: Exchange) -> None:
        """Work that nobody waits for is not begun."""
        state = exchange.state
        if isinstance(state, ScoringJob):
            if not state.settled:
                state.settled = True
                self._leave()
        elif isinstance(state, ExchangeConnection):
            state.lost()

    def refuse(self, connection: Connection, error: RequestError, target: str) -> None:
        """A request that was malformed, too large or too slow."""
        path = target.partition("?")[0]
        dialect, index = self._dialect_of(path)
        answer = dialect.error(error)
        request_id = self._ids.new()
        lines = f"x-request-id: {request_id}\r\n{self._revision_line}"
        lines += render_lines(answer.headers)
        connection.write_refusal(answer.status, answer.content_type, answer.body, lines)
        self._slot.count_error(error.reason)
        self._slot.count_request(index, answer.status, 0.0)
        self._note(request_id, "-", path, dialect.name, answer, error.reason)

    def handle(self, exchange: Exchange) -> None:
        """Answer one request; see `Handler`."""
        request = exchange.request
        path = request.path
        route = self._routes.get(path)
        if route is None and "%" in path:
            route = self._routes.get(unquote(path))
        job = None
        try:
            self._check_access(request, path)
            if route is None:
                self._serve_page(exchange)
                return
            job = ScoringJob(self, exchange, route, "")
            headers = request.headers
            job.request_id = (
                read_id(headers, b"x-request-id") if b"x-request-id" in headers else ""
            ) or self._ids.new()
            self._enter(job)
        except RequestError as err:
            self._fail_early(exchange, route, job, err)
        except Exception:
            log.exception("a request failed in the server itself")
            self._fail_early(exchange, route, job, RequestError("internal error"))

    # ------------------------------------------------------------------------------------------------ the way in

    def _check_access(self, request: HttpRequest, path: str) -> None:
        headers = request.headers
        if b"x-forwarded-proto" in headers:
            forwarded = headers[b"x-forwarded-proto"].split(b",")[0].strip().lower()
            if forwarded == b"http":
                raise PlainHttp(_https_location(request))
        if self._keys is None or path in _OPEN_PATHS:
            return
        key = presented_key(headers)
        if key is None:
            raise Unauthorized(
                "an API key is needed: send the header Authorization: Bearer <key>",
                (("WWW-Authenticate", 'Bearer realm="scoring"'),),
            )
        if not self._keys.allows(key):
            raise Unauthorized(
                "the API key is wrong",
                (("WWW-Authenticate", 'Bearer realm="scoring", error="invalid_token"'),),
            )

    def _enter(self, job: ScoringJob) -> None:
        request = job.exchange.request
        route = job.route
        method = request.method
        if method != "POST":
            if method == "OPTIONS":
                self._respond(job, Answer(200, b"", headers=(("Allow", _allow(route)),)))
                return
            if method not in route.methods:
                raise MethodNotAllowed("Method not allowed", (("Allow", _allow(route)),))
            request.body = body_from_query(request.query)
            request.headers[b"content-type"] = b"application/json"
        if _TIMEOUT_HEADER in request.headers:
            job.deadline = min(job.deadline, job.exchange.received_at + _read_timeout(request))
        if self._decoders is not None:
            self._count_in(job)
            self._decoders.submit(self._decode_on_thread, job)
            return
        call, job.context = route.dialect.decode(request, self._target)
        job.prepared = self._prepare(call)
        self._batcher.submit(job)
        self._count_in(job)

    def _count_in(self, job: ScoringJob) -> None:
        job.exchange.state = job
        job.exchange.connection.mark(job.route.index + 1)
        self.in_flight += 1
        self._ints[IN_FLIGHT] = self.in_flight

    def _leave(self) -> None:
        self.in_flight -= 1
        ints = self._ints
        ints[IN_FLIGHT] = self.in_flight
        if not self._batcher.inline:
            ints[QUEUED] = self._batcher.queued

    def _decode_on_thread(self, job: ScoringJob) -> None:
        outcome: tuple[Call, Any, Prepared] | Exception
        try:
            call, context = job.route.dialect.decode(job.exchange.request, self._target)
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
            self._leave()
            self._fail(job, err)

    # ----------------------------------------------------------------------------------------------- the way out

    def answer(self, job: ScoringJob, outcome: Output | Exception, exec_seconds: float) -> None:
        """Encode a job's outcome and send it; called by the batcher through the job."""
        self._leave()
        try:
            if isinstance(outcome, Exception):
                self._fail(job, self._translate(job, outcome))
                return
            answer = job.route.dialect.encode(
                outcome, job.context, self._target, exec_seconds * 1000
            )
            self._respond(job, answer, exec_seconds)
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

    def _fail(self, job: ScoringJob, error: RequestError) -> None:
        self._slot.count_error(error.reason)
        self._respond(job, job.route.dialect.error(error), reason=error.reason)

    def _fail_early(
        self,
        exchange: Exchange,
        route: Route | None,
        job: ScoringJob | None,
        error: RequestError,
    ) -> None:
        """An error before the request was queued, or on a path that is no scoring route."""
        if route is None:
            dialect, index = self._dialect_of(exchange.request.path)
            route = Route(dialect, index)
        if job is None:
            job = ScoringJob(self, exchange, route, self._ids.new())
        elif not job.request_id:
            job.request_id = self._ids.new()
        self._fail(job, error)

    def _respond(
        self, job: ScoringJob, answer: Answer, exec_seconds: float = 0.0, reason: str = ""
    ) -> None:
        exchange = job.exchange
        request = exchange.request
        request_id = job.request_id
        lines = f"x-request-id: {request_id}\r\n{self._revision_line}"
        if answer.headers:
            lines += render_lines(answer.headers)
        if job.route.dialect.name == "score":
            sent = request.headers
            client = ""
            if b"x-ms-client-request-id" in sent or b"x-ms-request-id" in sent:
                client = _short_id(sent, b"x-ms-client-request-id") or _short_id(
                    sent, b"x-ms-request-id"
                )
            lines += f"x-ms-request-id: {client or request_id}\r\n"
            if client:
                lines += f"x-ms-client-request-id: {client}\r\n"
        # Counted before it is sent: whoever has the answer finds it in the metrics.
        seconds = monotonic() - exchange.received_at
        self._slot.count_request(job.route.index, answer.status, seconds)
        exchange.connection.respond(
            exchange, answer.status, answer.content_type, answer.body, lines
        )
        if not self._log.wants(answer.status):
            return
        self._log.log(
            request_id=request_id,
            method=request.method,
            path=request.path,
            dialect=job.route.dialect.name,
            status=answer.status,
            seconds=seconds,
            queue_seconds=max(0.0, seconds - exec_seconds),
            rows=job.prepared.rows,
            bytes_in=len(request.body),
            bytes_out=len(answer.body),
            reason=reason,
        )

    def _serve_page(self, exchange: Exchange) -> None:
        request = exchange.request
        request_id = read_id(request.headers, b"x-request-id") or self._ids.new()
        dialect, index = self._dialect_of(request.path)

        def finished(status: int, size: int) -> None:
            seconds = monotonic() - exchange.received_at
            self._slot.count_request(index, status, seconds)
            answer = Answer(status, b"")
            self._note(
                request_id, request.method, request.path, dialect.name, answer, "", seconds, size
            )

        connection = ExchangeConnection(
            exchange,
            closing=self.closing,
            extra_headers=(("x-request-id", request_id), *self._revision),
            on_finish=finished,
        )
        exchange.state = connection
        hand_over(self._pages, exchange, connection)

    def _note(
        self,
        request_id: str,
        method: str,
        path: str,
        dialect: str,
        answer: Answer,
        reason: str,
        seconds: float = 0.0,
        size: int | None = None,
    ) -> None:
        if not self._log.wants(answer.status):
            return
        self._log.log(
            request_id=request_id,
            method=method,
            path=path,
            dialect=dialect,
            status=answer.status,
            seconds=seconds,
            queue_seconds=0.0,
            rows=0,
            bytes_in=0,
            bytes_out=len(answer.body) if size is None else size,
            reason=reason,
        )

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
        self._slot = slot
        self._ints = slot.ints

    def begin_closing(self) -> None:
        """From now on every answer ends its connection."""
        self.closing = True

    def close_idle(self) -> None:
        """Close the connections that wait for nothing."""
        for connection in list(self._connections):
            if connection.idle:
                connection.close()

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


def _https_location(request: HttpRequest) -> str:
    host = request.header(b"x-forwarded-host") or request.header(b"host")
    if not _HOST.fullmatch(host):
        raise BadRequest("use HTTPS; the Host header is missing or malformed")
    query = f"?{request.query}" if request.query else ""
    return f"https://{host}{request.path}{query}"


def _read_timeout(request: HttpRequest) -> float:
    try:
        seconds = float(request.headers[_TIMEOUT_HEADER])
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise BadRequest(f"{_TIMEOUT_HEADER.decode()} must be a number of seconds")
    if seconds == 0:
        raise DeadlineExceeded("the deadline passed before the request was read")
    return seconds


def _short_id(headers: dict[bytes, bytes], name: bytes) -> str:
    try:
        return read_id(headers, name)
    except RequestError:
        return ""


def _allow(route: Route) -> str:
    return ", ".join((*route.methods, "OPTIONS"))


def _brief(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error)[:200]}"
        if isinstance(error, TypeError)
        else type(error).__name__
    )
