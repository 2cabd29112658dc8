"""Pending pods get a node, or a condition that says why not."""

from __future__ import annotations

import logging
from typing import Any

from local_cluster.client import (
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
from local_cluster.controllers.conditions import find_condition, with_condition
from local_cluster.controllers.pods import is_terminal, is_terminating
from local_cluster.controllers.scheduling import (
    NodeUsage,
    Refusal,
    check_node,
    describe_refusals,
    pod_requests,
    preference,
)
from local_cluster.controllers.times import now

SCHEDULER_NAME = "default-scheduler"

log = logging.getLogger(__name__)


class Scheduler:
    """Binds pods to nodes, one decision at a time.

    Args:
        client: an open client.
        caches: the shared local copies.
        recorder: for events.
        workers: bindings in flight at a time; decisions themselves do not overlap.
    """

    def __init__(
        self, client: Client, caches: Caches, recorder: EventRecorder, *, workers: int = 8
    ) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._workers = workers
        self._usage: dict[str, NodeUsage] = {}
        # What each placed pod takes, by uid: bound as the server says, or assumed by us.
        self._placed: dict[str, tuple[str, dict[str, int]]] = {}
        self._waiting: set[Key] = set()
        self.queue: WorkQueue[Key] = WorkQueue("scheduler", max_delay_seconds=10)
        caches.pods.on_change(self._on_pod)
        caches.nodes.on_change(self._on_node)

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.run(self.reconcile, workers=self._workers)

    def _on_pod(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if old is not None and (
            new is None or old["metadata"].get("uid") != new["metadata"].get("uid")
        ):
            self._release(old)
        if new is None:
            self._waiting.discard(key)
            return
        if new["spec"].get("nodeName"):
            self._waiting.discard(key)
            if is_terminal(new):
                self._release(new)
            else:
                self._place(new, new["spec"]["nodeName"])
        elif _wants_node(new) and (old is None or _schedulable_part(old) != _schedulable_part(new)):
            self.queue.add(key)

    def _on_node(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        # A heartbeat changes nothing that a waiting pod could hope for.
        if new is not None and (old is None or _offer(old) != _offer(new)):
            self._retry_waiting()
        elif new is None and old is not None:
            self._usage.pop(old["metadata"]["name"], None)

    def _retry_waiting(self) -> None:
        for key in self._waiting:
            self.queue.add(key)

    def _place(self, pod: Manifest, node: str) -> None:
        uid = pod["metadata"]["uid"]
        there = self._placed.get(uid)
        if there is not None and there[0] == node:
            return
        if there is not None:
            self._release(pod)
        requests = pod_requests(pod)
        self._placed[uid] = (node, requests)
        self._usage.setdefault(node, NodeUsage()).add(requests)

    def _release(self, pod: Manifest) -> None:
        there = self._placed.pop(pod["metadata"]["uid"], None)
        if there is not None:
            node, requests = there
            if node in self._usage:
                self._usage[node].remove(requests)
            self._retry_waiting()

    async def reconcile(self, key: Key) -> float | None:
        """Find a node for one pod and bind it."""
        pod = self._caches.pods.get(*key)
        if pod is None or not _wants_node(pod) or pod["metadata"]["uid"] in self._placed:
            return None
        if pod["spec"].get("schedulingGates"):
            await self._set_unscheduled(
                pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates"
            )
            return None
        node, refusals = self._choose(pod)
        if node is None:
            self._waiting.add(key)
            message = describe_refusals(refusals)
            if await self._set_unscheduled(pod, "Unschedulable", message):
                self._recorder.warning(pod, "FailedScheduling", message)
            return None
        # Assumed before the server is asked, so that the next decision counts it already.
        self._place(pod, node)
        try:
            await self._client.create(
                PODS,
                {
                    "apiVersion": "v1",
                    "kind": "Binding",
                    "metadata": {
                        "name": key[1],
                        "namespace": key[0],
                        "uid": pod["metadata"]["uid"],
                    },
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node},
                },
                key[0],
                name=key[1],
                subresource="binding",
            )
        except ApiError as err:
            self._release(pod)
            if err.is_not_found:
                return None
            raise
        self._recorder.normal(
            pod, "Scheduled", f"Successfully assigned {key[0]}/{key[1]} to {node}"
        )
        return None

    def _choose(self, pod: Manifest) -> tuple[str | None, list[Refusal]]:
        requests = pod_requests(pod)
        best: tuple[float, str] | None = None
        refusals: list[Refusal] = []
        for node in self._caches.nodes.store.values():
            name = node["metadata"]["name"]
            usage = self._usage.setdefault(name, NodeUsage())
            refusal = check_node(pod, requests, node, usage)
            if refusal is not None:
                refusals.append(refusal)
                continue
            score = preference(requests, node, usage)
            if best is None or (score, name) > best:
                best = (score, name)
        return (best[1] if best else None), refusals

    async def _set_unscheduled(self, pod: Manifest, reason: str, message: str) -> bool:
        """Write the PodScheduled condition; False when it was there already."""
        status = pod.get("status") or {}
        conditions = status.get("conditions") or []
        current = find_condition(conditions, "PodScheduled")
        if current and current.get("reason") == reason and current.get("message") == message:
            return False
        others = [item for item in conditions if item is not current]
        fresh = with_condition([], "PodScheduled", "False", reason, message, now())[0]
        if current and current.get("status") == "False":
            fresh["lastTransitionTime"] = current.get("lastTransitionTime")
        namespace, name = object_key(pod)
        patch: dict[str, Any] = {
            "metadata": {"uid": pod["metadata"]["uid"]},
            "status": {"conditions": [*others, fresh]},
        }
        try:
            await self._client.patch(PODS, name, namespace, patch, subresource="status")
        except ApiError as err:
            if err.is_not_found or err.is_conflict:
                return False
            raise
        return True


def _wants_node(pod: Manifest) -> bool:
    return (
        not pod["spec"].get("nodeName")
        and pod["spec"].get("schedulerName", SCHEDULER_NAME) == SCHEDULER_NAME
        and not is_terminal(pod)
        and not is_terminating(pod)
    )


def _schedulable_part(pod: Manifest) -> tuple[Any, ...]:
    return pod["metadata"].get("uid"), pod["spec"], is_terminating(pod)


def _offer(node: Manifest) -> tuple[Any, ...]:
    spec, status = node["spec"], node.get("status", {})
    return (
        spec.get("unschedulable"),
        spec.get("taints"),
        node["metadata"].get("labels"),
        status.get("allocatable"),
    )
