"""List and watch one kind, and keep what was seen."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from scoring_operator.api import Key, Kind, Manifest
from scoring_operator.cluster.client import Client
from scoring_operator.cluster.errors import ClusterError, GoneError, TransientError
from scoring_operator.cluster.sharing import share

log = logging.getLogger(__name__)

KeyOf = Callable[[Manifest], Key | None]
Trim = Callable[[Manifest], Manifest]

# The server ends a watch after this time; a stream that is silent for much longer is dead (a load balancer between us
# forgets idle connections without a word).
_WATCH_SECONDS = 290
_SILENCE_SECONDS = 330
_PAGE_SIZE = "500"
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0


class Informer:
    """A cache of one kind that calls back with the key of whatever changed.

    Args:
        client: to list and watch with.
        kind: what to watch.
        namespace: None for all namespaces.
        selector: label selector that the server applies, `name=value`; empty for all.
        key_of: the ScoringModel that an object belongs to; None for objects of nobody.
        on_change: called with that key for every change.
        trim: makes an object smaller before it is kept.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        *,
        namespace: str | None,
        selector: str,
        key_of: KeyOf,
        on_change: Callable[[Key], None],
        trim: Trim = lambda manifest: manifest,
    ) -> None:
        self.kind = kind
        self.synced = asyncio.Event()
        self.last_contact = time.monotonic()
        self._client = client
        self._path = kind.path(namespace)
        self._query = {"labelSelector": selector} if selector else {}
        self._key_of = key_of
        self._on_change = on_change
        self._trim = trim
        self._objects: dict[tuple[str, str], Manifest] = {}
        # Up to this resource version the cache has all that happened.
        self._position = 0
        self._by_key: dict[Key, dict[tuple[str, str], Manifest]] = {}

    def get(self, namespace: str, name: str) -> Manifest | None:
        """The object as last seen."""
        return self._objects.get((namespace, name))

    def of(self, key: Key) -> Iterator[Manifest]:
        """All objects of a ScoringModel, by name."""
        found = self._by_key.get(key, {})
        return iter([found[k] for k in sorted(found)])

    def all(self) -> Iterator[Manifest]:
        """All objects."""
        return iter(list(self._objects.values()))

    def keep_answer(self, manifest: Manifest) -> None:
        """Keep what the server answered to us, without waiting for the watch.

        The watch may be faster than the answer: then the cache has this version already, or what came after it, which may
        be the object's end. Of an object without the label it tells nothing.
        """
        if _version(manifest) > self._position or not self._selects(manifest):
            self._put(manifest)

    def _selects(self, manifest: Manifest) -> bool:
        label, _, value = self._query.get("labelSelector", "").partition("=")
        return not label or (manifest["metadata"].get("labels") or {}).get(label) == value

    def _put(self, manifest: Manifest) -> bool:
        """Keep an object, unless a newer version of it is kept already.

        Returns:
            Whether anything changed.
        """
        at = _identity(manifest)
        old = self._objects.get(at)
        if old is not None and _version(old) >= _version(manifest):
            return False
        if old is not None:
            self._forget(at, old)
        kept = share(self._trim(manifest))
        self._objects[at] = kept
        key = self._key_of(kept)
        if key is not None:
            self._by_key.setdefault(key, {})[at] = kept
        return True

    async def run(self) -> None:
        """List, watch, and start over whenever the watch is lost; ends only by cancellation."""
        wait = _FIRST_WAIT_SECONDS
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                    self.synced.set()
                version = await self._watch(version)
                wait = _FIRST_WAIT_SECONDS
            except GoneError:
                version = ""
            except ClusterError as err:
                asked = err.retry_after_seconds if isinstance(err, TransientError) else None
                log.warning("watch of %s failed: %s", self.kind.plural, err)
                await asyncio.sleep(asked or wait)
                wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
                # A broken stream can go on where it was; anything else starts from a new list.
                if not (isinstance(err, TransientError) and err.status == 0):
                    version = ""
            except Exception:
                # The outermost edge of this watch: an object that cannot be read must not end it.
                log.exception("watch of %s failed", self.kind.plural)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
                version = ""

    async def _list(self) -> str:
        """Replace the cache by what the server has; report what came, changed and went meanwhile."""
        seen: set[tuple[str, str]] = set()
        token = ""
        while True:
            query = {**self._query, "limit": _PAGE_SIZE}
            if token:
                query["continue"] = token
            page = await self._client.call("GET", self._path, query=query)
            self.last_contact = time.monotonic()
            for item in page.get("items") or ():
                # Items of a list do not say what they are.
                item["apiVersion"], item["kind"] = self.kind.api_version, self.kind.name
                seen.add(_identity(item))
                if self._put(item):
                    self._report(item)
            token = page["metadata"].get("continue") or ""
            if not token:
                break
        for at in self._objects.keys() - seen:
            self._remove(at)
        self._position = _version(page)
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> str:
        query = {
            **self._query,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        events = self._client.watch(self._path, query=query, silence_seconds=_SILENCE_SECONDS)
        async for event in events:
            self.last_contact = time.monotonic()
            manifest = event["object"]
            version = manifest["metadata"]["resourceVersion"]
            self._position = _version(manifest)
            if event["type"] == "DELETED":
                self._remove(_identity(manifest), _uid(manifest))
            elif event["type"] in {"ADDED", "MODIFIED"} and self._put(manifest):
                self._report(manifest)
        self.last_contact = time.monotonic()
        return version

    def _remove(self, at: tuple[str, str], uid: str | None = None) -> None:
        old = self._objects.get(at)
        if old is None or (uid is not None and _uid(old) != uid):
            return
        del self._objects[at]
        self._forget(at, old)
        self._report(old)

    def _forget(self, at: tuple[str, str], old: Manifest) -> None:
        key = self._key_of(old)
        if key is None:
            return
        members = self._by_key.get(key, {})
        members.pop(at, None)
        if not members:
            self._by_key.pop(key, None)

    def _report(self, manifest: Manifest) -> None:
        key = self._key_of(manifest)
        if key is not None:
            self._on_change(key)


def _identity(manifest: Manifest) -> tuple[str, str]:
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _uid(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("uid", ""))


def _version(manifest: Manifest) -> int:
    # Resource versions are ordered numbers since Kubernetes 1.35
    # (https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions), and were in practice before.
    text = str(manifest["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdigit() else 0
