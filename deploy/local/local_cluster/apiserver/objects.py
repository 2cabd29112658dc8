"""Writes: create, update, patch and delete, with everything that happens between the request and the store.

All of it runs without waiting, so that a write sees one state of the cluster and none comes between. Returns stored
entries; a dry run returns an entry that was never stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from local_cluster.apiserver import clock
from local_cluster.apiserver.admission import Admission
from local_cluster.apiserver.cluster import Cluster, WriteOptions
from local_cluster.apiserver.conversion import from_storage, to_storage
from local_cluster.apiserver.decoding import (
    check_place,
    check_type,
    fill_defaults,
    refuse_wrong_types,
    shape,
)
from local_cluster.apiserver.errors import (
    ApiError,
    already_exists,
    bad_request,
    conflict,
    invalid,
    modified,
    not_found,
)
from local_cluster.apiserver.manifests import dict_copy, is_released, same
from local_cluster.apiserver.resources import CRD_KEY, Manifest, Resource
from local_cluster.apiserver.storage import Entry
from local_cluster.apiserver.strategy import (
    generate_name,
    prepare_create,
    prepare_update,
    without_late_defaults,
)
from local_cluster.schema import (
    ApplyConflict,
    FieldError,
    PatchError,
    server_side_apply,
    track_update,
    validate,
    validate_crd,
    warn_pods,
)

CREATE_ON_UPDATE = frozenset(
    {"/endpoints", "/events", "/services", "/limitranges", "coordination.k8s.io/leases"}
)
"""Types for which a PUT to a free name creates, as in the real server."""


class Objects:
    """The writes on a cluster's objects."""

    def __init__(self, cluster: Cluster, admission: Admission) -> None:
        self._cluster = cluster
        self._store = cluster.store
        self._admission = admission

    def get(self, resource: Resource, namespace: str, name: str) -> Entry:
        """Look one object up.

        Raises:
            ApiError: 404.
        """
        entry = self._store.get(resource.storage_key, namespace, name)
        if entry is None:
            raise not_found(resource, name)
        return entry

    def create(
        self,
        resource: Resource,
        namespace: str,
        body: Manifest,
        options: WriteOptions,
        name: str = "",
    ) -> Entry:
        """Create an object.

        Args:
            resource: its type and version.
            namespace: of the path; empty for cluster scope.
            body: as the client sent it.
            options: of the write.
            name: of the path, where the path has one.

        Raises:
            ApiError: the object is refused.
        """
        obj = check_place(check_type(body, resource), resource, namespace, name)
        self._admission.check_namespace(resource, namespace, obj["metadata"].get("name") or "")
        if "resourceVersion" in obj["metadata"] and obj["metadata"]["resourceVersion"] not in (
            "",
            None,
        ):
            raise bad_request("resourceVersion should not be set on objects to be created")
        shaped = shape(obj, resource, self._cluster, options)
        obj = self._name(without_late_defaults(shaped, obj, resource), resource)
        return self._finish_create(
            resource, obj, options, self._track(None, obj, resource, options)
        )

    def _name(self, obj: Manifest, resource: Resource) -> Manifest:
        metadata = dict(obj["metadata"])
        if not metadata.get("name"):
            prefix = metadata.get("generateName")
            if not prefix:
                required = "Required value: name or generateName is required"
                cause = {
                    "reason": "FieldValueRequired",
                    "message": required,
                    "field": "metadata.name",
                }
                raise invalid(resource.group, resource.kind, "", [cause])
            for _ in range(8):
                metadata["name"] = generate_name(prefix)
                if not self._store.get(
                    resource.storage_key, metadata.get("namespace", ""), metadata["name"]
                ):
                    break
        return {**obj, "metadata": metadata}

    def _track(
        self, old: Manifest | None, new: Manifest, resource: Resource, options: WriteOptions
    ) -> Manifest:
        schema = self._cluster.schema(resource)
        if schema is None:
            return new
        tracked = track_update(
            old,
            new,
            manager=options.manager,
            subresource=options.subresource,
            schema=schema,
            api_version=resource.api_version,
            now=clock.now(),
        )
        if options.subresource == "scale":
            # The real server keeps no times for what was written through a scale.
            for entry in tracked["metadata"].get("managedFields") or ():
                if entry.get("subresource") == "scale":
                    entry.pop("time", None)
        return tracked

    def _finish_create(
        self, resource: Resource, named: Manifest, options: WriteOptions, tracked: Manifest
    ) -> Entry:
        metadata = {**tracked["metadata"], "name": named["metadata"]["name"]}
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = clock.now()
        metadata.pop("resourceVersion", None)
        obj = prepare_create({**tracked, "metadata": metadata}, resource, self._cluster)
        obj = self._admission.admit_create(resource, obj, options)
        self._validate(resource, obj, None)
        name, namespace = metadata["name"], metadata.get("namespace", "")
        if self._store.get(resource.storage_key, namespace, name) is not None:
            raise already_exists(resource, name)
        if resource.crd is None:
            options.warnings.extend(warn_pods(obj, resource.kind))
        return self._store_or_pretend(resource, obj, options)

    def _validate(
        self, resource: Resource, obj: Manifest, old: Manifest | None, subresource: str = ""
    ) -> None:
        schema = self._cluster.schema(resource)
        if schema is None:
            return
        errors = list(validate(obj, schema, resource.group, resource.version, resource.kind, old))
        if resource.storage_key == CRD_KEY and not subresource and not errors:
            errors.extend(validate_crd(obj))
        errors.extend(_check_scale(obj, resource))
        if errors:
            causes = [{"reason": e.reason, "message": e.message, "field": e.field} for e in errors]
            raise invalid(resource.group, resource.kind, obj["metadata"].get("name", ""), causes)

    def _store_or_pretend(self, resource: Resource, obj: Manifest, options: WriteOptions) -> Entry:
        stored = to_storage(obj, resource)
        if options.dry_run:
            return Entry(stored, self._store.version)
        return self._store.put(resource.storage_key, stored)

    def update(
        self, resource: Resource, namespace: str, name: str, body: Manifest, options: WriteOptions
    ) -> tuple[Entry, bool]:
        """Replace an object, or its status.

        Returns:
            The entry, and whether it was created.

        Raises:
            ApiError: the object is refused.
        """
        new = check_place(check_type(body, resource), resource, namespace, name)
        entry = self._store.get(resource.storage_key, namespace, name)
        if entry is None:
            if resource.storage_key in CREATE_ON_UPDATE and not options.subresource:
                return self.create(resource, namespace, body, options, name), True
            raise not_found(resource, name)
        old = from_storage(entry.obj, resource)
        self._check_version(new, old, resource)
        if not new["metadata"].get("resourceVersion") and resource.crd is not None:
            cause = {
                "reason": "FieldValueInvalid",
                "message": "Invalid value: 0: must be specified for an update",
                "field": "metadata.resourceVersion",
            }
            # The real server names the resource here, not the kind.
            raise invalid(resource.group, resource.plural, name, [cause])
        new = shape(new, resource, self._cluster, options, "update")
        return self._finish_update(resource, entry, old, new, options), False

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Callable[[Manifest], Manifest],
        options: WriteOptions,
    ) -> Entry:
        """Change an object by a JSON, merge or strategic merge patch.

        Args:
            resource: its type and version.
            namespace: of the path.
            name: of the path.
            change: the patch, as a function that returns the patched object.
            options: of the write.

        Raises:
            ApiError: the patch or its result is refused.
        """
        entry = self.get(resource, namespace, name)
        old = from_storage(entry.obj, resource)
        try:
            new = change(old)
        except PatchError as err:
            raise patch_failure(err, resource, name) from err
        new = check_place(check_type(new, resource), resource, namespace, name)
        self._check_version(new, old, resource)
        new = shape(new, resource, self._cluster, options, "patch")
        return self._finish_update(resource, entry, old, new, options)

    def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        applied: Manifest,
        options: WriteOptions,
    ) -> tuple[Entry, bool]:
        """Apply an object server-side.

        Returns:
            The entry, and whether it was created.

        Raises:
            ApiError: 409 for fields that others own, and what other writes raise.
        """
        for field in ("apiVersion", "kind"):
            if not applied.get(field):
                raise bad_request(f"Object '{field}' is missing in '{applied}'")
        applied = check_place(check_type(applied, resource), resource, namespace, name)
        schema = self._cluster.schema(resource)
        if schema is None:
            raise bad_request(f"server-side apply is not supported for {resource.qualified}")
        entry = self._store.get(resource.storage_key, namespace, name)
        if entry is None and options.subresource:
            raise not_found(resource, name)
        old = from_storage(entry.obj, resource) if entry else None
        if old is None:
            self._admission.check_namespace(resource, namespace, name)
            if applied["metadata"].get("uid"):
                raise conflict(
                    resource, name, f"uid mismatch: the provided object specified uid {applied['metadata']['uid']}, "
                    "and no existing object was found"
                )  # fmt: skip
        else:
            self._check_version(applied, old, resource)
        try:
            new = server_side_apply(
                old,
                applied,
                manager=options.manager,
                force=options.force,
                schema=schema,
                api_version=resource.api_version,
                now=clock.now(),
                subresource=options.subresource,
            )
        except ApplyConflict as err:
            causes = [
                {"reason": c.reason, "message": c.message, "field": c.field} for c in err.causes
            ]
            raise ApiError(409, "Conflict", str(err), {"causes": causes}) from err
        except PatchError as err:
            raise patch_failure(err, resource, name) from err
        refuse_wrong_types(applied, resource, self._cluster)
        new = check_place(new, resource, namespace, name)
        if entry is not None and old is not None:
            if new is old or new == old:
                return entry, False
            new = fill_defaults(new, resource, self._cluster)
            return self._finish_update(resource, entry, old, new, options, tracked=True), False
        new = without_late_defaults(fill_defaults(new, resource, self._cluster), applied, resource)
        return self._finish_create(resource, new, options, new), True

    def _check_version(self, new: Manifest, old: Manifest, resource: Resource) -> None:
        name = old["metadata"]["name"]
        version = new["metadata"].get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise modified(resource, name)
        uid = new["metadata"].get("uid")
        if uid and uid != old["metadata"]["uid"]:
            raise conflict(
                resource,
                name,
                f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}",
            )

    def _finish_update(
        self,
        resource: Resource,
        entry: Entry,
        old: Manifest,
        new: Manifest,
        options: WriteOptions,
        *,
        tracked: bool = False,
    ) -> Entry:
        metadata = dict(new["metadata"])
        for field in (
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
        ):
            if field in old["metadata"]:
                metadata[field] = old["metadata"][field]
            else:
                metadata.pop(field, None)
        metadata.pop("selfLink", None)
        new = prepare_update(
            {**new, "metadata": metadata}, old, resource, options.subresource, self._cluster
        )
        if old["metadata"].get("deletionTimestamp"):
            self._check_finalizers(resource, new, old)
        if not tracked:
            new = self._track(old, new, resource, options)
        if same(new, old):
            return entry
        new = self._admission.admit_update(resource, new, old, options)
        self._validate(resource, new, old, options.subresource)
        if resource.crd is None and new.get("spec") != old.get("spec"):
            options.warnings.extend(warn_pods(new, resource.kind))
        if options.dry_run:
            return Entry(to_storage(new, resource), entry.version)
        if is_released(new):
            return self._store.delete(resource.storage_key, to_storage(new, resource))
        return self._store.put(resource.storage_key, to_storage(dict_copy(new), resource))

    def _check_finalizers(self, resource: Resource, new: Manifest, old: Manifest) -> None:
        before = set(old["metadata"].get("finalizers") or ())
        added = [f for f in new["metadata"].get("finalizers") or () if f not in before]
        if added:
            message = (
                "Forbidden: no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{', '.join(chr(34) + f + chr(34) for f in added)}}}"
            )
            cause = {
                "reason": "FieldValueForbidden",
                "message": message,
                "field": "metadata.finalizers",
            }
            raise invalid(resource.group, resource.kind, old["metadata"]["name"], [cause])

    def write_internal(self, resource: Resource, obj: Manifest) -> Entry:
        """Store what the server itself changed, without admission or validation.

        Args:
            resource: its type, in the storage version.
            obj: the whole new object.
        """
        current = self._store.get(
            resource.storage_key, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        )
        if current is not None and same(obj, current.obj):
            return current
        if is_released(obj):
            return self._store.delete(resource.storage_key, obj)
        return self._store.put(resource.storage_key, dict_copy(obj))


def _check_scale(obj: Manifest, resource: Resource) -> list[FieldError]:
    """Check the counts of a custom resource that its scale subresource shows."""
    scale = resource.version_schema.get("subresources", {}).get("scale") if resource.crd else None
    errors: list[FieldError] = []
    for path in (scale["specReplicasPath"], scale["statusReplicasPath"]) if scale else ():
        value: Any = obj
        for part in path.strip(".").split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, float | str):
            kind = "float64" if isinstance(value, float) else "string"
            shown = f"{value:g}" if isinstance(value, float) else value
            text = f"Invalid value: 0: {path} accessor error: {shown} is of the type {kind}, expected int64"
            errors.append(FieldError(path, "FieldValueInvalid", text))
        elif isinstance(value, int) and value < 0:
            text = f"Invalid value: {value}: should be a non-negative integer"
            errors.append(FieldError(path, "FieldValueInvalid", text))
    return errors


def patch_failure(err: PatchError, resource: Resource, name: str) -> ApiError:
    """Turn a patch that does not apply into its answer; a client's mistake is never a 5xx."""
    code = err.code if err.code < 500 else 400
    if code == 422:
        return ApiError(422, "Invalid", str(err), {})
    return ApiError(code, err.reason or "BadRequest", str(err), None)
