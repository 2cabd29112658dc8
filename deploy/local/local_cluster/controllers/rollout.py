"""The arithmetic of a rollout: how many pods each ReplicaSet shall have. Pure.

The rules and their rounding are those of kube-controller-manager's deployment controller
(kubernetes/pkg/controller/deployment and .../util).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from local_cluster.controllers.quantities import round_half_away, scaled_value

Deployment = dict[str, Any]
ReplicaSet = dict[str, Any]

DESIRED_ANNOTATION = "deployment.kubernetes.io/desired-replicas"
MAX_ANNOTATION = "deployment.kubernetes.io/max-replicas"


@dataclass(frozen=True, slots=True)
class Fences:
    """The bounds a rolling update keeps.

    Args:
        surge: pods allowed above the wanted number.
        unavailable: pods that may be missing from the wanted number.
    """

    surge: int
    unavailable: int


def wanted_replicas(item: Deployment | ReplicaSet) -> int:
    """``spec.replicas`` with its default of 1."""
    value = item["spec"].get("replicas")
    return 1 if value is None else int(value)


def available_replicas(item: ReplicaSet) -> int:
    """``status.availableReplicas`` with its default of 0."""
    return int(item.get("status", {}).get("availableReplicas", 0))


def is_rolling(deployment: Deployment) -> bool:
    """Whether the strategy is RollingUpdate, which is the default."""
    strategy = deployment["spec"].get("strategy") or {}
    return str(strategy.get("type", "RollingUpdate")) == "RollingUpdate"


def derive_fences(deployment: Deployment) -> Fences:
    """MaxSurge rounded up, maxUnavailable rounded down, never both zero."""
    if not is_rolling(deployment):
        return Fences(0, 0)
    replicas = wanted_replicas(deployment)
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    surge = scaled_value(rolling.get("maxSurge", "25%"), replicas, round_up=True)
    unavailable = scaled_value(rolling.get("maxUnavailable", "25%"), replicas, round_up=False)
    if surge == 0 and unavailable == 0:
        # Otherwise a percentage of few pods would stop the rollout for ever.
        unavailable = 1
    if replicas == 0:
        unavailable = 0
    return Fences(surge, min(unavailable, replicas))


def new_replicaset_size(
    deployment: Deployment, all_sets: Iterable[ReplicaSet], new: ReplicaSet | None
) -> int:
    """How many pods the newest ReplicaSet may have now."""
    replicas = wanted_replicas(deployment)
    current = 0 if new is None else wanted_replicas(new)
    if not is_rolling(deployment):
        return replicas
    if current > replicas:
        return replicas
    total = sum(wanted_replicas(item) for item in all_sets)
    room = replicas + derive_fences(deployment).surge - total
    return current if room <= 0 else current + min(room, replicas - current)


def scale_down_old(
    deployment: Deployment,
    all_sets: Sequence[ReplicaSet],
    old_sets: Sequence[ReplicaSet],
    new: ReplicaSet | None,
) -> dict[str, int]:
    """How far old ReplicaSets shrink in this step of a rolling update.

    Unhealthy pods go first, since they serve nobody; then as many as availability allows.

    Returns:
        The new size by ReplicaSet name, only where it changes.
    """
    sizes = {item["metadata"]["name"]: wanted_replicas(item) for item in old_sets}
    if sum(sizes.values()) == 0:
        return {}
    before = dict(sizes)
    min_available = wanted_replicas(deployment) - derive_fences(deployment).unavailable
    total = sum(wanted_replicas(item) for item in all_sets)
    new_unavailable = 0 if new is None else wanted_replicas(new) - available_replicas(new)
    budget = total - min_available - new_unavailable
    if budget <= 0:
        return {}
    oldest_first = sorted(old_sets, key=_age)
    used = 0
    for item in oldest_first:
        name = item["metadata"]["name"]
        unhealthy = sizes[name] - available_replicas(item)
        step = min(budget - used, unhealthy)
        if step > 0:
            sizes[name] -= step
            used += step
    surplus = sum(available_replicas(item) for item in all_sets) - min_available
    for item in oldest_first:
        name = item["metadata"]["name"]
        step = min(sizes[name], surplus)
        if step > 0:
            sizes[name] -= step
            surplus -= step
    return {name: size for name, size in sizes.items() if size != before[name]}


def is_saturated(deployment: Deployment, item: ReplicaSet | None) -> bool:
    """Whether a ReplicaSet alone already is all that the Deployment wants."""
    if item is None:
        return False
    replicas = wanted_replicas(deployment)
    annotation = (item["metadata"].get("annotations") or {}).get(DESIRED_ANNOTATION)
    return (
        annotation == str(replicas)
        and wanted_replicas(item) == replicas
        and available_replicas(item) == replicas
    )


def scale_proportionally(
    deployment: Deployment, active_sets: Sequence[ReplicaSet]
) -> dict[str, int]:
    """Spread a change of ``spec.replicas`` during a rollout over the ReplicaSets by their size.

    Returns:
        The new size by ReplicaSet name, unchanged ones included.
    """
    replicas = wanted_replicas(deployment)
    allowed = replicas + derive_fences(deployment).surge if replicas > 0 else 0
    to_add = allowed - sum(wanted_replicas(item) for item in active_sets)
    # Growing favours newer sets of equal size, shrinking older ones.
    ordered = sorted(active_sets, key=_age, reverse=to_add > 0)
    ordered.sort(key=wanted_replicas, reverse=True)
    sizes: dict[str, int] = {}
    added = 0
    for item in ordered:
        size = wanted_replicas(item)
        share = 0
        if size and to_add and to_add != added:
            fraction = _fraction(item, deployment)
            left = to_add - added
            share = min(fraction, left) if to_add > 0 else max(fraction, left)
        sizes[item["metadata"]["name"]] = size + share
        added += share
    if ordered and to_add:
        first = ordered[0]["metadata"]["name"]
        sizes[first] = max(0, sizes[first] + to_add - added)
    return sizes


def _fraction(item: ReplicaSet, deployment: Deployment) -> int:
    size, replicas = wanted_replicas(item), wanted_replicas(deployment)
    if replicas == 0:
        return -size
    most = replicas + derive_fences(deployment).surge
    annotation = (item["metadata"].get("annotations") or {}).get(MAX_ANNOTATION)
    try:
        before = int(annotation) if annotation is not None else 0
    except ValueError:
        before = 0
    before = before or int(deployment.get("status", {}).get("replicas", 0))
    if before == 0:
        return 0
    return round_half_away(size * most / before) - size


def _age(item: ReplicaSet) -> tuple[str, str]:
    return item["metadata"].get("creationTimestamp") or "", item["metadata"]["name"]
