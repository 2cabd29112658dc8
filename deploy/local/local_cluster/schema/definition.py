"""Whether a CustomResourceDefinition is sound: its names, versions, columns and subresources.

The rules: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/.
"""

from __future__ import annotations

from typing import Any

from local_cluster.schema import names
from local_cluster.schema.errors import FieldError, invalid, required, unsupported
from local_cluster.schema.structural import validate_root

Manifest = dict[str, Any]

_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")


def validate_crd(crd: Manifest) -> list[FieldError]:
    """Check a defaulted CustomResourceDefinition.

    Returns:
        The causes of a refusal; none for a sound one.
    """
    spec = crd.get("spec") or {}
    errors: list[FieldError] = []
    group, scope = spec.get("group") or "", spec.get("scope")
    plural = (spec.get("names") or {}).get("plural") or ""
    name = (crd.get("metadata") or {}).get("name") or ""
    if name != f"{plural}.{group}":
        text = 'must be spec.names.plural+"."+spec.group'
        errors.append(invalid("metadata.name", name, text))
    if not group:
        errors.append(required("spec.group"))
    else:
        errors.extend(invalid("spec.group", group, text) for text in names.dns_subdomain(group))
        if "." not in group:
            errors.append(invalid("spec.group", group, "should be a domain with at least one dot"))
    if scope not in ("Cluster", "Namespaced"):
        errors.append(
            unsupported("spec.scope", scope, ("Cluster", "Namespaced"))
            if scope
            else required("spec.scope")
        )
    errors.extend(_names(spec.get("names") or {}))
    errors.extend(_versions(spec.get("versions") or []))
    if group.endswith((".k8s.io", ".kubernetes.io")) or group in ("k8s.io", "kubernetes.io"):
        annotations = (crd.get("metadata") or {}).get("annotations") or {}
        if "api-approved.kubernetes.io" not in annotations:
            text = (
                'protected groups must have approval annotation "api-approved.kubernetes.io", '
                "see https://github.com/kubernetes/enhancements/pull/1111"
            )
            errors.append(required("metadata.annotations[api-approved.kubernetes.io]", text))
    return errors


def validate_crd_update(crd: Manifest, old: Manifest) -> list[FieldError]:
    """Check what must stay while objects are stored."""
    errors: list[FieldError] = []
    before, after = old.get("spec") or {}, crd.get("spec") or {}
    for path in (("group",), ("scope",), ("names", "kind"), ("names", "plural")):
        mine, theirs = before, after
        for part in path:
            mine = (mine or {}).get(part)
            theirs = (theirs or {}).get(part)
        if mine != theirs:
            errors.append(invalid("spec." + ".".join(path), theirs, names.IMMUTABLE))
    known = {version.get("name") for version in after.get("versions") or ()}
    for position, stored in enumerate((old.get("status") or {}).get("storedVersions") or ()):
        if stored not in known:
            errors.append(invalid(f"status.storedVersions[{position}]", stored, "missing from spec.versions; "
                                  f"{stored} was previously a storage version, and must remain in spec.versions until a "
                                  "storage migration ensures no data remains persisted in "
                                  f"{stored} and removes {stored} from status.storedVersions"))  # fmt: skip
    return errors


def _names(spec: Manifest) -> list[FieldError]:
    errors: list[FieldError] = []
    for field in ("plural", "singular", "kind", "listKind"):
        value = spec.get(field) or ""
        path = f"spec.names.{field}"
        if not value:
            errors.append(required(path))
            continue
        errors.extend(invalid(path, value, text) for text in names.dns_1035_label(value.lower()))
        if field in ("plural", "singular") and value != value.lower():
            errors.append(invalid(path, value, names.dns_1035_label("A")[0]))
    if spec.get("kind") and spec.get("kind") == spec.get("listKind"):
        errors.append(
            invalid(
                "spec.names.listKind", spec["listKind"], "kind and listKind may not be the same"
            )
        )
    for field in ("shortNames", "categories"):
        for position, value in enumerate(spec.get(field) or ()):
            path = f"spec.names.{field}[{position}]"
            errors.extend(invalid(path, value, text) for text in names.dns_1035_label(value))
    return errors


def _versions(versions: list[Manifest]) -> list[FieldError]:
    errors: list[FieldError] = []
    if not versions:
        return [required("spec.versions", "must have at least one version")]
    seen: set[str] = set()
    for position, version in enumerate(versions):
        path = f"spec.versions[{position}]"
        name = version.get("name") or ""
        if not name:
            errors.append(required(f"{path}.name"))
        else:
            errors.extend(
                invalid(f"{path}.name", name, text) for text in names.dns_1035_label(name)
            )
        if name in seen:
            errors.append(invalid("spec.versions", versions, "must contain unique version names"))
        seen.add(name)
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        where = f"{path}.schema.openAPIV3Schema"
        if schema is None:
            errors.append(required(where, "schemas are required"))
        else:
            errors.extend(validate_root(schema, where))
        errors.extend(
            _columns(
                version.get("additionalPrinterColumns") or (), f"{path}.additionalPrinterColumns"
            )
        )
        errors.extend(_subresources(version.get("subresources") or {}, f"{path}.subresources"))
    if sum(bool(version.get("storage")) for version in versions) != 1:
        text = "must have exactly one version marked as storage version"
        errors.append(invalid("spec.versions", versions, text))
    return errors


def _columns(columns: Any, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for position, column in enumerate(columns):
        where = f"{path}[{position}]"
        if not column.get("name"):
            errors.append(required(f"{where}.name"))
        if not column.get("type"):
            errors.append(
                required(
                    f"{where}.type",
                    'must be one of "boolean", "date", "integer", "number", "string"',
                )
            )
        elif column["type"] not in _COLUMN_TYPES:
            text = "must be one of " + ", ".join(f'"{kind}"' for kind in _COLUMN_TYPES)
            errors.append(invalid(f"{where}.type", column["type"], text))
        found = column.get("jsonPath")
        if not found:
            errors.append(required(f"{where}.jsonPath"))
        elif not found.startswith("."):
            errors.append(
                invalid(f"{where}.jsonPath", found, "must be a simple json path starting with .")
            )
    return errors


def _subresources(subresources: Manifest, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    scale = subresources.get("scale")
    if scale is None:
        return errors
    for field, prefix in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
        value = scale.get(field) or ""
        where = f"{path}.scale.{field}"
        if not value:
            errors.append(required(where))
        elif not value.startswith(prefix):
            errors.append(invalid(where, value, f"should be a json path under {prefix[:-1]}"))
    selector = scale.get("labelSelectorPath")
    if selector and not selector.startswith((".spec.", ".status.")):
        text = "should be a json path under either .spec or .status"
        errors.append(invalid(f"{path}.scale.labelSelectorPath", selector, text))
    return errors
