"""ReplicaSets become pods: as many as wanted, no more, the least useful deleted first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from local_cluster.client import (
    PODS,
    REPLICASETS,
    ApiError,
    Client,
    EventRecorder,
    Key,
    Manifest,
    Resource,
    WorkQueue,
    object_key,
)
from local_cluster.controllers.adoption import claim
from local_cluster.controllers.caches import Caches, copied
from local_cluster.controllers.conditions import with_condition, without_condition
from local_cluster.controllers.expectations import Expectations
from local_cluster.controllers.owners import build_controller_reference, controller_of
from local_cluster.controllers.pods import (
    available_in,
    is_active,
    is_ready,
    is_terminal,
    is_terminating,
    pods_to_delete,
)
from local_cluster.controllers.rollout import wanted_replicas
from local_cluster.controllers.selectors import matches_labels, matches_selector
from local_cluster.controllers.times import now

# At most this many creations or deletions in one round (kube-controller-manager's BurstReplicas).
_BURST = 500

log = logging.getLogger(__name__)


def build_pod(owner: Manifest, resource: Resource) -> Manifest:
    """The pod of a template: generated name, owner reference, the template's labels and spec."""
    template = owner["spec"]["template"]
    given = template.get("metadata") or {}
    metadata: dict[str, Any] = {
        "generateName": f"{owner['metadata']['name']}-",
        "namespace": owner["metadata"]["namespace"],
        "ownerReferences": [build_controller_reference(owner, resource)],
    }
    for name in ("labels", "annotations", "finalizers"):
        if given.get(name):
            metadata[name] = copied(given[name])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": copied(template["spec"]),
    }


def derive_status(
    item: Manifest, pods: Sequence[Manifest], failure: ApiError | None, at: datetime
) -> tuple[Manifest, float | None]:
    """The status of a ReplicaSet from its pods.

    Args:
        item: the ReplicaSet.
        pods: all pods it controls.
        failure: why pods could not be created or deleted in this round.
        at: now.

    Returns:
        The status, and the seconds until a ready pod becomes available.
    """
    min_ready = int(item["spec"].get("minReadySeconds") or 0)
    active = [pod for pod in pods if is_active(pod)]
    waits = [wait for pod in active if (wait := available_in(pod, min_ready, at)) is not None]
    template_labels = (item["spec"]["template"].get("metadata") or {}).get("labels")
    status: Manifest = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(
            matches_labels(template_labels, pod["metadata"].get("labels")) for pod in active
        ),
        "readyReplicas": sum(is_ready(pod) for pod in active),
        "availableReplicas": sum(wait <= 0 for wait in waits),
        "terminatingReplicas": sum(is_terminating(pod) and not is_terminal(pod) for pod in pods),
        "observedGeneration": item["metadata"].get("generation", 0),
    }
    always = ("replicas", "terminatingReplicas", "observedGeneration")
    status = {name: value for name, value in status.items() if value or name in always}
    conditions = list((item.get("status") or {}).get("conditions") or [])
    if failure is not None:
        reason = "FailedCreate" if len(active) < wanted_replicas(item) else "FailedDelete"
        conditions = with_condition(
            conditions, "ReplicaFailure", "True", reason, failure.message, at
        )
    else:
        conditions = without_condition(conditions, "ReplicaFailure")
    if conditions:
        status["conditions"] = conditions
    return status, min((wait for wait in waits if wait > 0), default=None)


async def slow_start(
    count: int, action: Callable[[], Awaitable[None]], *, initial: int = 1
) -> tuple[int, ApiError | None]:
    """Repeat an action in batches of 1, 2, 4, …, and stop after a batch with a failure.

    A quota that refuses one pod refuses a thousand as well: this asks it only a few times.

    Returns:
        How often it succeeded, and the first failure.
    """
    done, batch = 0, initial
    while done < count:
        size = min(batch, count - done)
        results = await asyncio.gather(*(action() for _ in range(size)), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        done += size - len(failures)
        if failures:
            for failure in failures:
                if not isinstance(failure, ApiError):
                    raise failure
            first = failures[0]
            return done, first if isinstance(first, ApiError) else None
        batch *= 2
    return done, None


class ReplicaSetController:
    """Keeps the pods of all ReplicaSets.

    Args:
        client: an open client.
        caches: the shared local copies.
        recorder: for events.
        workers: ReplicaSets worked on at a time.
    """

    def __init__(
        self, client: Client, caches: Caches, recorder: EventRecorder, *, workers: int = 8
    ) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._workers = workers
        self._expectations = Expectations()
        self.queue: WorkQueue[Key] = WorkQueue("replicaset")
        caches.replicasets.on_change(self._on_replicaset)
        caches.pods.on_change(self._on_pod)

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.run(self.reconcile, workers=self._workers)

    def _on_replicaset(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if new is None or (
            old is not None and old["metadata"].get("uid") != new["metadata"].get("uid")
        ):
            self._expectations.forget(key)
        self.queue.add(key)

    def _on_pod(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            owner = controller_of(pod)
            if owner is not None:
                if owner.get("kind") != "ReplicaSet":
                    continue
                owner_key = (key[0], owner["name"])
                if old is None:
                    self._expectations.creation_seen(owner_key)
                if new is None or is_terminating(pod):
                    self._expectations.deletion_seen(owner_key, pod["metadata"]["uid"])
                self.queue.add(owner_key)
            elif new is not None:
                labels = pod["metadata"].get("labels")
                for item in self._caches.replicasets_by_namespace.get(key[0]):
                    if matches_selector(item["spec"].get("selector"), labels):
                        self.queue.add(object_key(item))

    async def reconcile(self, key: Key) -> float | None:
        """Create or delete pods of one ReplicaSet and write its status.

        Returns:
            Seconds until a ready pod becomes available, if there is one to wait for.
        """
        item = self._caches.replicasets.get(*key)
        if item is None:
            self._expectations.forget(key)
            return None
        may_act = self._expectations.satisfied(key)
        candidates = self._caches.pods_by_controller.get(item["metadata"]["uid"])
        orphans = self._caches.pods_by_controller.get(f"orphans/{key[0]}")
        candidates += [pod for pod in orphans if is_active(pod)]
        pods = await claim(self._client, item, REPLICASETS, PODS, candidates)
        failure = None
        if may_act and not item["metadata"].get("deletionTimestamp"):
            active = [pod for pod in pods if is_active(pod)]
            failure = await self._manage(key, item, active)
        # What was done just now shows in the cache a moment later and brings the key back here.
        status, wait = derive_status(item, pods, failure, now())
        if status != (item.get("status") or {}):
            try:
                await self._client.replace(
                    REPLICASETS, {**item, "status": status}, subresource="status"
                )
            except ApiError as err:
                if not err.is_not_found and failure is None:
                    raise
        if failure is not None:
            raise failure
        return wait

    async def _manage(self, key: Key, item: Manifest, active: list[Manifest]) -> ApiError | None:
        surplus = len(active) - wanted_replicas(item)
        if surplus < 0:
            return await self._create(key, item, min(-surplus, _BURST))
        if surplus > 0:
            return await self._delete(
                key, item, pods_to_delete(active, min(surplus, _BURST), now())
            )
        return None

    async def _create(self, key: Key, item: Manifest, count: int) -> ApiError | None:
        self._expectations.expect_creations(key, count)
        body = build_pod(item, REPLICASETS)

        async def create_one() -> None:
            try:
                pod = await self._client.create(PODS, body, key[0])
            except ApiError as err:
                if not _namespace_ending(err):
                    self._recorder.warning(item, "FailedCreate", f"Error creating: {err.message}")
                raise
            self._recorder.normal(
                item, "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}"
            )

        done, failure = await slow_start(count, create_one)
        for _ in range(count - done):
            self._expectations.creation_seen(key)
        return None if failure is not None and _namespace_ending(failure) else failure

    async def _delete(self, key: Key, item: Manifest, doomed: list[Manifest]) -> ApiError | None:
        self._expectations.expect_deletions(key, [pod["metadata"]["uid"] for pod in doomed])

        async def delete_one(pod: Manifest) -> ApiError | None:
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            try:
                await self._client.delete(PODS, name, key[0], uid=uid)
            except ApiError as err:
                self._expectations.deletion_seen(key, uid)
                if err.is_not_found or err.is_conflict:
                    return None
                self._recorder.warning(item, "FailedDelete", f"Error deleting: {err.message}")
                return err
            self._recorder.normal(item, "SuccessfulDelete", f"Deleted pod: {name}")
            return None

        failures = await asyncio.gather(*(delete_one(pod) for pod in doomed))
        return next((failure for failure in failures if failure is not None), None)


def _namespace_ending(err: ApiError) -> bool:
    return err.status == 403 and "being terminated" in err.message
