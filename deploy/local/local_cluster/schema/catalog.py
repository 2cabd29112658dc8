"""The schemas of the built-in kinds, read from the OpenAPI v3 documents beside this module."""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib import resources
from typing import Any

from local_cluster.schema.node import Compiler, Schema


class Catalog:
    """Schemas by group, version and kind. A group's document is parsed when its first kind is asked for."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], dict[str, Any] | None] = {}
        self._compilers: dict[tuple[str, str], Compiler] = {}
        self._names: dict[tuple[str, str], dict[str, str]] = {}
        self._schemas: dict[tuple[str, str, str], Schema | None] = {}

    @staticmethod
    def builtin() -> Catalog:
        """Return the one catalog of this process; nothing is read yet."""
        return _builtin()

    def document(self, group: str, version: str) -> bytes | None:
        """Return the OpenAPI v3 document of a group version as JSON, or None where there is none."""
        name = f"apis_{group}_{version}.json.gz" if group else f"api_{version}.json.gz"
        path = resources.files("local_cluster.schema.openapi") / name
        try:
            return gzip.decompress(path.read_bytes())
        except FileNotFoundError:
            return None

    def schema(self, group: str, version: str, kind: str) -> Schema | None:
        """Return the schema of a built-in kind, or None if there is no such kind."""
        key = (group, version, kind)
        if key not in self._schemas:
            self._schemas[key] = self._load(group, version, kind)
        return self._schemas[key]

    def _load(self, group: str, version: str, kind: str) -> Schema | None:
        key = (group, version)
        if key not in self._names:
            text = self.document(group, version)
            definitions = json.loads(text)["components"]["schemas"] if text else {}
            self._compilers[key] = Compiler(definitions, native=True)
            names: dict[str, str] = {}
            for name, raw in definitions.items():
                for gvk in raw.get("x-kubernetes-group-version-kind", ()):
                    if gvk["group"] == group and gvk["version"] == version:
                        names.setdefault(gvk["kind"], name)
            self._names[key] = names
        found = self._names[key].get(kind)
        if found is None:
            return None
        node = self._compilers[key].named(found)
        node.has_status = "status" in node.properties
        return node


@cache
def _builtin() -> Catalog:
    return Catalog()
