"""Namespaces: the default ones, the default ServiceAccount in each, and the emptying of one that is deleted."""

from __future__ import annotations

from local_cluster.apiserver.cluster import Cluster, WriteOptions
from local_cluster.apiserver.deletion import DeleteOptions, Deletions
from local_cluster.apiserver.errors import ApiError
from local_cluster.apiserver.keyed_queue import KeyedQueue
from local_cluster.apiserver.manifests import dict_copy
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.resources import Manifest, Resource
from local_cluster.apiserver.storage import Change

KEY = "/namespaces"
DEFAULTS = ("default", "kube-node-lease", "kube-public", "kube-system")
_SERVER = WriteOptions(manager="kube-apiserver")
_CONTROLLER = WriteOptions(manager="kube-controller-manager")


class Namespaces:
    """Keeps namespaces as they should be."""

    def __init__(self, cluster: Cluster, objects: Objects, deletions: Deletions) -> None:
        self._cluster = cluster
        self._store = cluster.store
        self._objects = objects
        self._deletions = deletions
        self._queue: KeyedQueue[str] = KeyedQueue("namespace", self._process)
        self._terminating: set[str] = set()
        cluster.store.subscribe(self._observe)

    def ensure_defaults(self) -> None:
        """Create the namespaces and the service that every cluster has."""
        resource = self._resource("v1", "Namespace")
        for name in DEFAULTS:
            if self._store.get(KEY, "", name) is None:
                self._objects.create(resource, "", {"metadata": {"name": name}}, _SERVER)
        for entry in self._store.entries(KEY):
            self._process(entry.name)
        self._ensure_service()

    def _ensure_service(self) -> None:
        services = self._resource("v1", "Service")
        if self._store.get("/services", "default", "kubernetes") is None:
            body: Manifest = {
                "metadata": {
                    "name": "kubernetes",
                    "labels": {"component": "apiserver", "provider": "kubernetes"},
                },
                "spec": {
                    "clusterIP": "10.96.0.1",
                    "ipFamilyPolicy": "SingleStack",
                    "ports": [
                        {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}
                    ],
                },
            }
            self._objects.create(services, "default", body, _SERVER)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._queue.run()

    def _resource(self, api_version: str, kind: str) -> Resource:
        resource = self._cluster.registry.by_kind(api_version, kind)
        assert resource is not None
        return resource

    def _observe(self, change: Change) -> None:
        if change.key == KEY:
            if change.type == "DELETED":
                self._terminating.discard(change.entry.name)
            else:
                self._queue.add(change.entry.name)
        elif (
            change.type == "DELETED"
            and change.key == "/services"
            and change.entry.name == "kubernetes"
        ):
            self._queue.add("default")
        elif change.type == "DELETED" and (
            change.key == "/serviceaccounts" or change.entry.namespace in self._terminating
        ):
            self._queue.add(change.entry.namespace)

    def _process(self, name: str) -> None:
        entry = self._store.get(KEY, "", name)
        if entry is None:
            return
        if not entry.obj["metadata"].get("deletionTimestamp"):
            if self._store.get("/serviceaccounts", name, "default") is None:
                accounts = self._resource("v1", "ServiceAccount")
                self._objects.create(accounts, name, {"metadata": {"name": "default"}}, _CONTROLLER)
            if name == "default":
                self._ensure_service()
            return
        self._terminating.add(name)
        if self._empty(name):
            obj = dict_copy(entry.obj)
            obj["spec"] = {k: v for k, v in (obj.get("spec") or {}).items() if k != "finalizers"}
            self._objects.write_internal(self._resource("v1", "Namespace"), obj)

    def _empty(self, namespace: str) -> bool:
        """Delete what is in a namespace; tells whether nothing is left."""
        left = False
        for resource in self._cluster.registry.stored():
            if not resource.namespaced:
                continue
            for entry in self._store.entries(resource.storage_key, namespace):
                if not entry.obj["metadata"].get("deletionTimestamp"):
                    options = DeleteOptions(propagation="Background")
                    try:
                        self._deletions.delete(resource, namespace, entry.name, options)
                    except ApiError as err:
                        if err.code not in {404, 409}:
                            raise
                left = (
                    left or self._store.get(resource.storage_key, namespace, entry.name) is not None
                )
        return not left
