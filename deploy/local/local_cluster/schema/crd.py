"""CustomResourceDefinitions: whether one is sound, and the schema of the kind that it defines."""

from __future__ import annotations

from typing import Any

from local_cluster.schema.catalog import Catalog
from local_cluster.schema.definition import validate_crd
from local_cluster.schema.node import Compiler, Schema

__all__ = ["crd_schema", "validate_crd"]


def crd_schema(crd: dict[str, Any], version: str) -> Schema:
    """Compile the schema of one version of a custom resource.

    Args:
        crd: a CRD that `validate_crd` found sound.
        version: the name of one of its versions.

    Returns:
        The root node, with `apiVersion`, `kind` and `metadata` as every object has them.

    Raises:
        KeyError: the CRD has no such version.
    """
    for entry in crd["spec"]["versions"]:
        if entry["name"] == version:
            break
    else:
        raise KeyError(version)
    raw = (entry.get("schema") or {}).get("openAPIV3Schema") or {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    # The version's own node is not shared: the fields below are added to it.
    root = Compiler({}, native=False).node(raw)
    declared = root.properties.get("metadata")
    root.properties = {
        **root.properties,
        "apiVersion": _text(),
        "kind": _text(),
        "metadata": _metadata(declared),
    }
    root.type = "object"
    root.has_status = "status" in (entry.get("subresources") or {})
    _embed_metadata(root)
    return root


def _text() -> Schema:
    node = Schema()
    node.type = "string"
    return node


def _metadata(declared: Schema | None = None) -> Schema:
    """Return the schema of ObjectMeta, with the few limits that a CRD may put on `name` and `generateName`."""
    config_map = Catalog.builtin().schema("", "v1", "ConfigMap")
    assert config_map is not None
    node = config_map.properties["metadata"].copy()
    if declared is not None and declared.properties:
        node.properties = {**node.properties, **{
            name: child for name, child in declared.properties.items() if name in ("name", "generateName")
        }}  # fmt: skip
        node.cache = {}
    node.has_default = False
    return node


def _embed_metadata(node: Schema | None) -> None:
    """Give embedded resources the fields that every object has."""
    if node is None:
        return
    for child in node.properties.values():
        if not child.native:
            if child.embedded:
                child.properties = {
                    **child.properties,
                    "apiVersion": _text(),
                    "kind": _text(),
                    "metadata": _metadata(child.properties.get("metadata")),
                }
            _embed_metadata(child)
    for extra in (node.items, node.additional):
        if extra is not None and not extra.native:
            _embed_metadata(extra)
