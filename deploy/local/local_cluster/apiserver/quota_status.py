"""Keeps ``status.used`` of ResourceQuotas as the namespace changes."""

from __future__ import annotations

from local_cluster.apiserver import clock
from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.keyed_queue import KeyedQueue
from local_cluster.apiserver.manifests import dict_copy
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.quota import QUOTA_KEY, derive_usage, format_usage
from local_cluster.apiserver.storage import Change
from local_cluster.schema import track_update


class QuotaStatus:
    """Recomputes the usage of the quotas of a namespace in which something came or went."""

    def __init__(self, cluster: Cluster, objects: Objects) -> None:
        self._cluster = cluster
        self._objects = objects
        self._queue: KeyedQueue[str] = KeyedQueue("quota status", self._process)
        cluster.store.subscribe(self._observe)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._queue.run()

    def _observe(self, change: Change) -> None:
        namespace = change.entry.namespace
        if not namespace or not (
            change.key == QUOTA_KEY or self._cluster.store.entries(QUOTA_KEY, namespace)
        ):
            return
        # Status updates of pods matter too: a pod that has ended no longer counts.
        if change.type != "MODIFIED" or change.key in {QUOTA_KEY, "/pods", "/services"}:
            self._queue.add(namespace)

    def _process(self, namespace: str) -> None:
        resource = self._cluster.registry.by_key(QUOTA_KEY)
        assert resource is not None
        schema = self._cluster.schema(resource)
        assert schema is not None
        for entry in self._cluster.store.entries(QUOTA_KEY, namespace):
            quota = entry.obj
            hard = (quota.get("spec") or {}).get("hard") or {}
            used = derive_usage(quota, self._cluster)
            status = {
                "hard": hard,
                "used": {k: format_usage(k, v) for k, v in sorted(used.items())},
            }
            if status == quota.get("status") or not hard:
                continue
            new = track_update(
                quota,
                {**dict_copy(quota), "status": status},
                manager="kube-controller-manager",
                subresource="status",
                schema=schema,
                api_version="v1",
                now=clock.now(),
            )
            self._objects.write_internal(resource, new)
