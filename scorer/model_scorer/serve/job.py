"""A scoring request from its first validation to its answer: the exchange itself, with what the server notes on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.http1.exchange import Exchange
from model_scorer.runtimes.protocol import Output, Prepared

if TYPE_CHECKING:
    from model_scorer.http1.connection import Connection
    from model_scorer.http1.tornado_bridge import ExchangeConnection
    from model_scorer.serve.app import ScoringApp
    from model_scorer.serve.routes import Route
    from model_scorer.serve.tracing import RequestSpan

NOTHING = Prepared(None, 0, None)


class ScoringJob(Exchange):
    """See the module. One object a request, for each further one would cost as much as decoding a row.

    Attributes:
        route: None for what Tornado answers.
        request_id: the client's or a new one; empty until it is known.
        prepared: the runtime's form of the input.
        context: what the dialect needs to encode the answer.
        deadline: monotonic time.
        queued_at: monotonic time.
        counted: it is one of the requests in flight.
        settled: it has its outcome, or needs none any more.
        page: Tornado's view of it.
        span: its trace, where traces are on.
    """

    __slots__ = (
        "app",
        "context",
        "counted",
        "deadline",
        "page",
        "prepared",
        "queued_at",
        "request_id",
        "route",
        "settled",
        "span",
    )

    def __init__(
        self,
        app: ScoringApp,
        connection: Connection,
        request: HttpRequest,
        keep_alive: bool,
        http_1_0: bool,
        received_at: float,
    ) -> None:
        self.connection = connection
        self.request = request
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.received_at = self.queued_at = received_at
        self.app = app
        self.route: Route | None = None
        self.request_id = ""
        self.prepared = NOTHING
        self.context: Any = None
        self.deadline = received_at + app.timeout_seconds
        self.counted = False
        self.settled = False
        self.page: ExchangeConnection | None = None
        self.span: RequestSpan | None = None

    def settle(self, outcome: Output | Exception, exec_seconds: float) -> None:
        """Answer with the outcome."""
        self.settled = True
        self.app.answer(self, outcome, exec_seconds)
