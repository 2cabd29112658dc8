"""The way out: an answer with the headers that all have, its numbers, its log line, its trace; then to the socket."""

from __future__ import annotations

from time import monotonic

from model_scorer.dialects.protocol import Answer, Dialect
from model_scorer.errors import RequestError
from model_scorer.http1.connection import Connection
from model_scorer.http1.responses import ok_head, render_lines
from model_scorer.serve.access_log import AccessLog
from model_scorer.serve.job import ScoringJob
from model_scorer.serve.payload_log import PayloadLog
from model_scorer.serve.request_ids import RequestIds, read_id
from model_scorer.serve.shared import WorkerSlot

AZURE_IDS = frozenset({b"x-ms-client-request-id", b"x-ms-request-id", b"traceid"})


class Answers:
    """Sends answers.

    Args:
        revision: of the model, in a header of every answer.
        ids: makes ids for requests that brought none.
        access_log: where requests are noted.
        payload_log: where sampled payloads are noted, or None.
        slot: the worker's shared numbers.
        digest: of the fetched model, in a header of every answer when it is known.
    """

    def __init__(
        self,
        revision: str,
        ids: RequestIds,
        access_log: AccessLog,
        payload_log: PayloadLog | None,
        slot: WorkerSlot,
        digest: str = "",
    ) -> None:
        self.slot = slot
        self.revision: tuple[tuple[str, str], ...] = (("x-model-revision", revision),)
        if digest:
            self.revision += (("x-model-digest", digest),)
        self._revision_line = render_lines(self.revision)
        self._ids = ids
        self._log = access_log
        self._payloads = payload_log
        # Answers of one batch mostly have the very same headers.
        self._rendered: tuple[tuple[str, str], ...] = ()
        self._rendered_lines = ""

    def send(
        self, job: ScoringJob, answer: Answer, exec_seconds: float = 0.0, reason: str = ""
    ) -> None:
        """Answer a request of a scoring route."""
        route = job.route
        assert route is not None
        request = job.request
        connection = job.connection
        status = answer.status
        body = answer.body
        request_id = job.request_id
        if answer.headers is not self._rendered:
            self._rendered = answer.headers
            self._rendered_lines = render_lines(answer.headers)
        lines = f"x-request-id: {request_id}\r\n{self._revision_line}{self._rendered_lines}"
        if route.azure:
            sent = request.headers
            if AZURE_IDS.isdisjoint(sent):
                lines += f"x-ms-request-id: {request_id}\r\n"
            else:
                lines += render_lines(azure_ids(sent, request_id))
        # Counted before it is sent: whoever has the answer finds it in the metrics.
        seconds = monotonic() - job.received_at
        self.slot.count_request(route.index, status, seconds)
        if job.span is not None:
            lines += job.span.end(status, seconds, exec_seconds, job.prepared.rows, reason)
        if status != 200 or not connection.respond_plainly(
            job,
            f"{ok_head(answer.content_type)}{len(body)}\r\n{lines}\r\n".encode("latin-1", "replace")
            + body,
        ):
            connection.respond(job, status, answer.content_type, body, lines)
        if self._payloads is not None:
            self._payloads.offer(request_id, route.dialect.name, status, request.body, body)
        if self._log.wants(status):
            self._log.log(
                request_id,
                request.method,
                request.path,
                route.dialect.name,
                status,
                seconds,
                max(0.0, seconds - exec_seconds),
                job.prepared.rows,
                len(request.buffer),
                len(body),
                reason,
            )

    def refuse(
        self,
        connection: Connection,
        error: RequestError,
        path: str,
        dialect: Dialect,
        index: int,
    ) -> None:
        """Answer what was malformed, too large or too slow to become a request."""
        answer = dialect.error(error)
        request_id = self._ids.new()
        lines = f"x-request-id: {request_id}\r\n{self._revision_line}"
        lines += render_lines(answer.headers)
        self.slot.count_error(error.reason)
        self.slot.count_request(index, answer.status, 0.0)
        connection.write_refusal(answer.status, answer.content_type, answer.body, lines)
        self.note_page(request_id, "-", path, dialect.name, answer.status, 0.0, 0, error.reason)

    def note_page(
        self,
        request_id: str,
        method: str,
        path: str,
        dialect: str,
        status: int,
        seconds: float,
        size: int,
        reason: str = "",
    ) -> None:
        """Log a request that was no scoring request."""
        if self._log.wants(status):
            self._log.log(
                request_id, method, path, dialect, status, seconds, 0.0, 0, 0, size, reason
            )


def azure_ids(sent: dict[bytes, bytes], request_id: str) -> tuple[tuple[str, str], ...]:
    """The ids that Azure ML's server echoes: one is taken for the other where a client sent only one.

    Args:
        sent: request headers.
        request_id: for a client that sent none.
    """
    client = _short_id(sent, b"x-ms-client-request-id")
    old = _short_id(sent, b"x-ms-request-id")
    # Office services trace by a header of their own.
    trace = _short_id(sent, b"traceid")
    return (
        ("x-ms-request-id", old or client or request_id),
        *([("x-ms-client-request-id", client or old)] if client or old else []),
        *([("TraceId", trace)] if trace else []),
    )


def _short_id(headers: dict[bytes, bytes], name: bytes) -> str:
    try:
        return read_id(headers, name)
    except RequestError:
        return ""
