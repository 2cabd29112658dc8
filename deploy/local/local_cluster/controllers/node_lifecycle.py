"""Nodes that stopped reporting become NotReady, and their pods go elsewhere."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from local_cluster.client import (
    NODES,
    PODS,
    ApiError,
    Client,
    EventRecorder,
    Key,
    Manifest,
    WorkQueue,
    object_key,
)
from local_cluster.controllers.caches import Caches
from local_cluster.controllers.conditions import find_condition
from local_cluster.controllers.pods import is_terminal, is_terminating
from local_cluster.controllers.scheduling import UNSCHEDULABLE_TAINT, tolerates
from local_cluster.controllers.times import format_time, now, seconds_since

LEASE_NAMESPACE = "kube-node-lease"
UNREACHABLE_TAINT = "node.kubernetes.io/unreachable"
NOT_READY_TAINT = "node.kubernetes.io/not-ready"
# kube-controller-manager's --node-monitor-grace-period.
GRACE_SECONDS = 50.0
# The toleration that the DefaultTolerationSeconds admission plugin gives every pod.
_DEFAULT_TOLERATION_SECONDS = 300.0

_CONDITION_TYPES = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


def derive_taints(node: Manifest, at: datetime) -> list[dict[str, Any]]:
    """The taints a node shall have by its conditions and its cordon, those of others kept."""
    ready = find_condition(node.get("status", {}).get("conditions"), "Ready") or {}
    wanted: list[tuple[str, str]] = []
    if node["spec"].get("unschedulable"):
        wanted.append((UNSCHEDULABLE_TAINT, "NoSchedule"))
    if ready.get("status") == "Unknown":
        wanted += [(UNREACHABLE_TAINT, "NoSchedule"), (UNREACHABLE_TAINT, "NoExecute")]
    elif ready.get("status") == "False":
        wanted += [(NOT_READY_TAINT, "NoSchedule"), (NOT_READY_TAINT, "NoExecute")]
    ours = {UNSCHEDULABLE_TAINT, UNREACHABLE_TAINT, NOT_READY_TAINT}
    taints = list(node["spec"].get("taints") or [])
    kept = [
        taint
        for taint in taints
        if taint["key"] not in ours or (taint["key"], taint["effect"]) in wanted
    ]
    there = {(taint["key"], taint["effect"]) for taint in kept}
    kept += [
        {"key": key, "effect": effect, "timeAdded": format_time(at)}
        for key, effect in wanted
        if (key, effect) not in there
    ]
    return kept


def seconds_tolerated(pod: Manifest, taint: dict[str, Any]) -> float | None:
    """How long a pod stays on a node with a NoExecute taint; None: for ever."""
    matching = [
        toleration
        for toleration in pod["spec"].get("tolerations") or []
        if tolerates(toleration, taint)
    ]
    if not matching:
        return _DEFAULT_TOLERATION_SECONDS
    limits = [item["tolerationSeconds"] for item in matching if "tolerationSeconds" in item]
    return float(max(0, min(limits))) if limits else None


class NodeLifecycleController:
    """Watches the Leases of nodes.

    Args:
        client: an open client.
        caches: the shared local copies.
        recorder: for events.
        grace_seconds: how old a Lease may be.
    """

    def __init__(
        self,
        client: Client,
        caches: Caches,
        recorder: EventRecorder,
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._grace = grace_seconds
        # The clock of this process, because the node's may differ: when a renewal was last seen.
        self._seen: dict[str, tuple[str, float]] = {}
        self.queue: WorkQueue[str] = WorkQueue("node-lifecycle")
        caches.nodes.on_change(lambda key, old, new: self.queue.add(key[1]))
        caches.leases.on_change(self._on_lease)

    def _on_lease(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if key[0] == LEASE_NAMESPACE and new is not None:
            renewed = str(new["spec"].get("renewTime"))
            self._seen[key[1]] = (renewed, asyncio.get_running_loop().time())
            node = self._caches.nodes.get("", key[1])
            if old is None or (node is not None and node["spec"].get("taints")):
                # The first renewal starts the watch over a node, a later one may end an outage.
                self.queue.add(key[1])

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.run(self.reconcile, workers=2)

    async def reconcile(self, name: str) -> float | None:
        """Judge one node by the age of its Lease."""
        node = self._caches.nodes.get("", name)
        if node is None:
            self._seen.pop(name, None)
            return None
        lease = self._caches.leases.get(LEASE_NAMESPACE, name)
        if lease is None:
            # Not every agent keeps a Lease; without one its word in status stands.
            return await self._enforce(node)
        renewed = str(lease["spec"].get("renewTime"))
        loop_time = asyncio.get_running_loop().time()
        seen = self._seen.get(name)
        if seen is None or seen[0] != renewed:
            seen = (renewed, loop_time)
            self._seen[name] = seen
        # At the start of this process the Lease may be old already: its own time counts too.
        age = max(
            loop_time - seen[1],
            seconds_since(lease["spec"].get("renewTime"), now()) if seen[0] != "None" else 0.0,
        )
        if age > self._grace:
            node = await self._mark_unknown(node)
        wait = await self._enforce(node)
        check = max(1.0, self._grace - age + 0.5) if age <= self._grace else self._grace
        return check if wait is None else min(check, wait)

    async def _mark_unknown(self, node: Manifest) -> Manifest:
        status = node.get("status") or {}
        conditions = [dict(item) for item in status.get("conditions") or []]
        ready = find_condition(conditions, "Ready")
        if ready is not None and ready.get("status") == "Unknown":
            return node
        stamp = format_time(now())
        for type_ in _CONDITION_TYPES:
            condition = find_condition(conditions, type_)
            if condition is None:
                if type_ != "Ready":
                    continue
                condition = {"type": type_}
                conditions.append(condition)
            condition.update(
                status="Unknown",
                reason="NodeStatusUnknown",
                message="Kubelet stopped posting node status.",
                lastTransitionTime=stamp,
            )
        node = await self._client.replace(
            NODES, {**node, "status": {**status, "conditions": conditions}}, subresource="status"
        )
        self._recorder.normal(
            node,
            "NodeNotReady",
            f"Node {node['metadata']['name']} status is now: NodeNotReady",
        )
        for pod in self._caches.pods_by_node.get(node["metadata"]["name"]):
            await self._mark_pod_not_ready(pod)
        return node

    async def _mark_pod_not_ready(self, pod: Manifest) -> None:
        status = pod.get("status") or {}
        ready = find_condition(status.get("conditions"), "Ready")
        if ready is None or ready.get("status") != "True":
            return
        changed = {**ready, "status": "False", "lastTransitionTime": format_time(now())}
        conditions = [changed if item is ready else item for item in status["conditions"]]
        namespace, name = object_key(pod)
        try:
            await self._client.patch(
                PODS, name, namespace, {"status": {"conditions": conditions}}, subresource="status"
            )
        except ApiError as err:
            if not err.is_not_found:
                raise
        self._recorder.warning(pod, "NodeNotReady", "Node is not ready")

    async def _enforce(self, node: Manifest) -> float | None:
        """Write the taints and evict pods that do not tolerate them any longer."""
        taints = derive_taints(node, now())
        if taints != (node["spec"].get("taints") or []):
            # With the resourceVersion: taints of others must not get lost.
            node = await self._client.replace(
                NODES, {**node, "spec": {**node["spec"], "taints": taints}}
            )
        waits: list[float] = []
        for taint in taints:
            if taint.get("effect") != "NoExecute":
                continue
            age = seconds_since(taint.get("timeAdded"), now()) if taint.get("timeAdded") else 0.0
            for pod in self._caches.pods_by_node.get(node["metadata"]["name"]):
                if is_terminal(pod) or is_terminating(pod):
                    continue
                limit = seconds_tolerated(pod, taint)
                if limit is None:
                    continue
                if age >= limit:
                    await self._evict(pod)
                else:
                    waits.append(limit - age + 0.5)
        return min(waits, default=None)

    async def _evict(self, pod: Manifest) -> None:
        namespace, name = object_key(pod)
        self._recorder.normal(
            pod, "TaintManagerEviction", f"Marking for deletion Pod {namespace}/{name}"
        )
        try:
            await self._client.delete(PODS, name, namespace, uid=pod["metadata"]["uid"])
        except ApiError as err:
            if not (err.is_not_found or err.is_conflict):
                raise
