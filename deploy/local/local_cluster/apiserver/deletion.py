"""Deletes: grace periods, finalizers, propagation and preconditions.

Decides whether an object goes at once or is only marked; who removes it later is the collector, the node agent or the
owner of a finalizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from local_cluster.apiserver import clock
from local_cluster.apiserver.admission import Admission
from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.errors import ApiError, bad_request, invalid, not_found
from local_cluster.apiserver.manifests import dict_copy, is_released
from local_cluster.apiserver.resources import CRD_KEY, Manifest, Resource
from local_cluster.apiserver.storage import Entry

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
CRD_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"

_ORPHAN_BY_DEFAULT = frozenset({"batch/jobs", "/replicationcontrollers"})
_RETURNS_OBJECT = frozenset(
    {
        "/persistentvolumeclaims",
        "/persistentvolumes",
        "/pods",
        "/podtemplates",
        "/resourcequotas",
        "/serviceaccounts",
        "/services",
        "storage.k8s.io/storageclasses",
    }
)
"""Types whose delete answers with the object even when it is gone."""


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """``DeleteOptions`` of body and query."""

    grace_period_seconds: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False


def parse_delete_options(body: Manifest, query: dict[str, str]) -> DeleteOptions:
    """Read the options of a delete; the body wins where it says something.

    Raises:
        ApiError: 400 or 422, a value that is none of those allowed.
    """
    grace: Any = body.get("gracePeriodSeconds")
    if grace is None and query.get("gracePeriodSeconds"):
        grace = query["gracePeriodSeconds"]
    if grace is not None:
        try:
            grace = int(grace)
        except (TypeError, ValueError):
            raise bad_request(f"gracePeriodSeconds: invalid value {grace!r}") from None
        if grace < 0:
            grace = 1  # as the real server reads a negative period
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
    orphan = body.get("orphanDependents")
    if orphan is None and query.get("orphanDependents"):
        orphan = query["orphanDependents"] == "true"
    if propagation and orphan is not None:
        message = f'Invalid value: "{propagation}": orphanDependents and deletionPropagation cannot be both set'
        cause = {"reason": "FieldValueInvalid", "message": message, "field": "propagationPolicy"}
        raise invalid("meta.k8s.io", "DeleteOptions", "", [cause])
    if orphan is not None:
        propagation = "Orphan" if orphan else "Background"
    if propagation not in {"", "Orphan", "Background", "Foreground"}:
        message = (
            f'Unsupported value: "{propagation}": supported values: '
            '"Foreground", "Background", "Orphan", "nil"'
        )
        cause = {
            "reason": "FieldValueNotSupported",
            "message": message,
            "field": "propagationPolicy",
        }
        raise invalid("meta.k8s.io", "DeleteOptions", "", [cause])
    preconditions = body.get("preconditions") or {}
    dry_run = body.get("dryRun") or ([query["dryRun"]] if query.get("dryRun") else [])
    if dry_run not in ([], ["All"]):
        message = f'Unsupported value: "{dry_run[0]}": supported values: "All"'
        cause = {"reason": "FieldValueNotSupported", "message": message, "field": "dryRun"}
        raise invalid("meta.k8s.io", "DeleteOptions", "", [cause])
    return DeleteOptions(
        grace,
        propagation,
        preconditions.get("uid") or "",
        preconditions.get("resourceVersion") or "",
        bool(dry_run),
    )


class Deletions:
    """The deletes on a cluster's objects."""

    def __init__(self, cluster: Cluster, admission: Admission) -> None:
        self._cluster = cluster
        self._store = cluster.store
        self._admission = admission

    def delete(
        self, resource: Resource, namespace: str, name: str, options: DeleteOptions
    ) -> tuple[Entry, bool]:
        """Delete one object, or mark it.

        Args:
            resource: its type, in any version.
            namespace: empty for cluster scope.
            name: its name.
            options: of the delete.

        Returns:
            The last state, and whether the answer shows it instead of a Status.

        Raises:
            ApiError: 404, 403, or 409 for failed preconditions.
        """
        entry = self._store.get(resource.storage_key, namespace, name)
        if entry is None:
            raise not_found(resource, name)
        self._admission.check_delete(resource, name)
        self._check_preconditions(resource, entry, options)
        obj = dict_copy(entry.obj)
        metadata = obj["metadata"]
        grace = self._grace(resource, obj, options)
        finalizers = self._finalizers(resource, metadata, options)
        if finalizers:
            metadata["finalizers"] = finalizers
        else:
            metadata.pop("finalizers", None)
        pending = bool(metadata.get("deletionTimestamp"))
        if (
            pending
            and grace >= metadata.get("deletionGracePeriodSeconds", 0)
            and finalizers == (entry.obj["metadata"].get("finalizers") or [])
        ):
            if not is_released(obj):
                return entry, True
        elif not pending or grace < metadata.get("deletionGracePeriodSeconds", 0):
            metadata["deletionTimestamp"] = clock.later(grace)
            if resource.storage_key != CRD_KEY:  # their own storage marks them without these
                metadata["deletionGracePeriodSeconds"] = grace
                if not pending and metadata.get("generation"):
                    metadata["generation"] += 1
        if resource.storage_key == "/namespaces":
            obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        elif resource.storage_key == CRD_KEY and not pending:
            obj["status"] = _terminating(obj.get("status") or {})
        shown = resource.storage_key in _RETURNS_OBJECT
        if is_released(obj):
            if not pending and resource.storage_key != "/pods":
                obj = entry.obj  # only pods show that they were marked before they went
            if options.dry_run:
                return Entry(obj, entry.version), shown
            gone = self._store.delete(resource.storage_key, obj)
            return (gone if resource.storage_key == "/pods" else entry), shown
        if options.dry_run:
            return Entry(obj, entry.version), True
        return self._store.put(resource.storage_key, obj), True

    def _check_preconditions(
        self, resource: Resource, entry: Entry, options: DeleteOptions
    ) -> None:
        if options.uid and options.uid != entry.uid:
            raise self._mismatch(
                resource,
                entry,
                f"the UID in the precondition ({options.uid}) does not match the UID in record ({entry.uid}). "
                "The object might have been deleted and then recreated",
            )
        version = entry.obj["metadata"]["resourceVersion"]
        if options.resource_version and options.resource_version != version:
            raise self._mismatch(
                resource,
                entry,
                f"the ResourceVersion in the precondition ({options.resource_version}) does not match the "
                f"ResourceVersion in record ({version}). The object might have been modified",
            )

    @staticmethod
    def _mismatch(resource: Resource, entry: Entry, why: str) -> ApiError:
        # The real server names the kind here, where all other conflicts name the resource.
        group = {"group": resource.group} if resource.group else {}
        qualified = ".".join(filter(None, (resource.kind, resource.group)))
        return ApiError(
            409,
            "Conflict",
            f'Operation cannot be fulfilled on {qualified} "{entry.name}": {why}',
            {"name": entry.name, **group, "kind": resource.kind},
        )

    def _grace(self, resource: Resource, obj: Manifest, options: DeleteOptions) -> int:
        if resource.storage_key != "/pods":
            return 0
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        if not spec.get("nodeName") or status.get("phase") in {"Succeeded", "Failed"}:
            return 0  # nothing runs that would need time to stop
        if options.grace_period_seconds is not None:
            return options.grace_period_seconds
        return int(spec.get("terminationGracePeriodSeconds", 30))

    def _finalizers(
        self, resource: Resource, metadata: Manifest, options: DeleteOptions
    ) -> list[str]:
        finalizers = list(metadata.get("finalizers") or ())
        wanted = options.propagation
        if not wanted:
            if FOREGROUND in finalizers or ORPHAN in finalizers:
                return finalizers
            wanted = "Orphan" if resource.storage_key in _ORPHAN_BY_DEFAULT else "Background"
        finalizers = [f for f in finalizers if f not in {FOREGROUND, ORPHAN}]
        if wanted == "Orphan" and any(True for _ in self._store.dependents(metadata["uid"])):
            finalizers.append(ORPHAN)
        elif wanted == "Foreground":
            finalizers.append(FOREGROUND)
        if (
            resource.storage_key == CRD_KEY
            and CRD_FINALIZER not in finalizers
            and not metadata.get("deletionTimestamp")
        ):
            finalizers.append(CRD_FINALIZER)
        return finalizers


def _terminating(status: Manifest) -> Manifest:
    conditions = [c for c in status.get("conditions") or () if c["type"] != "Terminating"]
    conditions.append(
        {
            "type": "Terminating",
            "status": "True",
            "lastTransitionTime": clock.now(),
            "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        }
    )
    return {**status, "conditions": conditions}
