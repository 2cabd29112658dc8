"""Revisions of a Deployment: template hash, revision annotations, history. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from local_cluster.client import DEPLOYMENTS
from local_cluster.controllers.caches import copied
from local_cluster.controllers.owners import build_controller_reference
from local_cluster.controllers.rollout import (
    DESIRED_ANNOTATION,
    MAX_ANNOTATION,
    Deployment,
    ReplicaSet,
    derive_fences,
    wanted_replicas,
)

HASH_LABEL = "pod-template-hash"
REVISION_ANNOTATION = "deployment.kubernetes.io/revision"
HISTORY_ANNOTATION = "deployment.kubernetes.io/revision-history"
# The alphabet of k8s.io/apimachinery/pkg/util/rand: no vowels, so no words.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION_ANNOTATION,
        HISTORY_ANNOTATION,
        DESIRED_ANNOTATION,
        MAX_ANNOTATION,
        "deprecated.deployment.rollback.to",
    }
)


def template_hash(template: dict[str, Any], collisions: int = 0) -> str:
    """A short, stable hash of a pod template, safe in names and labels."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":")) + f"/{collisions}"
    value = 0x811C9DC5  # 32-bit FNV-1a
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return "".join(_ALPHABET[ord(digit) % len(_ALPHABET)] for digit in str(value))


def same_template(deployment: Deployment, item: ReplicaSet) -> bool:
    """Whether a ReplicaSet runs the Deployment's pod template, its hash label aside."""
    return _bare(deployment["spec"]["template"]) == _bare(item["spec"]["template"])


def _bare(template: dict[str, Any]) -> dict[str, Any]:
    metadata = dict(template.get("metadata") or {})
    # The server may write the absent creation time of a template as null.
    metadata.pop("creationTimestamp", None)
    labels = {k: v for k, v in (metadata.pop("labels", None) or {}).items() if k != HASH_LABEL}
    if labels:
        metadata["labels"] = labels
    return {**template, "metadata": metadata}


def revision_of(item: Deployment | ReplicaSet) -> int:
    """The revision annotation as a number, 0 where there is none."""
    try:
        return int((item["metadata"].get("annotations") or {}).get(REVISION_ANNOTATION, "0"))
    except ValueError:
        return 0


def next_revision(old_sets: Iterable[ReplicaSet]) -> int:
    """The revision after all older ones."""
    return max((revision_of(item) for item in old_sets), default=0) + 1


def find_new_set(deployment: Deployment, sets: Iterable[ReplicaSet]) -> ReplicaSet | None:
    """The ReplicaSet that runs the current template; of several the oldest."""
    for item in sorted(sets, key=lambda rs: rs["metadata"].get("creationTimestamp") or ""):
        if same_template(deployment, item):
            return item
    return None


def derive_annotations(
    deployment: Deployment, existing: dict[str, str] | None, revision: int
) -> dict[str, str]:
    """The annotations a ReplicaSet shall have: the Deployment's own and the rollout's book-keeping.

    Args:
        deployment: whose annotations are copied.
        existing: the annotations that are there.
        revision: the revision the set shall have at least.
    """
    annotations = dict(existing or {})
    for name, value in (deployment["metadata"].get("annotations") or {}).items():
        if name not in _NOT_COPIED:
            annotations[name] = value
    try:
        before = int(annotations.get(REVISION_ANNOTATION, "0"))
    except ValueError:
        before = 0
    if before < revision:
        if before:
            history = annotations.get(HISTORY_ANNOTATION)
            annotations[HISTORY_ANNOTATION] = f"{history},{before}" if history else str(before)
        annotations[REVISION_ANNOTATION] = str(revision)
    return annotations | size_annotations(deployment)


def size_annotations(deployment: Deployment) -> dict[str, str]:
    """The annotations by which a later scaling knows the size at this time."""
    replicas = wanted_replicas(deployment)
    return {
        DESIRED_ANNOTATION: str(replicas),
        MAX_ANNOTATION: str(replicas + derive_fences(deployment).surge),
    }


def build_replicaset(
    deployment: Deployment, *, replicas: int, revision: int, collisions: int
) -> ReplicaSet:
    """The ReplicaSet for the Deployment's current template."""
    spec = deployment["spec"]
    template = copied(spec["template"])
    digest = template_hash(template, collisions)
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), HASH_LABEL: digest}
    selector = copied(spec["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: digest}
    body: ReplicaSet = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{deployment['metadata']['name']}-{digest}",
            "namespace": deployment["metadata"]["namespace"],
            "labels": dict(metadata["labels"]),
            "annotations": derive_annotations(deployment, None, revision),
            "ownerReferences": [build_controller_reference(deployment, DEPLOYMENTS)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    }
    if spec.get("minReadySeconds"):
        body["spec"]["minReadySeconds"] = spec["minReadySeconds"]
    return body


def sets_to_forget(deployment: Deployment, old_sets: Sequence[ReplicaSet]) -> list[ReplicaSet]:
    """Old, empty ReplicaSets beyond the revision history limit, oldest revision first."""
    limit = deployment["spec"].get("revisionHistoryLimit")
    limit = 10 if limit is None else int(limit)
    alive = [item for item in old_sets if not item["metadata"].get("deletionTimestamp")]
    surplus = len(alive) - limit
    if surplus <= 0:
        return []
    candidates = sorted(alive, key=revision_of)[:surplus]
    return [
        item
        for item in candidates
        if item.get("status", {}).get("replicas", 0) == 0
        and wanted_replicas(item) == 0
        and item["metadata"].get("generation", 0)
        <= item.get("status", {}).get("observedGeneration", 0)
    ]
