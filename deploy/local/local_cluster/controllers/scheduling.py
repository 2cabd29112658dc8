"""Does a pod fit on a node, and if on none, why. Pure.

The checks and their words are kube-scheduler's (pkg/scheduler/framework/plugins).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from local_cluster.controllers.quantities import parse_milli
from local_cluster.controllers.selectors import matches_expression, matches_labels

Pod = dict[str, Any]
Node = dict[str, Any]
Amounts = Mapping[str, int]

UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"


@dataclass(slots=True)
class NodeUsage:
    """What the pods on a node asked for, in thousandths.

    Args:
        requested: by resource name.
        pods: how many pods.
    """

    requested: dict[str, int] = field(default_factory=dict)
    pods: int = 0

    def add(self, amounts: Amounts) -> None:
        """Count one pod more."""
        self.pods += 1
        for name, amount in amounts.items():
            self.requested[name] = self.requested.get(name, 0) + amount

    def remove(self, amounts: Amounts) -> None:
        """Count one pod less."""
        self.pods -= 1
        for name, amount in amounts.items():
            self.requested[name] = self.requested.get(name, 0) - amount


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node does not take a pod.

    Args:
        reasons: the reasons as kube-scheduler words them.
        preemptible: whether the removal of other pods could help.
    """

    reasons: tuple[str, ...]
    preemptible: bool


def pod_requests(pod: Pod) -> dict[str, int]:
    """What a pod asks for, in thousandths by resource name.

    The containers' sum, or more where an init container needs more; sidecars (init containers
    that restart always) count to the sum; overhead on top.
    """
    spec = pod["spec"]
    running: dict[str, int] = {}
    for container in spec.get("containers") or []:
        _add(running, _requests(container))
    starting: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in spec.get("initContainers") or []:
        requests = _requests(container)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, requests)
            _raise(starting, sidecars)
        else:
            together = dict(sidecars)
            _add(together, requests)
            _raise(starting, together)
    _add(running, sidecars)
    _raise(running, starting)
    overhead = spec.get("overhead") or {}
    _add(running, {name: parse_milli(value) for name, value in overhead.items()})
    return {name: amount for name, amount in running.items() if amount}


def _requests(container: Mapping[str, Any]) -> dict[str, int]:
    resources = container.get("resources") or {}
    # Extended resources may be given as limits only; the server fills in requests for the rest.
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: parse_milli(value) for name, value in asked.items()}


def _add(total: dict[str, int], amounts: Amounts) -> None:
    for name, amount in amounts.items():
        total[name] = total.get(name, 0) + amount


def _raise(total: dict[str, int], amounts: Amounts) -> None:
    for name, amount in amounts.items():
        total[name] = max(total.get(name, 0), amount)


def check_node(pod: Pod, requests: Amounts, node: Node, usage: NodeUsage) -> Refusal | None:
    """Whether a node takes a pod; the first check that fails gives the reasons."""
    spec = pod["spec"]
    tolerations = spec.get("tolerations") or []
    if node["spec"].get("unschedulable") and not _tolerates(
        tolerations, {"key": UNSCHEDULABLE_TAINT, "effect": "NoSchedule"}
    ):
        return Refusal(("node(s) were unschedulable",), False)
    for taint in node["spec"].get("taints") or []:
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not _tolerates(
            tolerations, taint
        ):
            text = f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
            return Refusal((text,), False)
    if not _matches_affinity(spec, node):
        return Refusal(("node(s) didn't match Pod's node affinity/selector",), False)
    return _check_resources(requests, node, usage)


def _check_resources(requests: Amounts, node: Node, usage: NodeUsage) -> Refusal | None:
    status = node.get("status", {})
    allocatable = status.get("allocatable") or status.get("capacity") or {}
    reasons = []
    preemptible = True
    if usage.pods + 1 > parse_milli(allocatable.get("pods", 110)) // 1000:
        reasons.append("Too many pods")
    for name, amount in requests.items():
        capacity = parse_milli(allocatable.get(name, 0))
        if amount > capacity - usage.requested.get(name, 0):
            reasons.append(f"Insufficient {name}")
            preemptible = preemptible and amount <= capacity
    return Refusal(tuple(reasons), preemptible) if reasons else None


def _tolerates(tolerations: Iterable[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    return any(tolerates(toleration, taint) for toleration in tolerations)


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether one toleration covers a taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


def _matches_affinity(spec: Mapping[str, Any], node: Node) -> bool:
    labels = node["metadata"].get("labels") or {}
    if not matches_labels(spec.get("nodeSelector"), labels):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_matches_term(term, node) for term in required.get("nodeSelectorTerms") or [])


def _matches_term(term: Mapping[str, Any], node: Node) -> bool:
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    if not expressions and not fields:
        return False
    by_field = {"metadata.name": node["metadata"]["name"]}
    return all(
        matches_expression(expression, node["metadata"].get("labels")) for expression in expressions
    ) and all(matches_expression(expression, by_field) for expression in fields)


def preference(requests: Amounts, node: Node, usage: NodeUsage) -> float:
    """How well a pod fits on a node that takes it: the larger the free share, the better."""
    allocatable = node.get("status", {}).get("allocatable") or {}
    shares = []
    for name in ("cpu", "memory"):
        capacity = parse_milli(allocatable.get(name, 0))
        if capacity:
            used = usage.requested.get(name, 0) + requests.get(name, 0)
            shares.append(1 - used / capacity)
    return sum(shares) / len(shares) if shares else 0.0


def describe_refusals(refusals: Iterable[Refusal]) -> str:
    """The message of the PodScheduled condition and of FailedScheduling events."""
    known = list(refusals)
    total = len(known)
    if total == 0:
        return "no nodes available to schedule pods"
    counts = Counter(reason for refusal in known for reason in refusal.reasons)
    reasons = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    helpless = sum(not refusal.preemptible for refusal in known)
    hopeful = total - helpless
    parts = []
    if hopeful:
        parts.append(f"{hopeful} No preemption victims found for incoming pod")
    if helpless:
        parts.append(f"{helpless} Preemption is not helpful for scheduling")
    preemption = ", ".join(sorted(parts))
    return (
        f"0/{total} nodes are available: {reasons}. "
        f"preemption: 0/{total} nodes are available: {preemption}."
    )
