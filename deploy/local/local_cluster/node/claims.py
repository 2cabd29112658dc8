"""A minimal volume provisioner: every pending claim gets a folder on this machine."""

from __future__ import annotations

import logging
import shutil

from local_cluster.client import (
    PERSISTENTVOLUMECLAIMS,
    ApiError,
    Informer,
    Manifest,
    Resource,
    WorkQueue,
)
from local_cluster.client.informer import Key
from local_cluster.node.context import NodeContext

PERSISTENTVOLUMES = Resource("", "v1", "persistentvolumes", False, "PersistentVolume")
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_PROVISIONER = "local-cluster/folder"

log = logging.getLogger(__name__)


def build_volume(claim: Manifest, path: str) -> Manifest:
    """The PersistentVolume that a claim is bound to."""
    metadata, spec = claim["metadata"], claim["spec"]
    volume: Manifest = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"pvc-{metadata['uid']}",
            "annotations": {_PROVISIONED_BY: _PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": _storage(claim)},
            "accessModes": spec.get("accessModes") or ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete",
            "volumeMode": "Filesystem",
            "hostPath": {"path": path, "type": "DirectoryOrCreate"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }
    if spec.get("storageClassName"):
        volume["spec"]["storageClassName"] = spec["storageClassName"]
    return volume


def _storage(claim: Manifest) -> str:
    requests = (claim["spec"].get("resources") or {}).get("requests") or {}
    return str(requests.get("storage", "1Gi"))


class ClaimBinder:
    """Binds pending claims, and removes the folders of deleted ones.

    Args:
        node: the node whose disk holds the volumes.
        claims: an informer of claims.
    """

    def __init__(self, node: NodeContext, claims: Informer) -> None:
        self._node = node
        self._claims = claims
        self._queue: WorkQueue[Key] = WorkQueue("claims")
        self._removed: dict[Key, list[Manifest]] = {}
        claims.on_change(self._changed)

    def _changed(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        replaced = old and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"])
        if old and replaced:
            self._removed.setdefault(key, []).append(old)
        self._queue.add(key)

    async def run(self) -> None:
        """Bind until cancelled."""
        await self._queue.run(self._reconcile, workers=2)

    async def _reconcile(self, key: Key) -> None:
        for gone in self._removed.pop(key, []):
            await self._remove(gone)
        claim = self._claims.get(*key)
        if claim is None or (claim.get("status") or {}).get("phase") == "Bound":
            return
        if claim["spec"].get("volumeName") or claim["metadata"].get("deletionTimestamp"):
            return
        client = self._node.client
        folder = self._node.claim_folder(claim)
        folder.mkdir(parents=True, exist_ok=True)
        volume = build_volume(claim, str(folder))
        name = volume["metadata"]["name"]
        try:
            await client.create(PERSISTENTVOLUMES, volume)
            await client.patch(
                PERSISTENTVOLUMES, name, None, {"status": {"phase": "Bound"}}, subresource="status"
            )
        except ApiError as err:
            # A server without persistent volumes still has claims to bind.
            if not (err.already_exists or err.is_not_found):
                raise
        namespace, claim_name = key
        await client.patch(
            PERSISTENTVOLUMECLAIMS, claim_name, namespace, {"spec": {"volumeName": name}}
        )
        status = {
            "phase": "Bound",
            "accessModes": volume["spec"]["accessModes"],
            "capacity": {"storage": _storage(claim)},
        }
        await client.patch(
            PERSISTENTVOLUMECLAIMS, claim_name, namespace, {"status": status}, subresource="status"
        )

    async def _remove(self, claim: Manifest) -> None:
        shutil.rmtree(self._node.claim_folder(claim), ignore_errors=True)
        try:
            await self._node.client.delete(PERSISTENTVOLUMES, f"pvc-{claim['metadata']['uid']}")
        except ApiError as err:
            if not err.is_not_found:
                raise
