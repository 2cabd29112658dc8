"""CustomResourceDefinitions: accepted names, Established, and the clean-up when one is deleted."""

from __future__ import annotations

import base64
import hashlib

from local_cluster.apiserver import clock
from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.deletion import CRD_FINALIZER, DeleteOptions, Deletions
from local_cluster.apiserver.errors import ApiError
from local_cluster.apiserver.keyed_queue import KeyedQueue
from local_cluster.apiserver.manifests import dict_copy
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.resources import CRD_KEY, Manifest, Resource, build_crd_resources
from local_cluster.apiserver.storage import Change
from local_cluster.schema import track_update


def _condition(
    kind: str, status: str, reason: str, message: str, before: list[Manifest]
) -> Manifest:
    since = next(
        (c["lastTransitionTime"] for c in before if c["type"] == kind and c["status"] == status),
        clock.now(),
    )
    return {
        "type": kind,
        "status": status,
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    }


def is_established(crd: Manifest) -> bool:
    """Tell whether a CRD's resources are to be served."""
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


class Definitions:
    """Serves custom resources as long as their definitions say so."""

    def __init__(self, cluster: Cluster, objects: Objects, deletions: Deletions) -> None:
        self._cluster = cluster
        self._store = cluster.store
        self._objects = objects
        self._deletions = deletions
        self._queue: KeyedQueue[str] = KeyedQueue("custom resource definition", self._process)
        self._keys_going: dict[str, str] = {}
        cluster.store.subscribe(self._observe)

    def load(self) -> None:
        """Serve what the stored definitions define."""
        for entry in self._store.entries(CRD_KEY):
            if is_established(entry.obj):
                self._serve(entry.obj)
            self._queue.add(entry.name)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._queue.run()

    def _resource(self) -> Resource:
        resource = self._cluster.registry.by_kind(
            "apiextensions.k8s.io/v1", "CustomResourceDefinition"
        )
        assert resource is not None
        return resource

    def _serve(self, crd: Manifest) -> None:
        spec = crd["spec"]
        identity = f"{spec['group']}/{spec['names']['plural']}/{crd['metadata']['uid']}"
        digest = hashlib.sha256(identity.encode()).digest()[:8]
        version_hash = base64.b64encode(digest).decode()
        self._cluster.registry.add_crd(
            crd["metadata"]["name"], build_crd_resources(crd, version_hash)
        )

    def _observe(self, change: Change) -> None:
        if change.key == CRD_KEY:
            name = change.entry.name
            if change.type == "DELETED":
                resource_key = _storage_key(change.entry.obj)
                self._cluster.registry.remove_crd(name)
                self._cluster.hub.close_key(resource_key)
                self._keys_going.pop(resource_key, None)
                for entry in self._store.entries(CRD_KEY):  # one may have waited for these names
                    self._queue.add(entry.name)
            else:
                before = change.before.obj if change.before else None
                if is_established(change.entry.obj) and (
                    before is None
                    or not is_established(before)
                    or before["spec"] != change.entry.obj["spec"]
                ):
                    self._serve(change.entry.obj)
                self._queue.add(name)
        elif change.type == "DELETED" and change.key in self._keys_going:
            self._queue.add(self._keys_going[change.key])

    def _process(self, name: str) -> None:
        entry = self._store.get(CRD_KEY, "", name)
        if entry is None:
            return
        if entry.obj["metadata"].get("deletionTimestamp"):
            self._clean_up(entry.obj)
        else:
            self._accept(entry.obj)

    def _accept(self, crd: Manifest) -> None:
        conflict = self._find_conflict(crd)
        before = list((crd.get("status") or {}).get("conditions") or ())
        established = is_established(crd)
        names = dict(crd["spec"]["names"])
        status = dict(crd.get("status") or {})
        if conflict:
            conditions = [_condition("NamesAccepted", "False", conflict[0], conflict[1], before)]
            if not established:
                conditions.append(
                    _condition(
                        "Established", "False", "NotAccepted", "not all names are accepted", before
                    )
                )
            else:
                conditions.extend(c for c in before if c["type"] == "Established")
        else:
            status["acceptedNames"] = names
            conditions = [
                _condition("NamesAccepted", "True", "NoConflicts", "no conflicts found", before),
                _condition(
                    "Established",
                    "True",
                    "InitialNamesAccepted",
                    "the initial names have been accepted",
                    before,
                ),
            ]
        known = {c["type"] for c in conditions}
        conditions.extend(c for c in before if c["type"] not in known)
        stored = list(status.get("storedVersions") or ())
        stored.extend(
            v["name"]
            for v in crd["spec"]["versions"]
            if v.get("storage") and v["name"] not in stored
        )
        status = {"conditions": conditions, "acceptedNames": names, **status}
        status["conditions"], status["storedVersions"] = conditions, stored
        self._write_status(crd, status)

    def _find_conflict(self, crd: Manifest) -> tuple[str, str] | None:
        spec = crd["spec"]
        names = spec["names"]
        wanted = {names["plural"], names.get("singular", ""), *(names.get("shortNames") or ())} - {
            ""
        }
        for entry in self._store.entries(CRD_KEY):
            other = entry.obj
            if entry.name == crd["metadata"]["name"] or other["spec"]["group"] != spec["group"]:
                continue
            accepted = (other.get("status") or {}).get("acceptedNames") or {}
            taken = {
                accepted.get("plural", ""),
                accepted.get("singular", ""),
                *(accepted.get("shortNames") or ()),
            } - {""}
            clash = sorted(wanted & taken)
            if clash:
                return "NameConflict", f'"{clash[0]}" is already in use'
            if accepted.get("kind") == names["kind"]:
                return "KindConflict", f'"{names["kind"]}" is already in use'
        return None

    def _write_status(
        self, crd: Manifest, status: Manifest, manager: str = "kube-apiserver"
    ) -> None:
        if status == crd.get("status"):
            return
        resource = self._resource()
        new = {**dict_copy(crd), "status": status}
        schema = self._cluster.schema(resource)
        if schema is not None:
            new = track_update(
                crd,
                new,
                manager=manager,
                subresource="status",
                schema=schema,
                api_version=resource.api_version,
                now=clock.now(),
            )
        self._objects.write_internal(resource, new)

    def _clean_up(self, crd: Manifest) -> None:
        name = crd["metadata"]["name"]
        if CRD_FINALIZER not in (crd["metadata"].get("finalizers") or ()):
            return
        key = _storage_key(crd)
        status = crd.get("status") or {}
        conditions = status.get("conditions") or []
        pending = any(
            c["type"] == "Terminating" and c["reason"] == "InstanceDeletionPending"
            for c in conditions
        )
        if pending:
            going = _condition(
                "Terminating",
                "True",
                "InstanceDeletionInProgress",
                "CustomResource deletion is in progress",
                conditions,
            )
            others = [c for c in conditions if c["type"] != "Terminating"]
            self._write_status(crd, {**status, "conditions": [*others, going]})
            return  # the change comes back here
        self._keys_going[key] = name
        resource = self._cluster.registry.by_key(key)
        if resource is not None:
            for entry in self._store.entries(key):
                if not entry.obj["metadata"].get("deletionTimestamp"):
                    try:
                        self._deletions.delete(
                            resource,
                            entry.namespace,
                            entry.name,
                            DeleteOptions(propagation="Background"),
                        )
                    except ApiError as err:
                        if err.code not in {404, 409}:
                            raise
            if self._store.count(key):
                return  # finalizers hold some of them
        obj = dict_copy(crd)
        kept = [f for f in obj["metadata"]["finalizers"] if f != CRD_FINALIZER]
        if kept:
            obj["metadata"]["finalizers"] = kept
        else:
            del obj["metadata"]["finalizers"]
        self._objects.write_internal(self._resource(), obj)


def _storage_key(crd: Manifest) -> str:
    return f"{crd['spec']['group']}/{crd['spec']['names']['plural']}"
