"""Prometheus metrics of the operator itself."""

from __future__ import annotations

import re
from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from scoring_operator.api import Manifest

# /api/v1/namespaces/NS/pods/NAME/status and the like: the resource is what counts.
_RESOURCE = re.compile(r"^/(?:api|apis/[^/]+)/[^/]+/(?:namespaces/[^/]+/)?([a-z]+)")


class Metrics:
    """All metrics in a registry of their own.

    Args:
        queue_length: tells how many keys wait.
        models: gives all ScoringModels, for the number of models by reason.
    """

    def __init__(
        self, queue_length: Callable[[], int], models: Callable[[], Iterable[Manifest]]
    ) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "scoring_operator_reconciles",
            "Reconciles by result (changed, unchanged, gone, retry, error).",
            ["result"],
            registry=self.registry,
        )
        self.duration = Histogram(
            "scoring_operator_reconcile_seconds",
            "Time that one reconcile took.",
            registry=self.registry,
        )
        self.waited = Histogram(
            "scoring_operator_queue_wait_seconds",
            "Time that a key waited for a worker.",
            registry=self.registry,
        )
        self.calls = Counter(
            "scoring_operator_api_calls",
            "Calls to the Kubernetes API; code 0 means that no answer came.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        depth = Gauge(
            "scoring_operator_queue_depth", "Keys that wait for a worker.", registry=self.registry
        )
        depth.set_function(queue_length)
        self.registry.register(_ModelsByReason(models))

    def observe_call(self, verb: str, path: str, status: int) -> None:
        """Count one answer of the API server."""
        match = _RESOURCE.match(path)
        resource = match.group(1) if match else "discovery"
        self.calls.labels(verb, resource, str(status)).inc()


class _ModelsByReason(Collector):
    """Counts the models when somebody asks, so that it cannot drift."""

    def __init__(self, models: Callable[[], Iterable[Manifest]]) -> None:
        self._models = models

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "scoring_operator_models", "ScoringModels by reason of Ready.", labels=["reason"]
        )
        tally = Tally(_reason(model) for model in self._models())
        for reason, count in sorted(tally.items()):
            family.add_metric([reason], count)
        yield family


def _reason(model: Manifest) -> str:
    for c in (model.get("status") or {}).get("conditions") or ():
        if c.get("type") == "Ready":
            return str(c.get("reason"))
    return "Unknown"
