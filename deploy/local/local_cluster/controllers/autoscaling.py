"""How many replicas a HorizontalPodAutoscaler wants. Pure.

The rules of kube-controller-manager's podautoscaler (replica_calculator.go, horizontal.go).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from local_cluster.controllers.conditions import find_condition
from local_cluster.controllers.pods import is_ready
from local_cluster.controllers.quantities import parse_milli
from local_cluster.controllers.times import parse_time, seconds_since
from local_cluster.quantities import parse_quantity

Pod = dict[str, Any]

TOLERANCE = 0.1
CPU_INITIALIZATION_SECONDS = 300.0
INITIAL_READINESS_SECONDS = 30.0
DOWNSCALE_STABILIZATION_SECONDS = 300.0


class MetricError(Exception):
    """A metric has no value; ``reason`` is that of the ScalingActive condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What one metric asks for.

    Args:
        replicas: the wanted number.
        utilization: average use in percent of the requests, None for value targets.
        average_milli: average use per pod in thousandths.
    """

    replicas: int
    utilization: int | None
    average_milli: int


@dataclass(slots=True)
class _Groups:
    used: dict[str, int] = field(default_factory=dict)
    unready: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)


def group_pods(
    pods: Sequence[Pod], usage: Mapping[str, int], resource: str, at: datetime, window: float = 30.0
) -> _Groups:
    """Sort pods into measured, unready (not counted yet) and missing a measurement."""
    groups = _Groups()
    for pod in pods:
        name = pod["metadata"]["name"]
        status = pod.get("status", {})
        if pod["metadata"].get("deletionTimestamp") or status.get("phase") == "Failed":
            continue
        if status.get("phase") == "Pending":
            groups.unready.add(name)
            continue
        if name not in usage:
            groups.missing.add(name)
            continue
        if resource == "cpu":
            ready = find_condition(status.get("conditions"), "Ready")
            started = parse_time(status.get("startTime"))
            if ready is None or started is None:
                unready = True
            else:
                moved = parse_time(ready.get("lastTransitionTime")) or started
                age = (at - started).total_seconds()
                if age < CPU_INITIALIZATION_SECONDS:
                    # Start-up work is no load: wait for a whole window of measurements.
                    unready = not is_ready(pod) or (at - moved).total_seconds() < window
                else:
                    unready = (
                        not is_ready(pod)
                        and (moved - started).total_seconds() < INITIAL_READINESS_SECONDS
                    )
            if unready:
                groups.unready.add(name)
                continue
        groups.used[name] = usage[name]
    return groups


def recommend(
    pods: Sequence[Pod],
    usage: Mapping[str, int],
    requests: Mapping[str, int],
    current: int,
    at: datetime,
    *,
    resource: str,
    target_utilization: int | None = None,
    target_average_milli: int | None = None,
    tolerance_up: float = TOLERANCE,
    tolerance_down: float = TOLERANCE,
) -> Recommendation:
    """How many replicas keep the average use at its target.

    Args:
        pods: the pods of the scaled object.
        usage: measured use in thousandths by pod name.
        requests: requested amounts in thousandths by pod name, for utilisation targets.
        current: ``spec.replicas`` of the scaled object.
        at: now.
        resource: ``cpu`` or another resource's name; cpu has rules for starting pods.
        target_utilization: percent of the requests.
        target_average_milli: thousandths per pod; one of the two targets is given.
        tolerance_up: how far above the target counts as on it.
        tolerance_down: how far below.

    Raises:
        MetricError: nothing was measured.
    """
    groups = group_pods(pods, usage, resource, at)
    if not groups.used:
        raise MetricError(
            "FailedGetResourceMetric",
            "did not receive metrics for targeted pods (pods might be unready)",
        )

    def ratio(used: Mapping[str, int]) -> tuple[float, int | None]:
        if target_utilization is not None:
            requested = sum(requests[name] for name in used)
            if requested == 0:
                raise MetricError(
                    "FailedGetResourceMetric", "no metrics returned matched known pods"
                )
            utilization = int(sum(used.values()) * 100 // requested)
            return utilization / target_utilization, utilization
        assert target_average_milli is not None
        return sum(used.values()) / (target_average_milli * len(used)), None

    used = dict(groups.used)
    average = math.ceil(sum(used.values()) / len(used))
    first, utilization = ratio(used)

    def within(value: float) -> bool:
        return 1.0 - tolerance_down <= value <= 1.0 + tolerance_up

    rebalance = bool(groups.unready) and first > 1.0
    if not rebalance and not groups.missing:
        if within(first):
            return Recommendation(current, utilization, average)
        return Recommendation(math.ceil(first * len(used)), utilization, average)
    if groups.missing:
        # Be careful with what is not known: no growth and no shrinking because of it.
        if first < 1.0:
            for name in groups.missing:
                target = target_utilization if target_utilization is not None else 0
                fill = max(100, target) * requests.get(name, 0) // 100
                used[name] = fill if target_utilization is not None else (target_average_milli or 0)
        elif first > 1.0:
            for name in groups.missing:
                used[name] = 0
    if rebalance:
        for name in groups.unready:
            used[name] = 0
    second, _ = ratio(used)
    if within(second) or (first < 1.0) != (second < 1.0):
        return Recommendation(current, utilization, average)
    replicas = math.ceil(second * len(used))
    if (second < 1.0 and replicas > current) or (second > 1.0 and replicas < current):
        replicas = current
    return Recommendation(replicas, utilization, average)


@dataclass(slots=True)
class History:
    """What an autoscaler did and wanted, for windows and policies; times in seconds."""

    recommendations: list[tuple[float, int]] = field(default_factory=list)
    ups: list[tuple[float, int]] = field(default_factory=list)
    downs: list[tuple[float, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Limited:
    """A wanted number after all rules, with the reasons of the conditions."""

    replicas: int
    able_reason: str
    able_message: str
    limited: bool
    limited_reason: str
    limited_message: str


_DEFAULT_UP: dict[str, Any] = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
_DEFAULT_DOWN: dict[str, Any] = {
    "stabilizationWindowSeconds": DOWNSCALE_STABILIZATION_SECONDS,
    "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
}


def rules(spec: Mapping[str, Any], direction: str) -> dict[str, Any]:
    """The scaling rules of one direction with their defaults filled in."""
    defaults = _DEFAULT_UP if direction == "scaleUp" else _DEFAULT_DOWN
    given = (spec.get("behavior") or {}).get(direction) or {}
    return defaults | {name: value for name, value in given.items() if value is not None}


def limit(
    spec: Mapping[str, Any], current: int, wanted: int, history: History, clock: float
) -> Limited:
    """Apply stabilisation windows, policies and bounds to a wanted number of replicas.

    The recommendation is added to the history.

    Args:
        spec: the autoscaler's spec.
        current: replicas now.
        wanted: what the metrics ask for.
        history: what happened before.
        clock: monotonic seconds.
    """
    up, down = rules(spec, "scaleUp"), rules(spec, "scaleDown")
    minimum, maximum = int(spec.get("minReplicas") or 1), int(spec["maxReplicas"])
    stabilized = _stabilize(current, wanted, history, clock, up, down)
    able = ("ReadyForNewScale", "recommended size matches current size")
    if stabilized != wanted:
        able = (
            (
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            )
            if stabilized < wanted
            else (
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            )
        )
    reason, message, limited = (
        "DesiredWithinRange",
        "the desired count is within the acceptable range",
        False,
    )
    if stabilized > current:
        allowed = max(current, _scale_up_limit(current, history, up, clock))
        most = min(maximum, allowed)
        if stabilized > most:
            limited = True
            if maximum > allowed:
                reason = "ScaleUpLimit"
                message = (
                    "the desired replica count is increasing faster than the maximum scale rate"
                )
            else:
                reason = "TooManyReplicas"
                message = "the desired replica count is more than the maximum replica count"
            stabilized = most
    elif stabilized < current:
        allowed = min(current, _scale_down_limit(current, history, down, clock))
        least = max(minimum, allowed)
        if stabilized < least:
            limited = True
            if minimum < allowed:
                reason = "ScaleDownLimit"
                message = (
                    "the desired replica count is decreasing faster than the maximum scale rate"
                )
            else:
                reason = "TooFewReplicas"
                message = "the desired replica count is less than the minimum replica count"
            stabilized = least
    return Limited(stabilized, *able, limited, reason, message)


def _stabilize(
    current: int,
    wanted: int,
    history: History,
    clock: float,
    up: Mapping[str, Any],
    down: Mapping[str, Any],
) -> int:
    up_window = float(up["stabilizationWindowSeconds"])
    down_window = float(down["stabilizationWindowSeconds"])
    lowest = highest = wanted
    for when, value in history.recommendations:
        if clock - when < up_window:
            lowest = min(lowest, value)
        if clock - when < down_window:
            highest = max(highest, value)
    keep = max(up_window, down_window)
    history.recommendations = [
        item for item in history.recommendations if clock - item[0] <= keep
    ] + [(clock, wanted)]
    result = current
    if result < lowest:
        result = lowest
    if result > highest:
        result = highest
    return result


def _changes(events: Iterable[tuple[float, int]], period: float, clock: float) -> int:
    return sum(change for when, change in events if clock - when < period)


def _scale_up_limit(current: int, history: History, rule: Mapping[str, Any], clock: float) -> int:
    if rule.get("selectPolicy") == "Disabled":
        return current
    limits = []
    for policy in rule["policies"]:
        period = float(policy["periodSeconds"])
        start = (
            current - _changes(history.ups, period, clock) + _changes(history.downs, period, clock)
        )
        if policy["type"] == "Pods":
            limits.append(start + int(policy["value"]))
        else:
            limits.append(math.ceil(start * (1 + int(policy["value"]) / 100)))
    return min(limits) if rule.get("selectPolicy") == "Min" else max(limits)


def _scale_down_limit(current: int, history: History, rule: Mapping[str, Any], clock: float) -> int:
    if rule.get("selectPolicy") == "Disabled":
        return current
    limits = []
    for policy in rule["policies"]:
        period = float(policy["periodSeconds"])
        start = (
            current - _changes(history.ups, period, clock) + _changes(history.downs, period, clock)
        )
        if policy["type"] == "Pods":
            limits.append(start - int(policy["value"]))
        else:
            limits.append(int(start * (1 - int(policy["value"]) / 100)))
    return max(limits) if rule.get("selectPolicy") == "Min" else min(limits)


def usage_by_pod(
    metrics: Iterable[Mapping[str, Any]], resource: str, container: str | None = None
) -> dict[str, int]:
    """Measured use in thousandths by pod name; pods with an unmeasured container are left out."""
    result: dict[str, int] = {}
    for item in metrics:
        total = 0
        found = container is None
        for measured in item.get("containers") or []:
            if container is not None and measured["name"] != container:
                continue
            value = (measured.get("usage") or {}).get(resource)
            if value is None:
                found = False
                break
            found = True
            total += parse_milli(value)
        if found and item.get("containers"):
            result[item["metadata"]["name"]] = total
    return result


def requests_by_pod(
    pods: Iterable[Pod], resource: str, container: str | None = None
) -> dict[str, int]:
    """Requested amounts in thousandths by pod name.

    Raises:
        MetricError: a container that counts has no request.
    """
    result: dict[str, int] = {}
    for pod in pods:
        total = 0
        for item in pod["spec"].get("containers") or []:
            if container is not None and item["name"] != container:
                continue
            request = ((item.get("resources") or {}).get("requests") or {}).get(resource)
            if request is None:
                raise MetricError(
                    "FailedGetResourceMetric",
                    f"missing request for {resource} in container {item['name']} "
                    f"of Pod {pod['metadata']['name']}",
                )
            total += parse_milli(request)
        result[pod["metadata"]["name"]] = total
    return result


def is_fresh(metrics: Mapping[str, Any], at: datetime, max_age_seconds: float = 120.0) -> bool:
    """Whether a measurement is recent enough to act on."""
    return seconds_since(metrics.get("timestamp"), at) <= max_age_seconds


def tolerance_of(spec: Mapping[str, Any], direction: str) -> float:
    """The tolerance of one direction, by default a tenth."""
    value = rules(spec, direction).get("tolerance")
    return TOLERANCE if value is None else float(parse_quantity(value))
