"""Owner references between objects."""

from __future__ import annotations

from typing import Any

from local_cluster.client import Manifest, Resource


def controller_of(item: Manifest) -> dict[str, Any] | None:
    """The owner reference of the object's controller, or None."""
    for reference in item["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return dict(reference)
    return None


def controller_uid(item: Manifest) -> str:
    """The uid of the object's controller, empty where there is none."""
    reference = controller_of(item)
    return str(reference["uid"]) if reference else ""


def is_controlled_by(item: Manifest, owner: Manifest) -> bool:
    """Whether this very owner controls the object."""
    return controller_uid(item) == str(owner["metadata"]["uid"])


def build_controller_reference(owner: Manifest, resource: Resource) -> dict[str, Any]:
    """The owner reference that makes an object the controller of another."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
