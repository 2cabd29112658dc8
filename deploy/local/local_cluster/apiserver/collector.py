"""The garbage collector: dependents go when their owners have gone, and finalizers of propagation are worked off.

Level-triggered: each look at an object decides from the store alone
(https://kubernetes.io/docs/concepts/architecture/garbage-collection/).
"""

from __future__ import annotations

from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.deletion import FOREGROUND, ORPHAN, DeleteOptions, Deletions
from local_cluster.apiserver.errors import ApiError
from local_cluster.apiserver.keyed_queue import KeyedQueue
from local_cluster.apiserver.manifests import dict_copy
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.resources import Manifest
from local_cluster.apiserver.storage import Change, Entry, Place


class Collector:
    """Collects what nobody owns any more."""

    def __init__(self, cluster: Cluster, objects: Objects, deletions: Deletions) -> None:
        self._cluster = cluster
        self._store = cluster.store
        self._objects = objects
        self._deletions = deletions
        self._queue: KeyedQueue[Place] = KeyedQueue("garbage collection", self._process)
        cluster.store.subscribe(self._observe)

    async def run(self) -> None:
        """Look at all owned objects once, then at what changes, until cancelled."""
        for uid in self._store.owner_uids():
            for place in self._store.dependents(uid):
                self._queue.add(place)
        for key in self._store.used_keys():
            for entry in self._store.entries(key):
                if entry.obj["metadata"].get("deletionTimestamp"):
                    self._queue.add((key, entry.namespace, entry.name))
        await self._queue.run()

    def _observe(self, change: Change) -> None:
        metadata = change.entry.obj["metadata"]
        if change.type == "DELETED":
            for place in self._store.dependents(change.entry.uid):
                self._queue.add(place)
            # An owner that is deleted in the foreground may have waited for this one.
            for reference in metadata.get("ownerReferences") or ():
                place_of_owner = self._store.find_uid(reference["uid"])
                if place_of_owner is not None:
                    self._queue.add(place_of_owner)
            return
        finalizers = metadata.get("finalizers") or ()
        if metadata.get("deletionTimestamp") and (FOREGROUND in finalizers or ORPHAN in finalizers):
            self._queue.add((change.key, change.entry.namespace, change.entry.name))
        references = metadata.get("ownerReferences")
        if references and (
            change.before is None
            or change.before.obj["metadata"].get("ownerReferences") != references
        ):
            self._queue.add((change.key, change.entry.namespace, change.entry.name))

    def _process(self, place: Place) -> None:
        entry = self._store.get(*place)
        if entry is None:
            return
        metadata = entry.obj["metadata"]
        if metadata.get("deletionTimestamp"):
            finalizers = metadata.get("finalizers") or ()
            if ORPHAN in finalizers:
                self._orphan(place, entry)
            elif FOREGROUND in finalizers:
                self._delete_dependents(place, entry)
            return
        self._check_owners(place, entry)

    def _check_owners(self, place: Place, entry: Entry) -> None:
        references = entry.obj["metadata"].get("ownerReferences") or []
        if not references:
            return
        living = [r for r in references if self._owner(r, entry) is not None]
        solid = [r for r in living if not self._in_foreground(r)]
        if len(solid) == len(references):
            return
        if solid:
            obj = dict_copy(entry.obj)
            obj["metadata"]["ownerReferences"] = solid
            self._write(place, obj)
        elif living:
            dependents = any(True for _ in self._store.dependents(entry.uid))
            blocking = any(r.get("blockOwnerDeletion") for r in living)
            self._delete(place, entry, "Foreground" if dependents and blocking else "Background")
        else:
            self._delete(place, entry, "")

    def _owner(self, reference: Manifest, dependent: Entry) -> Entry | None:
        place = self._store.find_uid(reference["uid"])
        if place is None:
            return None
        owner = self._store.get(*place)
        # A reference that points into another namespace, or names another object, has no owner.
        if (
            owner is None
            or owner.namespace not in {"", dependent.namespace}
            or owner.name != reference.get("name")
            or owner.obj.get("kind") != reference.get("kind")
        ):
            return None
        return owner

    def _in_foreground(self, reference: Manifest) -> bool:
        place = self._store.find_uid(reference["uid"])
        owner = self._store.get(*place) if place else None
        if owner is None:
            return False
        metadata = owner.obj["metadata"]
        return bool(
            metadata.get("deletionTimestamp") and FOREGROUND in (metadata.get("finalizers") or ())
        )

    def _delete_dependents(self, place: Place, owner: Entry) -> None:
        blocked = False
        for dependent in self._store.dependents(owner.uid):
            entry = self._store.get(*dependent)
            if entry is None:
                continue
            references = entry.obj["metadata"].get("ownerReferences") or ()
            if any(r["uid"] == owner.uid and r.get("blockOwnerDeletion") for r in references):
                blocked = True
            self._queue.add(dependent)
        if not blocked:
            self._remove_finalizer(place, owner, FOREGROUND)

    def _orphan(self, place: Place, owner: Entry) -> None:
        for dependent in self._store.dependents(owner.uid):
            entry = self._store.get(*dependent)
            if entry is None:
                continue
            obj = dict_copy(entry.obj)
            kept = [r for r in obj["metadata"]["ownerReferences"] if r["uid"] != owner.uid]
            if kept:
                obj["metadata"]["ownerReferences"] = kept
            else:
                del obj["metadata"]["ownerReferences"]
            self._write(dependent, obj)
        self._remove_finalizer(place, owner, ORPHAN)

    def _remove_finalizer(self, place: Place, entry: Entry, finalizer: str) -> None:
        obj = dict_copy(entry.obj)
        kept = [f for f in obj["metadata"].get("finalizers") or () if f != finalizer]
        if kept:
            obj["metadata"]["finalizers"] = kept
        else:
            obj["metadata"].pop("finalizers", None)
        self._write(place, obj)

    def _write(self, place: Place, obj: Manifest) -> None:
        resource = self._cluster.registry.by_key(place[0])
        if resource is not None:
            self._objects.write_internal(resource, obj)

    def _delete(self, place: Place, entry: Entry, propagation: str) -> None:
        resource = self._cluster.registry.by_key(place[0])
        if resource is None:
            return
        options = DeleteOptions(propagation=propagation, uid=entry.uid)
        try:
            self._deletions.delete(resource, entry.namespace, entry.name, options)
        except ApiError as err:
            if err.code not in {404, 409}:
                raise
