"""Parts of objects: what differs between two of them, and what of them is worth keeping."""

from __future__ import annotations

from scoring_operator.api import Manifest
from scoring_operator.cluster.ownership import is_written_by
from scoring_operator.manifests.names import MANAGER, TEMPLATE_ANNOTATION


def merge_diff(old: Manifest, new: Manifest) -> Manifest:
    """The merge patch from one object to another (RFC 7396)."""
    diff: Manifest = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = merge_diff(before, value)
            if inner:
                diff[name] = inner
        elif name not in old or before != value:
            diff[name] = value
    return diff


def trim_observed(manifest: Manifest) -> Manifest:
    """Pods and ReplicaSets: only who they are and how they do."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k != "managedFields"}
    if "annotations" in metadata:
        # Deployments hand their annotations on to their ReplicaSets.
        kept = {k: v for k, v in metadata["annotations"].items() if k != TEMPLATE_ANNOTATION}
        metadata["annotations"] = kept
    return {
        "kind": manifest.get("kind"),
        "metadata": metadata,
        "status": manifest.get("status", {}),
    }


def trim_owned(manifest: Manifest) -> Manifest:
    """Children: of the managed fields only what we wrote, and no pod template, which is never read back."""
    metadata = manifest["metadata"]
    managed = [e for e in metadata.get("managedFields") or () if is_written_by(e, MANAGER)]
    kept = {**manifest, "metadata": {**metadata, "managedFields": managed}}
    if "template" in (manifest.get("spec") or {}):
        kept["spec"] = {k: v for k, v in manifest["spec"].items() if k != "template"}
    return kept
