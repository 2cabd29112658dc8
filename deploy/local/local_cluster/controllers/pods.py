"""What a pod's status says: active, ready, available, and which pod goes first. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from local_cluster.controllers.conditions import find_condition, is_true
from local_cluster.controllers.times import parse_time, seconds_since

Pod = dict[str, Any]

_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


def is_terminal(pod: Pod) -> bool:
    """Whether all of the pod's containers ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_terminating(pod: Pod) -> bool:
    """Whether the pod is being deleted."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_active(pod: Pod) -> bool:
    """Whether the pod counts for its controller: neither ended nor being deleted."""
    return not is_terminal(pod) and not is_terminating(pod)


def is_ready(pod: Pod) -> bool:
    """Whether the pod's Ready condition is True."""
    return is_true(pod.get("status"), "Ready")


def available_in(pod: Pod, min_ready_seconds: int, at: datetime) -> float | None:
    """Seconds until the pod counts as available; 0 when it is, None when it is not ready."""
    condition = find_condition(pod.get("status", {}).get("conditions"), "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    if min_ready_seconds <= 0:
        return 0.0
    return max(0.0, min_ready_seconds - seconds_since(condition.get("lastTransitionTime"), at))


def pods_to_delete(pods: Iterable[Pod], count: int, at: datetime) -> list[Pod]:
    """Choose which pods of a ReplicaSet go, the least useful first.

    The order of kube-controller-manager's ActivePodsWithRanks: unscheduled, pending, not ready,
    lower deletion cost, ready for a shorter time (in powers of two), more restarts, younger.
    """
    return sorted(pods, key=lambda pod: _rank(pod, at))[:count]


def _rank(pod: Pod, at: datetime) -> tuple[Any, ...]:
    status: Mapping[str, Any] = pod.get("status", {})
    ready = is_ready(pod)
    condition = find_condition(status.get("conditions"), "Ready") or {}
    restarts = max(
        (item.get("restartCount", 0) for item in status.get("containerStatuses") or []), default=0
    )
    created = parse_time(pod["metadata"].get("creationTimestamp")) or at
    return (
        bool(pod.get("spec", {}).get("nodeName")),
        _PHASE_RANK.get(status.get("phase", "Pending"), 0),
        ready,
        _cost(pod),
        _bucket(seconds_since(condition.get("lastTransitionTime"), at)) if ready else 0,
        -restarts,
        _bucket((at - created).total_seconds()),
        pod["metadata"].get("uid", ""),
    )


def _cost(pod: Pod) -> int:
    try:
        return int((pod["metadata"].get("annotations") or {}).get(_DELETION_COST, "0"))
    except ValueError:
        return 0


def _bucket(seconds: float) -> float:
    # Powers of two, so that pods of nearly one age are equally good choices.
    if math.isinf(seconds):
        return math.inf
    return math.floor(math.log2(seconds)) if seconds >= 1 else -1
