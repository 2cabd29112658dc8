"""Lists of status conditions: look up, set, remove. Pure; inputs are never edited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from local_cluster.controllers.times import format_time

Condition = dict[str, Any]


def find_condition(conditions: Iterable[Condition] | None, type_: str) -> Condition | None:
    """The condition of a type, or None."""
    return next((item for item in conditions or [] if item.get("type") == type_), None)


def is_true(status: Mapping[str, Any] | None, type_: str) -> bool:
    """Whether a status has a condition of a type that is True."""
    condition = find_condition((status or {}).get("conditions"), type_)
    return condition is not None and condition.get("status") == "True"


def without_condition(conditions: Iterable[Condition], type_: str) -> list[Condition]:
    """All conditions but those of a type."""
    return [item for item in conditions if item.get("type") != type_]


def with_condition(
    conditions: Iterable[Condition],
    type_: str,
    status: str,
    reason: str,
    message: str,
    at: datetime,
    *,
    update_time: bool = False,
) -> list[Condition]:
    """Set a condition; its transition time moves only when the status does.

    As kube-controller-manager does for Deployments, a condition whose status and reason stay is
    left alone, message included.

    Args:
        conditions: what is there.
        type_: the condition's type.
        status: ``True``, ``False`` or ``Unknown``.
        reason: one CamelCase word.
        message: the sentence.
        at: now.
        update_time: also write lastUpdateTime, which Deployments have.
    """
    conditions = list(conditions)
    current = find_condition(conditions, type_)
    if current and current.get("status") == status and current.get("reason") == reason:
        return conditions
    stamp = format_time(at)
    fresh: Condition = {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp,
    }
    if update_time:
        fresh["lastUpdateTime"] = stamp
    if current and current.get("status") == status:
        fresh["lastTransitionTime"] = current.get("lastTransitionTime", stamp)
    return [*without_condition(conditions, type_), fresh]
