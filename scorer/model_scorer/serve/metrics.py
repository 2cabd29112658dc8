"""The shared counters as Prometheus metrics: summed over the workers, names and units by convention.

https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from model_scorer import __version__
from model_scorer.serve.shared import (
    DIALECTS,
    IN_FLIGHT,
    OTHER_CODE,
    QUEUED,
    ROW_BUCKETS,
    STATE,
    STATE_READY,
    TIME_BUCKETS,
    Histogram,
    SharedStats,
)


@dataclass(slots=True)
class ModelFacts:
    """What the supervisor knows of the model.

    Attributes:
        name: of the ScoringModel.
        revision: of what is served.
        framework: of the model.
        version: of the framework; empty until loaded.
        phases: seconds by load phase (`load`, `warm_up`, `start`).
        restarts: workers that were replaced.
        ready: what `/readyz` says.
    """

    name: str
    revision: str
    framework: str
    version: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    restarts: int = 0
    ready: bool = False


class ScorerCollector(Collector):
    """Renders the shared numbers at scrape time.

    Args:
        stats: all workers' slots.
        facts: about the model.
    """

    def __init__(self, stats: SharedStats, facts: ModelFacts) -> None:
        self._stats = stats
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """Every metric of the scorer."""
        slots = self._stats.slots
        yield from self._collect_requests()
        latency = HistogramMetricFamily(
            "scorer_request_duration_seconds",
            "From a request's last byte to its answer.",
            labels=["dialect"],
        )
        for index, dialect in enumerate(DIALECTS):
            histogram = _sum([slot.latency(index) for slot in slots])
            if sum(histogram.counts):
                latency.add_metric([dialect], *_cumulate(histogram, TIME_BUCKETS))
        yield latency
        for name, text, bounds, histogram in (
            (
                "scorer_queue_duration_seconds",
                "Wait of a request for the model.",
                TIME_BUCKETS,
                _sum([slot.queue_time() for slot in slots]),
            ),
            (
                "scorer_batch_rows",
                "Rows in one call of the model.",
                ROW_BUCKETS,
                _sum([slot.batch_rows() for slot in slots]),
            ),
        ):
            family = HistogramMetricFamily(name, text)
            family.add_metric([], *_cumulate(histogram, bounds))
            yield family
        yield from self._collect_gauges()

    def _collect_requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "scorer_requests", "Answered requests.", labels=["dialect", "code"]
        )
        counts: dict[tuple[str, int], int] = {}
        errors: dict[str, int] = {}
        for slot in self._stats.slots:
            for key, value in slot.requests().items():
                counts[key] = counts.get(key, 0) + value
            for reason, value in slot.errors().items():
                errors[reason] = errors.get(reason, 0) + value
        for (dialect, code), value in sorted(counts.items()):
            requests.add_metric([dialect, "other" if code == OTHER_CODE else str(code)], value)
        yield requests
        failures = CounterMetricFamily("scorer_errors", "Failed requests.", labels=["reason"])
        for reason, value in sorted(errors.items()):
            failures.add_metric([reason], value)
        yield failures
        yield CounterMetricFamily(
            "scorer_model_seconds",
            "Time spent in the model.",
            value=sum(slot.compute_seconds() for slot in self._stats.slots),
        )

    def _collect_gauges(self) -> Iterator[Metric]:
        slots, facts = self._stats.slots, self._facts
        for name, text, value in (
            ("scorer_requests_in_flight", "Requests being answered.", _total(self._stats, IN_FLIGHT)),
            ("scorer_requests_queued", "Requests that wait for the model.", _total(self._stats, QUEUED)),
            ("scorer_connections_open", "Open connections.", sum(s.open_connections() for s in slots)),
            ("scorer_workers_ready", "Workers that serve.", sum(s.ints[STATE] == STATE_READY for s in slots)),
            ("scorer_ready", "Whether the pod is ready.", int(facts.ready)),
        ):  # fmt: skip
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily(
            "scorer_worker_restarts", "Workers that were replaced.", value=facts.restarts
        )
        phases = GaugeMetricFamily(
            "scorer_load_duration_seconds", "Time of each load phase.", labels=["phase"]
        )
        for phase, seconds in sorted(facts.phases.items()):
            phases.add_metric([phase], seconds)
        yield phases
        yield InfoMetricFamily(
            "scorer_model",
            "What is served, by what.",
            value={
                "model": facts.name,
                "revision": facts.revision,
                "framework": facts.framework,
                "framework_version": facts.version,
                "scorer_version": __version__,
            },
        )


def _total(stats: SharedStats, position: int) -> int:
    return sum(slot.ints[position] for slot in stats.slots)


def _sum(histograms: Sequence[Histogram]) -> Histogram:
    counts = [sum(column) for column in zip(*(h.counts for h in histograms), strict=True)]
    return Histogram(counts, sum(h.total for h in histograms))


def _cumulate(
    histogram: Histogram, bounds: Sequence[float]
) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus wants them, each with all below it, and the sum."""
    buckets, running = [], 0
    for bound, count in zip((*bounds, float("inf")), histogram.counts, strict=True):
        running += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
    return buckets, histogram.total
