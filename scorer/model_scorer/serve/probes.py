"""The probe port: `/livez`, `/readyz`, `/startupz`, `/metrics`. It lives in the supervisor, which never runs a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from tornado.web import Application, RequestHandler

from model_scorer.json_text import encode_json
from model_scorer.serve.metrics import ScorerCollector

Check = Callable[[], str]


class CheckHandler(RequestHandler):
    """200 when a check finds nothing to complain about, 503 with the reason otherwise."""

    def initialize(self, check: Check) -> None:
        """Tornado's own constructor."""
        self._check = check

    def get(self) -> None:
        """The check's result."""
        problem = self._check()
        self.set_status(503 if problem else 200)
        self.set_header("Content-Type", "application/json")
        body: dict[str, Any] = {"ok": not problem}
        if problem:
            body["reason"] = problem
        self.finish(encode_json(body))

    head = get


class MetricsHandler(RequestHandler):
    """All metrics, in the text format that the client asks for."""

    def initialize(self, registry: CollectorRegistry) -> None:
        """Tornado's own constructor."""
        self._registry = registry

    def get(self) -> None:
        """The exposition."""
        encode, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", content_type)
        self.finish(encode(self._registry))


def build_probes(
    *, live: Check, ready: Check, started: Check, collector: ScorerCollector
) -> Application:
    """The probe port's application; each check returns what is wrong, or the empty text."""
    registry = CollectorRegistry()
    registry.register(collector)
    return Application(
        [
            ("/livez", CheckHandler, {"check": live}),
            ("/readyz", CheckHandler, {"check": ready}),
            ("/startupz", CheckHandler, {"check": started}),
            ("/metrics", MetricsHandler, {"registry": registry}),
        ],
        log_function=lambda handler: None,
    )
