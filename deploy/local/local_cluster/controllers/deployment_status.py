"""The status of a Deployment from what its ReplicaSets say. Pure.

Reasons and messages are those of kube-controller-manager (deployment/progress.go, sync.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from local_cluster.controllers.conditions import (
    Condition,
    find_condition,
    with_condition,
    without_condition,
)
from local_cluster.controllers.rollout import (
    Deployment,
    ReplicaSet,
    derive_fences,
    wanted_replicas,
)
from local_cluster.controllers.times import seconds_since

Status = dict[str, Any]

_NO_DEADLINE = 2**31 - 1
_COUNTERS = (
    "replicas",
    "updatedReplicas",
    "readyReplicas",
    "availableReplicas",
    "unavailableReplicas",
    "terminatingReplicas",
)


def deadline_seconds(deployment: Deployment) -> int | None:
    """``progressDeadlineSeconds``, or None where there is no deadline."""
    value = deployment["spec"].get("progressDeadlineSeconds", 600)
    return None if value is None or value == _NO_DEADLINE else int(value)


def derive_status(
    deployment: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet | None, at: datetime
) -> Status:
    """Counters and the Available condition."""

    def total(field: str) -> int:
        return sum(int(item.get("status", {}).get(field, 0)) for item in sets)

    available = total("availableReplicas")
    status: Status = {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": total("replicas"),
        "updatedReplicas": int((new or {}).get("status", {}).get("replicas", 0)),
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(wanted_replicas(item) for item in sets) - available),
        "terminatingReplicas": total("terminatingReplicas"),
    }
    # Zero counters are absent, as in the Go types; terminatingReplicas is a pointer there.
    status = {k: v for k, v in status.items() if v or k == "terminatingReplicas"}
    previous = deployment.get("status") or {}
    if previous.get("collisionCount") is not None:
        status["collisionCount"] = previous["collisionCount"]
    conditions: list[Condition] = list(previous.get("conditions") or [])
    enough = wanted_replicas(deployment) - derive_fences(deployment).unavailable
    if available >= enough:
        arguments = "True", "MinimumReplicasAvailable", "Deployment has minimum availability."
    else:
        arguments = (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    status["conditions"] = with_condition(conditions, "Available", *arguments, at, update_time=True)
    return status


def derive_rollout_status(
    deployment: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet | None, at: datetime
) -> Status:
    """The whole status in the course of a rollout, Progressing and ReplicaFailure included."""
    status = derive_status(deployment, sets, new, at)
    conditions: list[Condition] = status["conditions"]
    current = find_condition((deployment.get("status") or {}).get("conditions"), "Progressing")
    deadline = deadline_seconds(deployment)
    if deadline is None:
        conditions = without_condition(conditions, "Progressing")
    else:
        settled = (
            status.get("replicas", 0) == status.get("updatedReplicas", 0)
            and current is not None
            and current.get("reason") == "NewReplicaSetAvailable"
        )
        if not settled:
            conditions = _progress(deployment, status, conditions, current, new, deadline, at)
    failure = next(
        (
            condition
            for item in ([new] if new else []) + list(sets)
            if (
                condition := find_condition(
                    item.get("status", {}).get("conditions"), "ReplicaFailure"
                )
            )
            and condition.get("status") == "True"
        ),
        None,
    )
    if failure is not None:
        conditions = with_condition(
            conditions,
            "ReplicaFailure",
            "True",
            failure.get("reason", ""),
            failure.get("message", ""),
            at,
            update_time=True,
        )
    else:
        conditions = without_condition(conditions, "ReplicaFailure")
    status["conditions"] = conditions
    return status


def _progress(
    deployment: Deployment,
    status: Status,
    conditions: list[Condition],
    current: Condition | None,
    new: ReplicaSet | None,
    deadline: int,
    at: datetime,
) -> list[Condition]:
    subject = (
        f'ReplicaSet "{new["metadata"]["name"]}"'
        if new is not None
        else f'Deployment "{deployment["metadata"]["name"]}"'
    )
    if is_complete(deployment, status):
        return with_condition(
            conditions,
            "Progressing",
            "True",
            "NewReplicaSetAvailable",
            f"{subject} has successfully progressed.",
            at,
            update_time=True,
        )
    if _has_progressed(deployment.get("status") or {}, status):
        # Set anew even when nothing but the time changes: the deadline runs from there.
        fresh = with_condition(
            without_condition(conditions, "Progressing"),
            "Progressing",
            "True",
            "ReplicaSetUpdated",
            f"{subject} is progressing.",
            at,
            update_time=True,
        )
        if current is not None and current.get("status") == "True":
            fresh[-1]["lastTransitionTime"] = current.get("lastTransitionTime")
        return fresh
    if has_timed_out(deployment, deadline, at):
        return with_condition(
            conditions,
            "Progressing",
            "False",
            "ProgressDeadlineExceeded",
            f"{subject} has timed out progressing.",
            at,
            update_time=True,
        )
    return conditions


def is_complete(deployment: Deployment, status: Status) -> bool:
    """Whether all wanted pods run the current template, are available, and no other is left."""
    replicas = wanted_replicas(deployment)
    return bool(
        status.get("updatedReplicas", 0) == replicas
        and status.get("replicas", 0) == replicas
        and status.get("availableReplicas", 0) == replicas
        and status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    )


def _has_progressed(before: Status, after: Status) -> bool:
    def count(status: Status, field: str) -> int:
        return int(status.get(field, 0))

    def old(status: Status) -> int:
        return count(status, "replicas") - count(status, "updatedReplicas")

    return (
        count(after, "updatedReplicas") > count(before, "updatedReplicas")
        or old(after) < old(before)
        or count(after, "readyReplicas") > count(before, "readyReplicas")
        or count(after, "availableReplicas") > count(before, "availableReplicas")
    )


def has_timed_out(deployment: Deployment, deadline: int, at: datetime) -> bool:
    """Whether nothing has progressed for longer than the deadline."""
    condition = find_condition((deployment.get("status") or {}).get("conditions"), "Progressing")
    if condition is None or condition.get("reason") == "NewReplicaSetAvailable":
        return False
    if condition.get("reason") == "ProgressDeadlineExceeded":
        return True
    return seconds_since(condition.get("lastUpdateTime"), at) > deadline


def seconds_to_deadline(deployment: Deployment, status: Status, at: datetime) -> float | None:
    """When to look again so that a missed deadline is noticed; None where none can be missed."""
    deadline = deadline_seconds(deployment)
    condition = find_condition(status.get("conditions"), "Progressing")
    if deadline is None or condition is None or is_complete(deployment, status):
        return None
    if condition.get("reason") in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
        return None
    left = deadline - seconds_since(condition.get("lastUpdateTime"), at)
    # A second more than the deadline, because times in objects have no fractions.
    return max(0.0, left) + 1.0


def with_pause_condition(deployment: Deployment, at: datetime) -> list[Condition] | None:
    """The conditions after the Deployment was paused or resumed, None when nothing changes."""
    if deadline_seconds(deployment) is None:
        return None
    conditions = (deployment.get("status") or {}).get("conditions") or []
    current = find_condition(conditions, "Progressing") or {}
    if current.get("reason") == "ProgressDeadlineExceeded":
        return None
    noted = current.get("reason") == "DeploymentPaused"
    paused = bool(deployment["spec"].get("paused"))
    if paused == noted:
        return None
    word = "Paused" if paused else "Resumed"
    return with_condition(
        conditions,
        "Progressing",
        "Unknown",
        f"Deployment{word}",
        f"Deployment is {word.lower()}",
        at,
        update_time=True,
    )


def same_status(before: Status | None, after: Status) -> bool:
    """Whether two statuses say the same; absent counters count as zero."""

    def plain(status: Status) -> Status:
        counters = {name: int(status.get(name) or 0) for name in _COUNTERS}
        return {**status, **counters, "conditions": status.get("conditions") or []}

    return plain(before or {}) == plain(after)
