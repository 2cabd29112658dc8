"""Questions about whole objects: are they the same, may they go, how are they copied to be changed."""

from __future__ import annotations

from typing import Any

from local_cluster.apiserver.resources import Manifest


def dict_copy(obj: Manifest) -> Manifest:
    """Copy an object as deep as the store edits it."""
    return {**obj, "metadata": dict(obj["metadata"])}


def is_released(obj: Manifest) -> bool:
    """Tell whether an object that is being deleted has nothing left to wait for."""
    metadata = obj["metadata"]
    return bool(
        metadata.get("deletionTimestamp")
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
        and not (obj.get("kind") == "Namespace" and (obj.get("spec") or {}).get("finalizers"))
    )


def same(new: Manifest, old: Manifest) -> bool:
    """Tell whether a write would change nothing but the times of field managers."""
    if new == old:
        return True
    if new.keys() != old.keys():
        return False
    if any(new[key] != old[key] for key in new if key != "metadata"):
        return False
    left, right = dict(new["metadata"]), dict(old["metadata"])
    for metadata in (left, right):
        metadata.pop("resourceVersion", None)
        managed: list[dict[str, Any]] = metadata.pop("managedFields", None) or []
        metadata["managedFields"] = [{k: v for k, v in m.items() if k != "time"} for m in managed]
    return left == right
