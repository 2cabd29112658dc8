"""Deployments become ReplicaSets: creation, rollout, scaling, history, status."""

from __future__ import annotations

import logging
from typing import Any

from local_cluster.client import (
    DEPLOYMENTS,
    REPLICASETS,
    ApiError,
    Client,
    EventRecorder,
    Key,
    Manifest,
    WorkQueue,
    object_key,
)
from local_cluster.controllers.adoption import claim
from local_cluster.controllers.caches import Caches, copied
from local_cluster.controllers.conditions import find_condition, with_condition
from local_cluster.controllers.deployment_status import (
    deadline_seconds,
    derive_rollout_status,
    derive_status,
    is_complete,
    same_status,
    seconds_to_deadline,
    with_pause_condition,
)
from local_cluster.controllers.owners import controller_of, is_controlled_by
from local_cluster.controllers.pods import is_terminal
from local_cluster.controllers.revisions import (
    REVISION_ANNOTATION,
    build_replicaset,
    derive_annotations,
    find_new_set,
    next_revision,
    revision_of,
    same_template,
    sets_to_forget,
    size_annotations,
)
from local_cluster.controllers.rollout import (
    DESIRED_ANNOTATION,
    is_rolling,
    is_saturated,
    new_replicaset_size,
    scale_down_old,
    scale_proportionally,
    wanted_replicas,
)
from local_cluster.controllers.selectors import is_empty_selector, matches_selector
from local_cluster.controllers.times import now

log = logging.getLogger(__name__)


class DeploymentController:
    """Keeps the ReplicaSets of all Deployments as their Deployments want them.

    Args:
        client: an open client.
        caches: the shared local copies.
        recorder: for events.
        workers: Deployments worked on at a time.
    """

    def __init__(
        self, client: Client, caches: Caches, recorder: EventRecorder, *, workers: int = 8
    ) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._workers = workers
        self.queue: WorkQueue[Key] = WorkQueue("deployment")
        caches.deployments.on_change(lambda key, old, new: self.queue.add(key))
        caches.replicasets.on_change(self._on_replicaset)
        caches.pods.on_change(self._on_pod)

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.run(self.reconcile, workers=self._workers)

    def _on_replicaset(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        for item in (old, new):
            if item is None:
                continue
            owner = controller_of(item)
            if owner is not None:
                if owner.get("kind") == "Deployment":
                    self.queue.add((key[0], owner["name"]))
            else:
                labels = item["metadata"].get("labels")
                for deployment in self._caches.deployments_by_namespace.get(key[0]):
                    if matches_selector(deployment["spec"].get("selector"), labels):
                        self.queue.add(object_key(deployment))

    def _on_pod(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        # Only a Recreate rollout waits for pods to be gone; all else is seen in ReplicaSets.
        if old is None or (new is not None and not is_terminal(new)):
            return
        owner = controller_of(old)
        if owner is None or owner.get("kind") != "ReplicaSet":
            return
        parent = self._caches.replicasets.get(key[0], owner["name"])
        grand = controller_of(parent) if parent else None
        if grand is not None:
            deployment = self._caches.deployments.get(key[0], grand["name"])
            if deployment is not None and not is_rolling(deployment):
                self.queue.add(object_key(deployment))

    async def reconcile(self, key: Key) -> float | None:
        """Bring one Deployment a step further.

        Returns:
            Seconds after which to look again, for the progress deadline.
        """
        deployment = self._caches.deployments.get(*key)
        if deployment is None:
            return None
        deployment = copied(deployment)
        if is_empty_selector(deployment["spec"].get("selector")):
            self._recorder.warning(
                deployment,
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            )
            return None
        sets = await self._claim_sets(deployment)
        if deployment["metadata"].get("deletionTimestamp"):
            new = find_new_set(deployment, sets)
            return await self._write_status(deployment, derive_status(deployment, sets, new, now()))
        conditions = with_pause_condition(deployment, now())
        if conditions is not None:
            status = {**(deployment.get("status") or {}), "conditions": conditions}
            deployment = await self._put_status(deployment, status)
        if deployment["spec"].get("paused") or self._is_scaling(deployment, sets):
            return await self._scale(deployment, sets)
        if is_rolling(deployment):
            return await self._roll(deployment, sets)
        return await self._recreate(deployment, sets)

    async def _claim_sets(self, deployment: Manifest) -> list[Manifest]:
        metadata = deployment["metadata"]
        candidates = self._caches.replicasets_by_controller.get(metadata["uid"])
        candidates += self._caches.replicasets_by_controller.get(f"orphans/{metadata['namespace']}")
        return await claim(
            self._client,
            deployment,
            DEPLOYMENTS,
            REPLICASETS,
            [copied(item) for item in candidates],
        )

    @staticmethod
    def _is_scaling(deployment: Manifest, sets: list[Manifest]) -> bool:
        wanted = str(wanted_replicas(deployment))
        for item in sets:
            if wanted_replicas(item) == 0:
                continue
            desired = (item["metadata"].get("annotations") or {}).get(DESIRED_ANNOTATION)
            if desired is not None and desired != wanted:
                return True
        return False

    async def _scale(self, deployment: Manifest, sets: list[Manifest]) -> float | None:
        deployment, new, sets = await self._sync_revision(deployment, sets, create=False)
        old = [item for item in sets if item is not new]
        active = [item for item in sets if wanted_replicas(item) > 0]
        sizes: dict[str, int] = {}
        if len(active) <= 1:
            latest = active[0] if active else new
            if latest is None and old:
                latest = max(old, key=lambda item: item["metadata"].get("creationTimestamp") or "")
            if latest is not None and wanted_replicas(latest) != wanted_replicas(deployment):
                sizes[latest["metadata"]["name"]] = wanted_replicas(deployment)
        elif is_saturated(deployment, new):
            sizes = {item["metadata"]["name"]: 0 for item in active if item is not new}
        elif is_rolling(deployment):
            sizes = scale_proportionally(deployment, active)
        sets, _ = await self._resize(deployment, sets, sizes)
        if deployment["spec"].get("paused"):
            await self._forget_history(deployment, [item for item in sets if item is not new])
        # One whose annotation alone is outdated would look like a scaling for ever.
        await self._refresh_annotations(deployment, sets)
        new = find_new_set(deployment, sets)
        return await self._write_status(deployment, derive_status(deployment, sets, new, now()))

    async def _roll(self, deployment: Manifest, sets: list[Manifest]) -> float | None:
        deployment, new, sets = await self._sync_revision(deployment, sets, create=True)
        if new is None:
            return None
        name = new["metadata"]["name"]
        size = new_replicaset_size(deployment, sets, new)
        sets, changed = await self._resize(deployment, sets, {name: size})
        if not changed:
            new = next(item for item in sets if item["metadata"]["name"] == name)
            old = [item for item in sets if item is not new and wanted_replicas(item) > 0]
            sizes = scale_down_old(deployment, sets, old, new)
            sets, changed = await self._resize(deployment, sets, sizes)
        return await self._finish(deployment, sets, name, forget=not changed)

    async def _recreate(self, deployment: Manifest, sets: list[Manifest]) -> float | None:
        deployment, new, sets = await self._sync_revision(deployment, sets, create=False)
        name = new["metadata"]["name"] if new else ""
        sizes = {
            item["metadata"]["name"]: 0
            for item in sets
            if item is not new and wanted_replicas(item) > 0
        }
        sets, changed = await self._resize(deployment, sets, sizes)
        if changed or self._old_pods_left(sets, name):
            return await self._finish(deployment, sets, name, forget=False)
        if new is None:
            deployment, new, sets = await self._sync_revision(deployment, sets, create=True)
            if new is None:
                return None
            name = new["metadata"]["name"]
        sets, _ = await self._resize(deployment, sets, {name: wanted_replicas(deployment)})
        return await self._finish(deployment, sets, name, forget=True)

    def _old_pods_left(self, sets: list[Manifest], new_name: str) -> bool:
        for item in sets:
            if item["metadata"]["name"] == new_name:
                continue
            pods = self._caches.pods_by_controller.get(item["metadata"]["uid"])
            if any(not is_terminal(pod) for pod in pods):
                return True
        return False

    async def _finish(
        self, deployment: Manifest, sets: list[Manifest], new_name: str, *, forget: bool
    ) -> float | None:
        new = next((item for item in sets if item["metadata"]["name"] == new_name), None)
        if forget and is_complete(deployment, deployment.get("status") or {}):
            await self._forget_history(deployment, [item for item in sets if item is not new])
        return await self._write_status(
            deployment, derive_rollout_status(deployment, sets, new, now())
        )

    async def _sync_revision(
        self, deployment: Manifest, sets: list[Manifest], *, create: bool
    ) -> tuple[Manifest, Manifest | None, list[Manifest]]:
        """Find or create the newest ReplicaSet and note its revision everywhere."""
        new = find_new_set(deployment, sets)
        revision = next_revision(item for item in sets if item is not new)
        if new is not None:
            fresh = await self._update_set(
                deployment,
                new,
                derive_annotations(deployment, new["metadata"].get("annotations"), revision),
            )
            sets = [fresh if item is new else item for item in sets]
            new = fresh
            deployment = self._note_progress(deployment, "FoundNewReplicaSet", new)
        elif create:
            deployment, new = await self._create_set(deployment, sets, revision)
            if new is None:
                return deployment, None, sets
            sets = [*sets, new]
        if new is not None and revision_of(deployment) != revision_of(new):
            annotations = {REVISION_ANNOTATION: str(revision_of(new))}
            patched = await self._client.patch(
                DEPLOYMENTS,
                deployment["metadata"]["name"],
                deployment["metadata"]["namespace"],
                {"metadata": {"annotations": annotations}},
            )
            deployment = {**patched, "status": deployment.get("status") or {}}
        return deployment, new, sets

    async def _create_set(
        self, deployment: Manifest, sets: list[Manifest], revision: int
    ) -> tuple[Manifest, Manifest | None]:
        status = deployment.get("status") or {}
        collisions = int(status.get("collisionCount") or 0)
        size = new_replicaset_size(deployment, sets, None)
        body = build_replicaset(deployment, replicas=size, revision=revision, collisions=collisions)
        namespace, name = object_key(body)
        try:
            new = await self._client.create(REPLICASETS, body, namespace)
        except ApiError as err:
            if err.already_exists:
                there = await self._client.get(REPLICASETS, name, namespace)
                if is_controlled_by(there, deployment) and same_template(deployment, there):
                    # Our own, only not seen yet.
                    return deployment, there
                changed = {**status, "collisionCount": collisions + 1}
                await self._put_status(deployment, changed)
                raise
            if deadline_seconds(deployment) is not None:
                conditions = with_condition(
                    status.get("conditions") or [],
                    "Progressing",
                    "False",
                    "ReplicaSetCreateError",
                    f'Failed to create new replica set "{name}": {err.message}',
                    now(),
                    update_time=True,
                )
                await self._put_status(deployment, {**status, "conditions": conditions})
            raise
        if size > 0:
            self._recorder.normal(
                deployment, "ScalingReplicaSet", f"Scaled up replica set {name} from 0 to {size}"
            )
        return self._note_progress(deployment, "NewReplicaSetCreated", new), new

    @staticmethod
    def _note_progress(deployment: Manifest, reason: str, new: Manifest) -> Manifest:
        if deadline_seconds(deployment) is None:
            return deployment
        status = deployment.get("status") or {}
        conditions = status.get("conditions") or []
        if reason == "FoundNewReplicaSet":
            if find_condition(conditions, "Progressing") is not None:
                return deployment
            message = f'Found new replica set "{new["metadata"]["name"]}"'
        else:
            message = f'Created new replica set "{new["metadata"]["name"]}"'
        conditions = with_condition(
            conditions, "Progressing", "True", reason, message, now(), update_time=True
        )
        # Kept in the object: it reaches the server with the status at the end of this round.
        return {**deployment, "status": {**status, "conditions": conditions}}

    async def _update_set(
        self, deployment: Manifest, item: Manifest, annotations: dict[str, str]
    ) -> Manifest:
        ready_seconds = int(deployment["spec"].get("minReadySeconds") or 0)
        if (
            annotations == (item["metadata"].get("annotations") or {})
            and int(item["spec"].get("minReadySeconds") or 0) == ready_seconds
        ):
            return item
        changed = copied(item)
        changed["metadata"]["annotations"] = annotations
        changed["spec"]["minReadySeconds"] = ready_seconds
        return await self._client.replace(REPLICASETS, changed)

    async def _refresh_annotations(self, deployment: Manifest, sets: list[Manifest]) -> None:
        wanted = size_annotations(deployment)
        for item in sets:
            if wanted_replicas(item) == 0:
                continue
            have = item["metadata"].get("annotations") or {}
            if any(have.get(name) != value for name, value in wanted.items()):
                await self._client.replace(
                    REPLICASETS,
                    {**item, "metadata": {**item["metadata"], "annotations": have | wanted}},
                )

    async def _resize(
        self, deployment: Manifest, sets: list[Manifest], sizes: dict[str, int]
    ) -> tuple[list[Manifest], bool]:
        """Write new sizes; returns the sets as they are then and whether any size changed."""
        result: list[Manifest] = []
        changed = False
        for item in sets:
            name = item["metadata"]["name"]
            before, after = wanted_replicas(item), sizes.get(name, wanted_replicas(item))
            if before == after:
                result.append(item)
                continue
            body: dict[str, Any] = copied(item)
            body["spec"]["replicas"] = after
            annotations = body["metadata"].get("annotations") or {}
            body["metadata"]["annotations"] = annotations | size_annotations(deployment)
            result.append(await self._client.replace(REPLICASETS, body))
            changed = True
            self._recorder.normal(
                deployment,
                "ScalingReplicaSet",
                f"Scaled {'up' if after > before else 'down'} replica set {name} "
                f"from {before} to {after}",
            )
        return result, changed

    async def _forget_history(self, deployment: Manifest, old: list[Manifest]) -> None:
        for item in sets_to_forget(deployment, old):
            try:
                await self._client.delete(
                    REPLICASETS,
                    item["metadata"]["name"],
                    item["metadata"]["namespace"],
                    propagation="Background",
                )
            except ApiError as err:
                if not err.is_not_found:
                    raise

    async def _write_status(self, deployment: Manifest, status: Manifest) -> float | None:
        # Compared with what the server has: this round may have noted progress in its own copy.
        stored = self._caches.deployments.get(
            deployment["metadata"]["namespace"], deployment["metadata"]["name"]
        )
        if stored is None or not same_status(stored.get("status"), status):
            await self._put_status(deployment, status)
        return seconds_to_deadline(deployment, status, now())

    async def _put_status(self, deployment: Manifest, status: Manifest) -> Manifest:
        return await self._client.replace(
            DEPLOYMENTS, {**deployment, "status": status}, subresource="status"
        )
