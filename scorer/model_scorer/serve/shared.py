"""Counters in memory that all processes share: each worker writes its own slot, the supervisor reads them all.

One writer a number, eight aligned bytes each, so no lock. A replaced worker takes over its predecessor's slot, and
counters go on where they were, as Prometheus wants them.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from dataclasses import dataclass

DIALECTS = ("score", "v1", "v2", "invocations", "predictions", "other")
CODES = (200, 308, 400, 401, 404, 405, 408, 413, 414, 415, 422, 431, 500, 501, 503, 504)
OTHER_CODE = 0
REASONS = (
    "bad_request",
    "invalid_input",
    "unprocessable",
    "unauthorized",
    "not_found",
    "method_not_allowed",
    "slow_client",
    "payload_too_large",
    "uri_too_long",
    "unsupported_media",
    "headers_too_large",
    "model_failed",
    "not_supported",
    "overloaded",
    "not_ready",
    "deadline_exceeded",
    "plain_http",
    "internal",
)
# Seconds: from an inline model's fifty microseconds to a minute.
TIME_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
ROW_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

# Gauges and plain counters of a slot, by position.
(
    STATE,
    PID,
    HEARTBEAT_MS,
    IN_FLIGHT,
    QUEUED,
    ACCEPTED,
    CLOSED,
    ASSIGNED,
    RESTARTS,
    COMPUTE_SINCE_MS,
    EXPECTED,
) = range(11)
_PLAIN = 11

STATE_DOWN, STATE_STARTING, STATE_READY, STATE_RETIRING = range(4)

_CODE_INDEX = {code: index for index, code in enumerate(CODES)}
_REASON_INDEX = {reason: index for index, reason in enumerate(REASONS)}
_CODES_WIDTH = len(CODES) + 1
_TIMES_WIDTH = len(TIME_BUCKETS) + 1
_ROWS_WIDTH = len(ROW_BUCKETS) + 1

_REQUESTS = _PLAIN
_LATENCY = _REQUESTS + len(DIALECTS) * _CODES_WIDTH
_QUEUE = _LATENCY + len(DIALECTS) * _TIMES_WIDTH
_ROWS = _QUEUE + _TIMES_WIDTH
_ERRORS = _ROWS + _ROWS_WIDTH
_INTS = _ERRORS + len(REASONS)
# Sums: latency by dialect, queue time, rows, time in the model.
_FLOATS = len(DIALECTS) + 3
_SLOT = (_INTS + _FLOATS) * 8


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by bucket (not cumulative; one more than the bounds) and the sum of what was observed."""

    counts: list[int]
    total: float


class WorkerSlot:
    """One worker's numbers.

    Args:
        memory: the slot's bytes.
    """

    __slots__ = ("floats", "ints")

    def __init__(self, memory: memoryview) -> None:
        self.ints = memory[: _INTS * 8].cast("q")
        self.floats = memory[_INTS * 8 : _SLOT].cast("d")

    def count_request(self, dialect: int, status: int, seconds: float) -> None:
        """One answered request of the dialect with that index in `DIALECTS`."""
        ints = self.ints
        ints[_REQUESTS + dialect * _CODES_WIDTH + _CODE_INDEX.get(status, len(CODES))] += 1
        ints[_LATENCY + dialect * _TIMES_WIDTH + bisect_left(TIME_BUCKETS, seconds)] += 1
        self.floats[dialect] += seconds

    def count_queued(self, seconds: float, jobs: int = 1) -> None:
        """How long requests that were taken together waited for the model, each."""
        self.ints[_QUEUE + bisect_left(TIME_BUCKETS, seconds)] += jobs
        self.floats[len(DIALECTS)] += seconds * jobs

    def count_batch(self, rows: int, seconds: float) -> None:
        """One call of the model."""
        self.ints[_ROWS + bisect_left(ROW_BUCKETS, rows)] += 1
        self.floats[len(DIALECTS) + 1] += rows
        self.floats[len(DIALECTS) + 2] += seconds

    def note_expected(self, jobs: int) -> None:
        """Clients that were just answered, and most likely ask again at once."""
        self.ints[EXPECTED] = jobs

    def count_error(self, reason: str) -> None:
        """One request that ended in an error of ours."""
        self.ints[_ERRORS + _REASON_INDEX.get(reason, len(REASONS) - 1)] += 1

    def requests(self) -> dict[tuple[str, int], int]:
        """Answered requests by dialect and code; codes outside `CODES` are `OTHER_CODE`."""
        out = {}
        for d, dialect in enumerate(DIALECTS):
            for c, code in enumerate((*CODES, OTHER_CODE)):
                value = self.ints[_REQUESTS + d * _CODES_WIDTH + c]
                if value:
                    out[dialect, code] = value
        return out

    def latency(self, dialect: int) -> Histogram:
        """Seconds from the request's last byte to its answer."""
        start = _LATENCY + dialect * _TIMES_WIDTH
        return Histogram(self.ints[start : start + _TIMES_WIDTH].tolist(), self.floats[dialect])

    def queue_time(self) -> Histogram:
        """Seconds between acceptance and the start of the model's call."""
        return Histogram(
            self.ints[_QUEUE : _QUEUE + _TIMES_WIDTH].tolist(), self.floats[len(DIALECTS)]
        )

    def batch_rows(self) -> Histogram:
        """Rows per call of the model."""
        return Histogram(
            self.ints[_ROWS : _ROWS + _ROWS_WIDTH].tolist(), self.floats[len(DIALECTS) + 1]
        )

    def compute_seconds(self) -> float:
        """Time spent in the model."""
        return self.floats[len(DIALECTS) + 2]

    def errors(self) -> dict[str, int]:
        """Failed requests by reason."""
        return {
            reason: self.ints[_ERRORS + index]
            for index, reason in enumerate(REASONS)
            if self.ints[_ERRORS + index]
        }

    def open_connections(self) -> int:
        """Connections handed to the worker and not closed."""
        return self.ints[ASSIGNED] - self.ints[CLOSED]


# Connections that the supervisor can answer for when their worker dies; beyond it they are only closed.
MAX_TRACKED = 65536
# What is due on a connection of which no worker has read a byte.
UNREAD = 254


class SharedStats:
    """The slots of all workers, in anonymous memory that forked processes share.

    `pending` has one byte for each connection number: what is due to its client. That is 1 + the index of the dialect whose
    answer it waits for, `UNREAD`, or `NOTHING_DUE` and `READING` of the room `http1`.

    Args:
        workers: number of slots.
    """

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, max(_SLOT * workers, mmap.PAGESIZE))
        self._flags = mmap.mmap(-1, MAX_TRACKED)
        self.pending = memoryview(self._flags)
        view = memoryview(self._memory)
        self.slots = [WorkerSlot(view[i * _SLOT : (i + 1) * _SLOT]) for i in range(workers)]
