"""The state that all parts of the server share: store, history, types and their schemas."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

from local_cluster.apiserver.resources import Manifest, Registry, Resource
from local_cluster.apiserver.storage import Store
from local_cluster.apiserver.watch import Hub
from local_cluster.schema import Catalog, Schema, crd_schema


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """The options of one write.

    Attributes:
        manager: field manager, never empty.
        dry_run: do everything but store.
        field_validation: ``Ignore``, ``Warn`` or ``Strict``.
        force: take fields over in server-side apply.
        subresource: ``status``, ``scale`` or empty.
        warnings: texts for ``Warning`` headers are added here.
    """

    manager: str
    dry_run: bool = False
    field_validation: str = "Warn"
    force: bool = False
    subresource: str = ""
    warnings: list[str] = field(default_factory=list)


class Cluster:
    """What there is, and what is known about its types."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.hub = Hub(store.version)
        self.registry = Registry()
        self.catalog = Catalog.builtin()
        self._schemas: weakref.WeakKeyDictionary[Resource, Schema] = weakref.WeakKeyDictionary()
        store.subscribe(self.hub.publish)

    def schema(self, resource: Resource) -> Schema | None:
        """Give the schema of a type, None for the few built-in ones that have none."""
        if resource.crd is None:
            return self.catalog.schema(resource.group, resource.version, resource.kind)
        schema = self._schemas.get(resource)
        if schema is None:
            schema = self._schemas[resource] = crd_schema(resource.crd, resource.version)
        return schema

    def get(self, storage_key: str, namespace: str, name: str) -> Manifest | None:
        """Look up an object in its storage version."""
        entry = self.store.get(storage_key, namespace, name)
        return entry.obj if entry else None
