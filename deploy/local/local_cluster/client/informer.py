"""A local copy of a collection that follows the server: list, watch, resume, list again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from local_cluster.client.errors import ApiError
from local_cluster.client.http import Client, Manifest
from local_cluster.client.resources import Resource

Key = tuple[str, str]
ChangeCallback = Callable[[Key, Manifest | None, Manifest | None], None]

_MAX_BACKOFF_SECONDS = 5.0

log = logging.getLogger(__name__)


def object_key(manifest: Manifest) -> Key:
    """The (namespace, name) of an object; the namespace of a cluster-scoped one is empty."""
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Index:
    """Objects of an informer grouped by values computed from them, kept current.

    Args:
        values: the index values of one object, none or more.
    """

    def __init__(self, values: Callable[[Manifest], Iterable[str]]) -> None:
        self._values = values
        self._groups: dict[str, dict[Key, Manifest]] = {}

    def get(self, value: str) -> list[Manifest]:
        """The objects with this index value."""
        return list(self._groups.get(value, {}).values())

    def update(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        """Replace what is known of one object."""
        if old is not None:
            for value in self._values(old):
                group = self._groups.get(value)
                if group is not None:
                    group.pop(key, None)
                    if not group:
                        del self._groups[value]
        if new is not None:
            for value in self._values(new):
                self._groups.setdefault(value, {})[key] = new


class Informer:
    """Follows one collection.

    ``store`` holds the latest known objects by (namespace, name). They are shared: read them,
    never edit them. Callbacks run in the event loop right after the store changed.

    Args:
        client: an open client.
        resource: what to follow.
        namespace: only this namespace; by default all.
        label_selector: only objects with these labels, as kubectl's ``-l``.
        field_selector: only objects with these fields, as kubectl's ``--field-selector``.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> None:
        self.resource = resource
        self.store: dict[Key, Manifest] = {}
        self._client = client
        self._scope: dict[str, Any] = {
            "namespace": namespace,
            "label_selector": label_selector,
            "field_selector": field_selector,
        }
        self._callbacks: list[ChangeCallback] = []
        self._indexes: list[Index] = []
        self._synced = asyncio.Event()

    def on_change(self, callback: ChangeCallback) -> None:
        """Call ``callback(key, old, new)`` on each change; ``new`` is None for a deletion.

        A callback added later first hears of all objects that are there already.
        """
        self._callbacks.append(callback)
        for key, item in list(self.store.items()):
            self._call(callback, key, None, item)

    def add_index(self, values: Callable[[Manifest], Iterable[str]]) -> Index:
        """Keep the objects grouped by the values that a function computes from each."""
        index = Index(values)
        for key, item in self.store.items():
            index.update(key, None, item)
        self._indexes.append(index)
        return index

    def get(self, namespace: str, name: str) -> Manifest | None:
        """The latest known object of that name, or None."""
        return self.store.get((namespace, name))

    async def synced(self) -> None:
        """Wait until the first list is in the store."""
        await self._synced.wait()

    @property
    def has_synced(self) -> bool:
        """Whether the first list is in the store."""
        return self._synced.is_set()

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        version: str | None = None
        failures = 0
        while True:
            # A server that ends each watch at once must not be asked again without pause.
            failures += 1
            try:
                if version is None:
                    version = await self._list()
                async with contextlib.aclosing(
                    self._client.watch(
                        self.resource,
                        resource_version=version,
                        # Spread out, so that not all watches end at the same moment.
                        timeout_seconds=random.randint(300, 600),
                        **self._scope,
                    )
                ) as events:
                    async for event in events:
                        version = self._accept(event)
                        failures = 0
            except ApiError as err:
                log.debug("%s: %s", self.resource.plural, err)
                if err.is_expired:
                    version = None
            except Exception:
                log.exception("%s: cannot follow, listing again", self.resource.plural)
                version = None
            if failures:
                delay = min(_MAX_BACKOFF_SECONDS, 0.025 * 2 ** min(failures, 10))
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))

    async def _list(self) -> str:
        answer = await self._client.list(self.resource, **self._scope)
        fresh = {object_key(item): item for item in answer["items"]}
        for key in [key for key in self.store if key not in fresh]:
            self._store(key, None)
        for key, item in fresh.items():
            known = self.store.get(key)
            if known is None or _version(known) != _version(item):
                self._store(key, item)
        self._synced.set()
        return str(answer["metadata"].get("resourceVersion") or "0")

    def _accept(self, event: Manifest) -> str:
        item: Manifest = event["object"]
        if event["type"] != "BOOKMARK":
            self._store(object_key(item), None if event["type"] == "DELETED" else item)
        return _version(item)

    def _store(self, key: Key, new: Manifest | None) -> None:
        old = self.store.get(key)
        if old is None and new is None:
            return
        if new is None:
            del self.store[key]
        else:
            self.store[key] = new
        for index in self._indexes:
            index.update(key, old, new)
        for callback in self._callbacks:
            self._call(callback, key, old, new)

    def _call(
        self, callback: ChangeCallback, key: Key, old: Manifest | None, new: Manifest | None
    ) -> None:
        try:
            callback(key, old, new)
        except Exception:
            # One listener's mistake must not stop the others from following.
            log.exception("a listener of %s failed on %s", self.resource.plural, key)


class InformerSet:
    """Informers shared by the parts of one program, one for each resource.

    Use as an async context manager: leaving it stops all of them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._informers: dict[Resource, Informer] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def of(self, resource: Resource) -> Informer:
        """The informer of a resource in all namespaces; ask before ``start``."""
        if resource not in self._informers:
            self._informers[resource] = Informer(self._client, resource)
        return self._informers[resource]

    def __iter__(self) -> Iterator[Informer]:
        return iter(self._informers.values())

    async def start(self) -> None:
        """Start all informers and wait until each has its first list."""
        for informer in self:
            self._tasks.append(
                asyncio.create_task(informer.run(), name=f"informer-{informer.resource.plural}")
            )
        await asyncio.gather(*(informer.synced() for informer in self))

    async def stop(self) -> None:
        """Stop all informers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def __aenter__(self) -> InformerSet:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()


def _version(item: Manifest) -> str:
    return str(item["metadata"].get("resourceVersion") or "0")
