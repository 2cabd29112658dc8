"""Server-side apply and the bookkeeping of `metadata.managedFields`.

The algorithm is that of https://kubernetes.io/docs/reference/using-api/server-side-apply/ and of the field manager in
k8s.io/apimachinery; where the two leave room, recorded answers of a real server decide.
"""

from __future__ import annotations

import json
from typing import Any

from local_cluster.schema.decoding import typed_error
from local_cluster.schema.errors import ApplyConflict, FieldError, PatchError
from local_cluster.schema.fieldset import (
    Comparison,
    Fields,
    applied_fields,
    compare,
    difference,
    ensure_named,
    intersection,
    paths,
    union,
)
from local_cluster.schema.managers import Managers, Owner, decode_managers, strip_metadata
from local_cluster.schema.merge import merge_objects, remove_fields
from local_cluster.schema.node import Schema

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_CURRENT = Owner("current-operation", "", "", "")


def server_side_apply(
    live: dict[str, Any] | None,
    applied: dict[str, Any],
    *,
    manager: str,
    force: bool,
    schema: Schema,
    api_version: str,
    now: str,
    subresource: str = "",
) -> dict[str, Any]:
    """Merge what a manager applies into the live object.

    Args:
        live: the stored object, or None when the apply creates it.
        applied: what the manager sent: the fields it has an opinion about.
        manager: the field manager.
        force: take fields from other managers instead of a conflict.
        schema: the schema of the kind.
        api_version: e.g. `apps/v1`.
        now: RFC 3339 time for the manager's entry.
        subresource: e.g. `status`; empty for the object itself.

    Returns:
        The new object, not yet defaulted. It equals `live`, times included, when the apply changes nothing.

    Raises:
        ApplyConflict: another manager owns a field with another value, and `force` is false.
        PatchError: `applied` does not fit the schema or carries managedFields.
    """
    metadata = applied.get("metadata") or {}
    if metadata.get("managedFields"):
        raise PatchError("metadata.managedFields must be nil")
    problem = typed_error(applied, schema)
    if problem is not None:
        name = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}; {api_version}, Kind={applied.get('kind', '')}"
        raise PatchError(
            f"failed to create typed patch object ({name}): {problem}", code=500, reason=""
        )
    ignored = _ignored(schema, subresource)
    base = _without_managed(live) if live is not None else _empty(schema)
    managers = decode_managers(live)
    if live is not None and not managers.fields and live["metadata"].get("uid"):
        # What was there before the first apply belongs to somebody, so that a first apply can conflict with it.
        before = Owner("before-first-apply", "Update", api_version, subresource)
        _update(_empty(schema), base, managers, before, schema, ignored, now)
    owner = Owner(manager, "Apply", "", subresource)
    try:
        merged, changed = _apply(
            base, applied, managers, owner, schema, ignored, force=force, version=api_version
        )
    except ApplyConflict as conflict:
        # kubectl's own apply takes over the fields of an earlier client-side apply.
        if manager != "kubectl" or not _from_client_side_apply(base, conflict, schema):
            raise
        merged, changed = _apply(
            base, applied, managers, owner, schema, ignored, force=True, version=api_version
        )
    if changed or (owner not in managers.times and live is None):
        managers.times[owner] = now
    if manager == "kubectl" and not subresource:
        merged = _refresh_last_applied(merged, applied)
    return _finish(live, merged, managers)


def track_update(
    old: dict[str, Any] | None,
    new: dict[str, Any],
    *,
    manager: str,
    subresource: str,
    schema: Schema,
    api_version: str,
    now: str,
) -> dict[str, Any]:
    """Return `new` with managedFields that tell who changed what, for a create, an update or a patch.

    Args:
        old: the stored object; None for a create.
        new: the defaulted object that is to be stored. Its own managedFields count if they were edited.
        manager: the field manager.
        subresource: e.g. `status` or `scale`; empty for the object itself.
        schema: the schema of the kind.
        api_version: e.g. `apps/v1`.
        now: RFC 3339 time for the manager's entry.

    Returns:
        The object to store; equal to `old`, times included, when nothing but times would change.
    """
    given = new.get("metadata", {}).get("managedFields")
    if subresource or not given or old is None:
        managers = decode_managers(old if old is not None else new)
    elif given == [{}]:  # how a client asks to forget all owners
        managers = Managers()
    else:
        managers = decode_managers(new)
        if not managers.fields:
            managers = decode_managers(old)
    if old is not None and not managers.fields:
        return _finish(old, _without_managed(new), managers)
    base = _without_managed(old) if old is not None else _empty(schema)
    target = _without_managed(new)
    owner = Owner(manager or "unknown", "Update", api_version, subresource)
    _update(base, target, managers, owner, schema, _ignored(schema, subresource), now)
    managers.cap()
    return _finish(old, target, managers)


def _ignored(schema: Schema, subresource: str) -> tuple[str, ...]:
    """Name the top-level fields that a write to this endpoint leaves alone."""
    if subresource == "status":
        return ("f:spec",)
    return ("f:status",) if schema.has_status and not subresource else ()


def _update(
    old: dict[str, Any], new: dict[str, Any], managers: Managers, owner: Owner, schema: Schema,
    ignored: tuple[str, ...], now: str,
) -> None:  # fmt: skip
    changes = compare(old, new, schema)
    if ignored:
        changes = changes.without(ignored)
    _take(changes, managers, _CURRENT, force=True)
    mine = strip_metadata(union(changes.modified, changes.added))
    if mine:
        previous = managers.fields.get(owner)
        managers.fields[owner] = union(mine, previous) if previous else mine
        managers.versions[owner] = owner.api_version
        # The scale endpoint translates owners back and forth and loses the times on the way, in a real server too.
        if owner.subresource != "scale":
            managers.times[owner] = now


def _take(changes: Comparison, managers: Managers, owner: Owner, *, force: bool) -> None:
    """Take changed fields from everybody else, and removed fields from all; or raise the conflicts."""
    gained = union(changes.modified, changes.added)
    conflicts: dict[Owner, Fields] = {}
    if gained:
        for other, fields in managers.fields.items():
            if other != owner:
                clash = intersection(fields, gained)
                if clash:
                    conflicts[other] = clash
    if conflicts and not force:
        raise _conflict(conflicts, managers)
    for other, clash in conflicts.items():
        managers.fields[other] = difference(managers.fields[other], clash)
    if changes.removed:
        for other, fields in managers.fields.items():
            if other != owner:
                managers.fields[other] = difference(fields, changes.removed)
    for other in [other for other, fields in managers.fields.items() if not fields]:
        del managers.fields[other]


def _apply(
    live: dict[str, Any], applied: dict[str, Any], managers: Managers, owner: Owner, schema: Schema,
    ignored: tuple[str, ...], *, force: bool, version: str,
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    merged = merge_objects(live, applied, schema)
    last = managers.fields.get(owner)
    mine = applied_fields(applied, schema)
    if ignored:
        mine = {key: value for key, value in mine.items() if key not in ignored}
        for key in ignored:  # fields that this endpoint does not write stay as they are
            name = key[2:]
            if name in live:
                merged[name] = live[name]
            else:
                merged.pop(name, None)
    claimed = Managers(dict(managers.fields), managers.times, dict(managers.versions))
    claimed.fields[owner] = mine
    if last:
        merged = _prune(merged, claimed, last, schema)
    changes = compare(live, merged, schema)
    if ignored:
        changes = changes.without(ignored)
    _take(changes, claimed, owner, force=force)
    stripped = strip_metadata(mine)
    if stripped:
        claimed.fields[owner] = last if last is not None and stripped == last else stripped
    else:
        claimed.fields.pop(owner, None)
    claimed.versions[owner] = version
    managers.fields, managers.versions = claimed.fields, claimed.versions
    changed = bool(changes.added or changes.modified or changes.removed)
    return merged, changed or merged != live


def _prune(
    merged: dict[str, Any], managers: Managers, last: Fields, schema: Schema
) -> dict[str, Any]:
    """Take out what this manager applied last time and nobody owns any more."""
    owned: Fields = {}
    for fields in managers.fields.values():
        owned = union(owned, fields)
    if not difference(last, owned):
        return merged
    owned = ensure_named(owned, schema)
    before = ensure_named(last, schema)
    everything = ensure_named(applied_fields(merged, schema), schema)
    pruned = remove_fields(merged, before, schema) or {}
    left = ensure_named(applied_fields(pruned, schema), schema)
    # Back comes what somebody still owns …
    pruned = remove_fields(merged, difference(everything, union(left, owned)), schema) or {}
    left = ensure_named(applied_fields(pruned, schema), schema)
    # … and what this manager never owned.
    dangling = intersection(difference(everything, left), before)
    result: dict[str, Any] = remove_fields(merged, dangling, schema) or {}
    return result


def _conflict(conflicts: dict[Owner, Fields], managers: Managers) -> ApplyConflict:
    by_owner = sorted(conflicts.items(), key=lambda entry: entry[0].identifier())
    causes: list[FieldError] = []
    lines: list[str] = []
    for owner, fields in by_owner:
        who = owner.describe(
            managers.versions.get(owner, owner.api_version), managers.times.get(owner)
        )
        found = list(paths(fields))
        causes.extend(
            FieldError(path, "FieldManagerConflict", f"conflict with {who}") for path in found
        )
        lines.append(f"conflicts with {who}:")
        lines.extend(f"- {path}" for path in found)
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: {causes[0].message}: {causes[0].field}"
    else:
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(lines)
    return ApplyConflict(message, causes)


def _from_client_side_apply(live: dict[str, Any], conflict: ApplyConflict, schema: Schema) -> bool:
    """Tell whether all conflicting fields still are as the last client-side apply left them."""
    text = (live.get("metadata", {}).get("annotations") or {}).get(LAST_APPLIED)
    if not text:
        return False
    try:
        last = json.loads(text)
    except ValueError:
        return False
    if not isinstance(last, dict):
        return False
    untouched = difference(applied_fields(last, schema), compare(last, live, schema).modified)
    return {cause.field for cause in conflict.causes} <= set(paths(untouched))


def _refresh_last_applied(merged: dict[str, Any], applied: dict[str, Any]) -> dict[str, Any]:
    annotations = merged.get("metadata", {}).get("annotations") or {}
    if LAST_APPLIED not in annotations:
        return merged
    text = json.dumps(applied, separators=(",", ":"), ensure_ascii=False, sort_keys=True) + "\n"
    metadata = {**merged["metadata"], "annotations": {**annotations, LAST_APPLIED: text}}
    return {**merged, "metadata": metadata}


def _without_managed(obj: dict[str, Any]) -> dict[str, Any]:
    metadata = obj.get("metadata") or {}
    if "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {k: v for k, v in metadata.items() if k != "managedFields"}}


def _empty(schema: Schema) -> dict[str, Any]:
    """Return what a new object of this kind holds before anything is set.

    A built-in kind is a Go struct: its embedded structs are always there, and so are fields without `omitempty`, which is
    why `.spec` of a Deployment gets no owner and `.spec` of a custom resource does.
    """
    if not schema.native:
        return {"metadata": {}}
    found = schema.cache.get("empty")
    if found is None:
        found = schema.cache["empty"] = _empty_struct(schema)
    empty: dict[str, Any] = found
    return empty


def _empty_struct(node: Schema) -> dict[str, Any]:
    zero = {"string": "", "integer": 0, "number": 0, "boolean": False}
    out: dict[str, Any] = {}
    for name, child in node.properties.items():
        if child.has_default and isinstance(child.default, dict):
            out[name] = _empty_struct(child)
        elif name in node.required:
            out[name] = zero.get(child.type)
    return out


def _finish(live: dict[str, Any] | None, new: dict[str, Any], managers: Managers) -> dict[str, Any]:
    """Attach the managers; an object that differs from the live one in times only is the live one."""
    entries = managers.encode()
    metadata = {k: v for k, v in (new.get("metadata") or {}).items() if k != "managedFields"}
    if entries:
        metadata["managedFields"] = entries
    out = {**new, "metadata": metadata}
    return keep_unchanged(live, out) if live is not None else out


def keep_unchanged(live: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return `live` itself if `new` differs from it in the times of managedFields only, else `new`.

    A server calls it once more after defaulting what an apply returned: defaults may put back what the apply took
    out, and then there is nothing to write.
    """
    if any(new.get(key) != live.get(key) for key in {*new, *live} if key != "metadata"):
        return new
    before, after = live.get("metadata") or {}, new.get("metadata") or {}
    if any(
        before.get(key) != after.get(key) for key in {*before, *after} if key != "managedFields"
    ):
        return new
    if _timeless(before) != _timeless(after):
        return new
    return live


def _timeless(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    entries = metadata.get("managedFields") or ()
    bare = [{key: value for key, value in entry.items() if key != "time"} for entry in entries]
    return sorted(bare, key=Owner.sort_key)
