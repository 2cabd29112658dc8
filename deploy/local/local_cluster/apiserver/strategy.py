"""What the server itself sets or keeps in an object, type by type: initial status, generations, what a write may touch.

Pure but for the random parts of names and addresses: an object and what was stored in, the object to store out.
Follows the ``strategy.go`` files of the real server's registry.
"""

from __future__ import annotations

import random
from typing import Any

from local_cluster.apiserver.allocation import allocate_service
from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.resources import CRD_KEY, Manifest, Resource

_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_MAX_NAME = 63

_GENERATION_KEYS = frozenset(
    {
        "/pods",
        "/replicationcontrollers",
        "admissionregistration.k8s.io/mutatingwebhookconfigurations",
        "admissionregistration.k8s.io/validatingwebhookconfigurations",
        "apps/daemonsets",
        "apps/deployments",
        "apps/replicasets",
        "apps/statefulsets",
        "batch/cronjobs",
        "batch/jobs",
        "discovery.k8s.io/endpointslices",
        "networking.k8s.io/ingressclasses",
        "networking.k8s.io/ingresses",
        "networking.k8s.io/networkpolicies",
        "policy/poddisruptionbudgets",
        "scheduling.k8s.io/priorityclasses",
        CRD_KEY,
    }
)

_INITIAL_STATUS: dict[str, Manifest] = {
    "/namespaces": {"phase": "Active"},
    "/persistentvolumeclaims": {"phase": "Pending"},
    "/persistentvolumes": {"phase": "Pending"},
    "/pods": {"phase": "Pending"},
    "/replicationcontrollers": {"replicas": 0},
    "/services": {"loadBalancer": {}},
    "apps/daemonsets": {
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": 0,
        "numberReady": 0,
    },
    "apps/replicasets": {"replicas": 0},
    "apps/statefulsets": {"replicas": 0, "availableReplicas": 0},
    "autoscaling/horizontalpodautoscalers": {"desiredReplicas": 0, "currentMetrics": None},
    "networking.k8s.io/ingresses": {"loadBalancer": {}},
    "policy/poddisruptionbudgets": {
        "disruptionsAllowed": 0,
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "expectedPods": 0,
    },
}
"""Status of a new object; Go writes these fields also where they are zero."""

_LATE_DEFAULTS = {
    "/namespaces": frozenset({"finalizers"}),
    "/services": frozenset({"clusterIPs", "ipFamilies", "ipFamilyPolicy"}),
}


def generate_name(prefix: str) -> str:
    """Make a name from ``generateName``, as k8s.io/apiserver/pkg/storage/names does."""
    suffix = "".join(random.choice(_NAME_LETTERS) for _ in range(5))
    return prefix[: _MAX_NAME - len(suffix)] + suffix


def has_status(resource: Resource) -> bool:
    """Tell whether spec and status are written through different endpoints."""
    return "status" in resource.subresources


def tracks_generation(resource: Resource) -> bool:
    """Tell whether ``metadata.generation`` counts the changes of the spec."""
    return resource.crd is not None or resource.storage_key in _GENERATION_KEYS


def without_late_defaults(obj: Manifest, body: Manifest, resource: Resource) -> Manifest:
    """Take out defaults that the real server fills in only after it has recorded field managers.

    Args:
        obj: the new object, all defaults applied; not edited.
        body: what the client sent.
        resource: its type.
    """
    late = _LATE_DEFAULTS.get(resource.storage_key)
    if not late or not isinstance(obj.get("spec"), dict):
        return obj
    sent = body.get("spec") or {}
    spec = {k: v for k, v in obj["spec"].items() if k in sent or k not in late}
    return {**obj, "spec": spec}


def prepare_create(obj: Manifest, resource: Resource, cluster: Cluster) -> Manifest:
    """Set what a new object gets from the server.

    Args:
        obj: after defaults, uid and name set; not edited.
        resource: its type.
        cluster: for addresses that are taken and the like.
    """
    obj = dict(obj)
    key = resource.storage_key
    metadata = dict(obj["metadata"])
    obj["metadata"] = metadata
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
        metadata.pop(field, None)
    if tracks_generation(resource):
        metadata["generation"] = 1
    if resource.crd is not None:
        if has_status(resource):
            obj.pop("status", None)
        return obj
    if (has_status(resource) or key in _INITIAL_STATUS) and key != "/nodes":
        obj["status"] = dict(_INITIAL_STATUS.get(key, {}))
    match key:
        case "/pods":
            obj["status"]["qosClass"] = derive_qos_class(obj.get("spec") or {})
        case "/services":
            obj = allocate_service(obj, None, resource, cluster.store)
        case "/namespaces":
            obj["spec"] = {"finalizers": ["kubernetes"]}
        case "batch/jobs":
            obj = _label_job(obj)
        case _ if key == CRD_KEY:
            versions = obj["spec"].get("versions") or []
            stored = [v["name"] for v in versions if v.get("storage")]
            accepted = {"plural": "", "kind": ""}
            obj["status"] = {
                "conditions": None,
                "acceptedNames": accepted,
                "storedVersions": stored,
            }
    return obj


def _label_job(obj: Manifest) -> Manifest:
    spec = dict(obj.get("spec") or {})
    if spec.get("manualSelector"):
        return obj
    uid, name = obj["metadata"]["uid"], obj["metadata"]["name"]
    template = dict(spec.get("template") or {})
    metadata = dict(template.get("metadata") or {})
    labels = {"controller-uid": uid, "job-name": name}
    labels |= {f"batch.kubernetes.io/{k}": v for k, v in labels.items()}
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    spec["template"] = {**template, "metadata": metadata}
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    return {**obj, "spec": spec}


def derive_qos_class(spec: Manifest) -> str:
    """Derive a pod's quality-of-service class from its requests and limits."""
    guaranteed = True
    seen = False
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        resources = container.get("resources") or {}
        requests = {
            k: v for k, v in (resources.get("requests") or {}).items() if k in {"cpu", "memory"}
        }
        limits = {
            k: v for k, v in (resources.get("limits") or {}).items() if k in {"cpu", "memory"}
        }
        seen = seen or bool(requests or limits)
        if set(limits) != {"cpu", "memory"} or any(
            requests.get(k, v) != v for k, v in limits.items()
        ):
            guaranteed = False
    if not seen:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def prepare_update(
    new: Manifest, old: Manifest, resource: Resource, subresource: str, cluster: Cluster
) -> Manifest:
    """Keep what this write may not touch.

    Args:
        new: what the client wants; not edited.
        old: what is stored, in the same version.
        resource: its type.
        subresource: ``status`` or empty.
        cluster: for addresses that are taken.
    """
    if subresource == "status":
        return _prepare_status_update(new, old, resource)
    new = dict(new)
    if has_status(resource) or resource.storage_key in {"/namespaces"}:
        if "status" in old:
            new["status"] = old["status"]
        else:
            new.pop("status", None)
    if resource.storage_key == "/services":
        new = allocate_service(new, old, resource, cluster.store)
    elif resource.storage_key == "/namespaces" and "finalizers" in (old.get("spec") or {}):
        new["spec"] = {**(new.get("spec") or {}), "finalizers": old["spec"]["finalizers"]}
    metadata = dict(new["metadata"])
    if "generation" in old["metadata"]:
        metadata["generation"] = old["metadata"]["generation"]
    else:
        metadata.pop("generation", None)
    new["metadata"] = metadata
    if tracks_generation(resource) and _differs(new, old, resource):
        metadata["generation"] = old["metadata"].get("generation", 0) + 1
    return new


def _prepare_status_update(new: Manifest, old: Manifest, resource: Resource) -> Manifest:
    result = {**old}
    if "status" in new:
        result["status"] = new["status"]
    else:
        result.pop("status", None)
    managed = new["metadata"].get("managedFields")
    if resource.crd is not None:
        metadata = {k: v for k, v in old["metadata"].items() if k != "managedFields"}
    else:
        # Built-in types let a status write carry annotations and finalizers, but not labels or owners.
        metadata = {k: v for k, v in new["metadata"].items() if k != "managedFields"}
        for field in ("labels", "ownerReferences", "generation"):
            if field in old["metadata"]:
                metadata[field] = old["metadata"][field]
            else:
                metadata.pop(field, None)
    if managed is not None:
        metadata["managedFields"] = managed
    result["metadata"] = metadata
    if resource.storage_key == "autoscaling/horizontalpodautoscalers" and isinstance(
        result.get("status"), dict
    ):
        result["status"] = {"desiredReplicas": 0, "currentMetrics": None, **result["status"]}
    return result


def _differs(new: Manifest, old: Manifest, resource: Resource) -> bool:
    skipped = {"metadata", "apiVersion", "kind"}
    if has_status(resource):
        skipped.add("status")
    keys = (new.keys() | old.keys()) - skipped
    missing: Any = object()
    return any(new.get(key, missing) != old.get(key, missing) for key in keys)
