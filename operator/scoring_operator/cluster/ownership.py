"""What this operator owns of an object, read from `metadata.managedFields`.

A field that somebody else changed is no longer ours, and a field that we wrote is ours until then. So an object is as
wanted exactly when it carries the hash of the wanted manifest and all its fields are still ours; no value has to be
compared, and no default or normalised quantity can deceive
(https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache, reduce
from typing import Any

import orjson

from scoring_operator.api import Kind, Manifest, ScoringModel
from scoring_operator.cluster.errors import NameTakenError, StaleOwnerError
from scoring_operator.manifests.names import APPLIED_ANNOTATION

# Not part of managed fields: they identify the object.
_IDENTITY = {"apiVersion", "kind"}
_METADATA = ("labels", "annotations", "ownerReferences")


def stamp(manifest: Manifest) -> Manifest:
    """Copy a manifest and add the hash of its content as an annotation.

    Secret values do not enter the hash, so that nothing about them can be learned from it.
    """
    content = manifest
    if manifest["kind"] == "Secret":
        content = {**manifest, "data": sorted(manifest.get("data", {}))}
    text = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(text).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_ANNOTATION: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def is_as_applied(wanted: Manifest, live: Manifest, manager: str) -> bool:
    """Whether nothing has to be written.

    Args:
        wanted: a stamped manifest.
        live: the stored object with its managed fields.
        manager: our field manager.
    """
    if wanted["kind"] == "Secret":
        # The one thing that the hash leaves out.
        stored = live.get("data") or {}
        if any(stored.get(name) != value for name, value in wanted["data"].items()):
            return False
    annotations = live["metadata"].get("annotations") or {}
    stamped = wanted["metadata"]["annotations"][APPLIED_ANNOTATION]
    return annotations.get(APPLIED_ANNOTATION) == stamped and not lost_fields(wanted, live, manager)


def lost_fields(wanted: Manifest, live: Manifest, manager: str) -> list[str]:
    """Paths of the wanted manifest that the manager does not own in the stored object."""
    owned = owned_fields(live, manager)
    content = {k: v for k, v in wanted.items() if k not in _IDENTITY | {"metadata"}}
    metadata = wanted.get("metadata", {})
    content["metadata"] = {k: metadata[k] for k in _METADATA if k in metadata}
    return list(_missing(content, owned, ""))


def owned_fields(live: Manifest, manager: str) -> dict[str, Any]:
    """The `fieldsV1` of all that this manager created, changed or applied; empty when it did nothing."""
    sets = [entry.get("fieldsV1") or {} for entry in _written_by(live, manager)]
    return reduce(_union, sets) if sets else {}


def was_applied(live: Manifest, manager: str) -> bool:
    """Whether all that the manager owns was applied, so that what it no longer applies goes away."""
    return all(entry["operation"] == "Apply" for entry in _written_by(live, manager))


def as_applied(live: Manifest, manager: str) -> list[Manifest]:
    """The managed fields of an object, with all that the manager created or changed counted as applied.

    Args:
        live: the stored object with the managed fields of everybody.
        manager: the field manager.
    """
    managed: list[Manifest] = live["metadata"].get("managedFields") or []
    own = _written_by(live, manager)
    if not own:
        return managed
    entry = {**own[-1], "operation": "Apply", "fieldsV1": owned_fields(live, manager)}
    return [entry, *(other for other in managed if other not in own)]


def _written_by(live: Manifest, manager: str) -> list[Manifest]:
    return [
        entry
        for entry in live["metadata"].get("managedFields") or ()
        if is_written_by(entry, manager)
    ]


def is_written_by(entry: Manifest, manager: str) -> bool:
    """Whether an entry of the managed fields is about what this manager wrote, other than to a subresource."""
    return entry.get("manager") == manager and not entry.get("subresource")


def _union(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    if not one or not other:
        # An empty set is the field itself, which beside parts of it is written as ".".
        whole = one or other
        return {".": {}, **whole} if whole else {}
    both = {name: _union(fields, other[name]) for name, fields in one.items() if name in other}
    return {**one, **other, **both}


def owns_field(live: Manifest, manager: str, *path: str) -> bool:
    """Whether the manager wrote this field, such as `spec`, `replicas`; of what it created also the defaults count."""
    fields = owned_fields(live, manager)
    for name in path:
        fields = fields.get(f"f:{name}")  # type: ignore[assignment]  # JSON
        if fields is None:
            return False
    return True


def owned_annotation(live: Manifest, manager: str, name: str) -> str | None:
    """An annotation, if the manager wrote it and nobody changed it since."""
    value = (live["metadata"].get("annotations") or {}).get(name)
    return value if value and owns_field(live, manager, "metadata", "annotations", name) else None


def _missing(wanted: Any, owned: dict[str, Any], path: str) -> Iterator[str]:
    if isinstance(wanted, dict):
        for name, value in wanted.items():
            yield from _missing_member(value, owned.get(f"f:{name}"), f"{path}.{name}")
    elif isinstance(wanted, list):
        for index, value in enumerate(wanted):
            yield from _missing_member(value, _item(value, owned), f"{path}[{index}]")


def _missing_member(value: Any, owned: Any, path: str) -> Iterator[str]:
    if value == {} or value == []:
        # Empty containers may or may not be members of the set, and nothing in them can be lost.
        return
    if owned is None:
        yield path
    elif (
        owned != {}
    ):  # an empty set marks a leaf: a scalar, or a list or map that is owned as a whole
        yield from _missing(value, owned, path)


def _item(value: Any, owned: dict[str, Any]) -> Any:
    """The owned set of a list item, found by its key fields or its value."""
    for name, fields in owned.items():
        marker, content = _item_name(name)
        if marker == "k" and isinstance(value, dict):
            # A key that the manifest leaves out has its default in the stored object.
            if all(value.get(k, v) == v for k, v in content.items()):
                return fields
        elif marker == "v" and content == value:
            return fields
    return None


@lru_cache(maxsize=4096)
def _item_name(name: str) -> tuple[str, Any]:
    """What an item of a set is called by: `k` and its key fields, or `v` and its value."""
    marker, _, text = name.partition(":")
    return marker, orjson.loads(text) if marker in {"k", "v"} else None


def is_owned(manifest: Manifest, model: ScoringModel) -> bool:
    """Whether the ScoringModel is among the owners."""
    owners = manifest["metadata"].get("ownerReferences") or ()
    return any(owner["uid"] == model.uid for owner in owners)


def _controller(manifest: Manifest) -> Manifest | None:
    references = manifest["metadata"].get("ownerReferences") or ()
    return next((r for r in references if r.get("controller")), None)


def controller_uid(manifest: Manifest) -> str | None:
    """The uid of the object that controls this one."""
    controller = _controller(manifest)
    return controller["uid"] if controller else None


def check_owner(live: Manifest, kind: Kind, model: ScoringModel) -> None:
    """Refuse to touch what belongs to somebody else.

    Raises:
        NameTakenError: it does.
        StaleOwnerError: it belongs to a deleted ScoringModel of the same name.
    """
    owner = _controller(live)
    if owner and owner["uid"] == model.uid:
        return
    what = f"{kind.name} {live['metadata']['name']}"
    if owner and owner["kind"] == "ScoringModel" and owner["name"] == model.name:
        raise StaleOwnerError(f"{what} of the deleted ScoringModel {model.name} is still there")
    whose = f"belongs to {owner['kind']} {owner['name']}" if owner else "belongs to nobody"
    raise NameTakenError(f"{what} exists already and {whose}")
