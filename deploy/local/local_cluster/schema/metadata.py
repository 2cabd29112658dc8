"""Validation of `metadata`, the same for every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from local_cluster.schema import names
from local_cluster.schema.errors import FieldError, invalid, required

NameRule = Callable[[str], tuple[str, ...]]

_RBAC = "rbac.authorization.k8s.io"
_NAME_RULES: dict[tuple[str, str], NameRule] = {
    ("", "Service"): names.dns_label,  # since 1.36 it may begin with a digit
    ("", "Namespace"): names.dns_label,
    **{
        (_RBAC, kind): names.path_segment
        for kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
    },
}
_FIXED = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
# The sum of all annotation keys and values.
_MAX_ANNOTATIONS = 256 * 1024


def validate_metadata(
    metadata: dict[str, Any], group: str, kind: str, old: dict[str, Any] | None, *, native: bool
) -> list[FieldError]:
    """Check names, labels, annotations, owner references and finalizers, and that fixed fields stay.

    Args:
        metadata: the new metadata.
        group: API group, empty for the core.
        kind: the kind, which decides the syntax of its names.
        old: the metadata so far, None for a create.
        native: whether this is a built-in kind.
    """
    errors: list[FieldError] = []
    rule = _NAME_RULES.get((group, kind), names.dns_subdomain)
    name = metadata.get("name")
    prefix = metadata.get("generateName")
    if prefix and old is None:
        errors.extend(
            invalid("metadata.generateName", prefix, text)
            for text in rule(prefix.rstrip("-.") or prefix)
        )
    if not name:
        if old is None and not prefix:
            errors.append(required("metadata.name", "name or generateName is required"))
        elif old is not None:
            errors.append(required("metadata.name", "name is required"))
    elif old is None:
        errors.extend(invalid("metadata.name", name, text) for text in rule(name))
    if old is not None:
        for field in _FIXED:
            if field == "deletionTimestamp" and not old.get(field):
                continue
            if field == "deletionGracePeriodSeconds" and not old.get(field):
                continue
            if metadata.get(field) != old.get(field) and old.get(field) is not None:
                errors.append(invalid(f"metadata.{field}", metadata.get(field), names.IMMUTABLE))
    errors.extend(validate_labels(metadata.get("labels"), "metadata.labels"))
    errors.extend(_annotations(metadata.get("annotations")))
    errors.extend(_owners(metadata.get("ownerReferences") or ()))
    for position, finalizer in enumerate(metadata.get("finalizers") or ()):
        where = f"metadata.finalizers[{position}]"
        errors.extend(invalid(where, finalizer, text) for text in names.qualified_name(finalizer))
        if (
            native
            and not group
            and "/" not in finalizer
            and finalizer not in ("kubernetes", "orphan", "foregroundDeletion")
        ):
            text = "name is neither a standard finalizer name nor is it fully qualified"
            errors.append(invalid(where, finalizer, text))
    if old is not None and old.get("deletionTimestamp"):
        added = sorted(set(metadata.get("finalizers") or ()) - set(old.get("finalizers") or ()))
        if added:
            text = f"Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {_go_strings(added)}"
            errors.append(FieldError("metadata.finalizers", "FieldValueForbidden", text))
    return errors


def _go_strings(items: list[str]) -> str:
    return "[]string{" + ", ".join(f'"{item}"' for item in items) + "}"


def validate_labels(labels: dict[str, Any] | None, path: str) -> list[FieldError]:
    """Check the keys and values of labels."""
    errors: list[FieldError] = []
    for key, value in (labels or {}).items():
        errors.extend(invalid(path, key, text) for text in names.qualified_name(key))
        errors.extend(invalid(path, value, text) for text in names.label_value(str(value)))
    return errors


def _annotations(annotations: dict[str, Any] | None) -> list[FieldError]:
    errors: list[FieldError] = []
    size = 0
    for key, value in (annotations or {}).items():
        errors.extend(
            invalid("metadata.annotations", key, text) for text in names.qualified_name(key.lower())
        )
        size += len(key) + len(str(value))
    if size > _MAX_ANNOTATIONS:
        text = f"Too long: may not be more than {_MAX_ANNOTATIONS} bytes"
        errors.append(FieldError("metadata.annotations", "FieldValueTooLong", text))
    return errors


def _owners(owners: Any) -> list[FieldError]:
    errors: list[FieldError] = []
    controller = ""
    for owner in owners:
        path = "metadata.ownerReferences"
        if not owner.get("apiVersion"):
            errors.append(
                invalid(
                    f"{path}.apiVersion", owner.get("apiVersion", ""), "version must not be empty"
                )
            )
        for field in ("kind", "name", "uid"):
            if not owner.get(field):
                errors.append(invalid(f"{path}.{field}", owner.get(field, ""), "must not be empty"))
        if owner.get("controller"):
            if controller:
                text = (
                    'Only one reference can have Controller set to true. Found "true" in references for '
                    f"{controller} and {owner.get('kind')}/{owner.get('name')}"
                )
                errors.append(invalid(path, list(owners), text))
            controller = f"{owner.get('kind')}/{owner.get('name')}"
    return errors
