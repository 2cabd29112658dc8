"""Kubernetes Events: one for each change of the Ready condition, and never a flood."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from datetime import datetime

from scoring_operator.api import Key, Manifest
from scoring_operator.status import Reason
from scoring_operator.status.conditions import shorten

COMPONENT = "scoring-operator"

# The same news about the same model is told at most this often; a model that flaps must not fill etcd.
_REPEAT_SECONDS = 600.0
_MAX_MEMORY = 10_000
# The API server refuses longer messages.
_MAX_MESSAGE = 1024

_NORMAL = {
    Reason.READY,
    Reason.PROGRESSING,
    Reason.SCALED_TO_ZERO,
    Reason.MODEL_DOWNLOADING,
    Reason.MODEL_LOADING,
    Reason.INGRESS_PENDING,
    Reason.CERTIFICATE_PENDING,
}


class EventLimiter:
    """Lets each (model, reason) through once in a while.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[tuple[Key, str], float] = {}

    def admit(self, key: Key, reason: str) -> bool:
        """Whether to post an event about this reason now."""
        now = self._clock()
        last = self._last.get((key, reason))
        if last is not None and now - last < _REPEAT_SECONDS:
            return False
        if len(self._last) >= _MAX_MEMORY:
            self._last = {k: t for k, t in self._last.items() if now - t < _REPEAT_SECONDS}
        self._last[key, reason] = now
        return True


def build_event(model: Manifest, condition: Manifest, *, now: datetime) -> Manifest:
    """The event that tells of a new Ready condition.

    Args:
        model: the ScoringModel as stored.
        condition: its new condition.
        now: with time zone.
    """
    metadata = model["metadata"]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{secrets.token_hex(8)}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": model["apiVersion"],
            "kind": model["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": "Normal" if condition["reason"] in _NORMAL else "Warning",
        "reason": condition["reason"],
        "message": shorten(condition["message"], _MAX_MESSAGE),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": socket.gethostname(),
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
