"""PodDisruptionBudgets: how many pods may be evicted right now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from local_cluster.client import (
    PDBS,
    Client,
    EventRecorder,
    Key,
    Manifest,
    WorkQueue,
    object_key,
)
from local_cluster.controllers.caches import Caches, find_by_selector
from local_cluster.controllers.owners import controller_of
from local_cluster.controllers.pods import is_ready, is_terminal
from local_cluster.controllers.quantities import scaled_value
from local_cluster.controllers.rollout import wanted_replicas
from local_cluster.controllers.selectors import matches_selector
from local_cluster.controllers.times import format_time, now, parse_time

# An eviction that was granted but never carried out is forgotten after this.
_DELETION_TIMEOUT = timedelta(minutes=2)


def derive_pdb_status(
    pdb: Manifest, pods: Sequence[Manifest], expected: int, at: datetime
) -> dict[str, Any]:
    """The status of a budget.

    Args:
        pdb: the PodDisruptionBudget.
        pods: the pods its selector matches.
        expected: how many pods their controllers want.
        at: now.
    """
    spec, before = pdb["spec"], pdb.get("status") or {}
    if spec.get("maxUnavailable") is not None:
        unavailable = scaled_value(spec["maxUnavailable"], expected, round_up=True)
        desired = max(0, expected - unavailable)
    else:
        minimum = spec.get("minAvailable", 1)
        if isinstance(minimum, int):
            expected = len(pods)
        desired = scaled_value(minimum, expected, round_up=True)
    disrupted = {}
    by_name = {pod["metadata"]["name"]: pod for pod in pods}
    for name, since in (before.get("disruptedPods") or {}).items():
        pod = by_name.get(name)
        granted = parse_time(since)
        if (
            pod is not None
            and not pod["metadata"].get("deletionTimestamp")
            and granted is not None
            and at - granted < _DELETION_TIMEOUT
        ):
            disrupted[name] = since
    healthy = sum(
        is_ready(pod)
        and not pod["metadata"].get("deletionTimestamp")
        and pod["metadata"]["name"] not in disrupted
        for pod in pods
    )
    allowed = max(0, healthy - desired) if expected > 0 else 0
    status: dict[str, Any] = {
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": allowed,
        "expectedPods": expected,
        "observedGeneration": pdb["metadata"].get("generation", 0),
    }
    if disrupted:
        status["disruptedPods"] = disrupted
    wanted = ("True", "SufficientPods") if allowed else ("False", "InsufficientPods")
    current = next(
        (c for c in before.get("conditions") or [] if c["type"] == "DisruptionAllowed"), None
    )
    since = (
        current["lastTransitionTime"]
        if current and current["status"] == wanted[0]
        else format_time(at)
    )
    status["conditions"] = [
        {
            "type": "DisruptionAllowed",
            "status": wanted[0],
            "reason": wanted[1],
            "message": "",
            "lastTransitionTime": since,
            "observedGeneration": pdb["metadata"].get("generation", 0),
        }
    ]
    return status


class DisruptionController:
    """Keeps the status of all PodDisruptionBudgets.

    Args:
        client: an open client.
        caches: the shared local copies.
        recorder: for events.
    """

    def __init__(self, client: Client, caches: Caches, recorder: EventRecorder) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self.queue: WorkQueue[Key] = WorkQueue("disruption")
        caches.pdbs.on_change(lambda key, old, new: self.queue.add(key))
        caches.pods.on_change(self._on_pod)
        caches.replicasets.on_change(self._on_scale)
        caches.deployments.on_change(self._on_scale)

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.run(self.reconcile, workers=4)

    def _on_pod(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        for pod in (old, new):
            if pod is not None:
                self._add_matching(key[0], pod["metadata"].get("labels"))

    def _on_scale(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if old is None or new is None or old["spec"].get("replicas") == new["spec"].get("replicas"):
            return
        self._add_matching(key[0], (new["spec"]["template"].get("metadata") or {}).get("labels"))

    def _add_matching(self, namespace: str, labels: dict[str, str] | None) -> None:
        for pdb in find_by_selector(self._caches.pdbs_by_selector, namespace, labels or {}):
            if matches_selector(pdb["spec"].get("selector"), labels):
                self.queue.add(object_key(pdb))

    async def reconcile(self, key: Key) -> float | None:
        """Write the status of one budget when it differs."""
        pdb = self._caches.pdbs.get(*key)
        if pdb is None:
            return None
        selector = pdb["spec"].get("selector")
        pods = [
            pod
            for pod in self._caches.pods_with(key[0], (selector or {}).get("matchLabels"))
            if not is_terminal(pod) and matches_selector(selector, pod["metadata"].get("labels"))
        ]
        if not pods and not pdb.get("status", {}).get("observedGeneration"):
            self._recorder.normal(pdb, "NoPods", "No matching pods found")
        status = derive_pdb_status(pdb, pods, self._expected(pods), now())
        if status != (pdb.get("status") or {}):
            await self._client.replace(PDBS, {**pdb, "status": status}, subresource="status")
        return _DELETION_TIMEOUT.total_seconds() if status.get("disruptedPods") else None

    def _expected(self, pods: Sequence[Manifest]) -> int:
        """The sum of what the pods' controllers want; a pod without one counts for itself."""
        wanted: dict[str, int] = {}
        for pod in pods:
            owner = controller_of(pod)
            namespace = pod["metadata"]["namespace"]
            item = None
            if owner is not None and owner.get("kind") == "ReplicaSet":
                item = self._caches.replicasets.get(namespace, owner["name"])
                parent = controller_of(item) if item else None
                if parent is not None and parent.get("kind") == "Deployment":
                    item = self._caches.deployments.get(namespace, parent["name"]) or item
            if item is None:
                wanted[pod["metadata"]["uid"]] = 1
            else:
                wanted[item["metadata"]["uid"]] = wanted_replicas(item)
        return sum(wanted.values())
