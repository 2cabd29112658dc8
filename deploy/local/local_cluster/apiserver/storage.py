"""Objects in memory, written through to one SQLite file.

Takes whole objects, gives them resource versions, and tells subscribers what changed. A write is acknowledged when
`Store.durable` returns: all writes of one turn of the event loop share one commit. The file survives a crash of the
process (WAL); a crash of the machine may lose the last moments. It knows nothing of HTTP, schemas or watchers.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import orjson

Manifest = dict[str, Any]
EventType = Literal["ADDED", "MODIFIED", "DELETED"]
Place = tuple[str, str, str]
"""Storage key, namespace (empty for cluster scope) and name of an object."""

logger = logging.getLogger(__name__)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS objects (
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (resource, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


class Entry:
    """A stored object, which nobody may edit, with its JSON made once."""

    __slots__ = ("_item", "_json", "obj", "version")

    def __init__(self, obj: Manifest, version: int, encoded: bytes | None = None) -> None:
        self.obj = obj
        self.version = version
        self._json = encoded
        self._item: bytes | None = None

    @property
    def json(self) -> bytes:
        """The object as JSON."""
        if self._json is None:
            self._json = orjson.dumps(self.obj)
        return self._json

    @property
    def item_json(self) -> bytes:
        """The object as JSON without its type, as lists of built-in types have it."""
        if self._item is None:
            bare = {k: v for k, v in self.obj.items() if k not in {"kind", "apiVersion"}}
            self._item = orjson.dumps(bare)
        return self._item

    @property
    def name(self) -> str:
        """The name of the object."""
        return str(self.obj["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The namespace of the object, empty for cluster scope."""
        return str(self.obj["metadata"].get("namespace", ""))

    @property
    def uid(self) -> str:
        """The uid of the object."""
        return str(self.obj["metadata"].get("uid", ""))


class Change:
    """One write: what it was, and the object before and after it."""

    __slots__ = ("before", "entry", "key", "type", "version")

    def __init__(self, type_: EventType, key: str, entry: Entry, before: Entry | None) -> None:
        self.type: EventType = type_
        self.key = key
        self.entry = entry
        self.before = before
        self.version = entry.version


class Store:
    """All objects of the cluster.

    Args:
        path: the SQLite file; made if absent.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        # The WAL is written at each commit and survives the process; only a power cut can take it.
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(_SCHEMA)
        self._objects: dict[str, dict[str, dict[str, Entry]]] = {}
        self._places: dict[str, Place] = {}
        self._dependents: dict[str, set[Place]] = {}
        self._subscribers: list[Callable[[Change], None]] = []
        self._pending: list[Change] = []
        self._flushed: asyncio.Future[None] | None = None
        row = self._db.execute("SELECT value FROM counters WHERE name = 'version'").fetchone()
        self.version: int = row[0] if row else 0
        for key, _namespace, _name, body in self._db.execute("SELECT * FROM objects"):
            obj = orjson.loads(body)
            entry = Entry(obj, int(obj["metadata"]["resourceVersion"]), body)
            self._place(key, entry)
            self._index(key, None, entry)

    def subscribe(self, subscriber: Callable[[Change], None]) -> None:
        """Call `subscriber` with each change, in order, once it is durable."""
        self._subscribers.append(subscriber)

    def get(self, key: str, namespace: str, name: str) -> Entry | None:
        """Look one object up."""
        return self._objects.get(key, {}).get(namespace, {}).get(name)

    def entries(self, key: str, namespace: str = "") -> list[Entry]:
        """List the objects of one type in key order, in one namespace or (empty) everywhere."""
        spaces = self._objects.get(key, {})
        if namespace:
            space = spaces.get(namespace, {})
            return [space[name] for name in sorted(space)]
        return [spaces[ns][name] for ns in sorted(spaces) for name in sorted(spaces[ns])]

    def count(self, key: str) -> int:
        """Count the objects of one type."""
        return sum(len(space) for space in self._objects.get(key, {}).values())

    def used_keys(self) -> list[str]:
        """List the storage keys that hold objects."""
        return [key for key, spaces in self._objects.items() if any(spaces.values())]

    def find_uid(self, uid: str) -> Place | None:
        """Find where the object with this uid lies."""
        return self._places.get(uid)

    def dependents(self, uid: str) -> Iterator[Place]:
        """Yield where the objects lie that name this uid as an owner."""
        yield from tuple(self._dependents.get(uid, ()))

    def owner_uids(self) -> list[str]:
        """List all uids that are named as owners."""
        return list(self._dependents)

    def put(self, key: str, obj: Manifest) -> Entry:
        """Create or replace an object; the store owns `obj` from here on.

        Args:
            key: storage key of its type.
            obj: the whole object in its storage version. Its resourceVersion is set here.

        Raises:
            TypeError: the object cannot be written as JSON, being nested too deeply.
        """
        version = self.version + 1
        obj["metadata"]["resourceVersion"] = str(version)
        entry = Entry(obj, version)
        _ = entry.json  # what cannot be written is refused here, before anybody sees it
        self.version = version
        before = self.get(key, entry.namespace, entry.name)
        self._place(key, entry)
        self._index(key, before, entry)
        self._record(Change("MODIFIED" if before else "ADDED", key, entry, before))
        return entry

    def delete(self, key: str, last: Manifest) -> Entry:
        """Remove an object.

        Args:
            key: storage key of its type.
            last: the state to tell watchers; its metadata is copied and gets the version of the deletion.
        """
        self.version += 1
        last = {**last, "metadata": {**last["metadata"], "resourceVersion": str(self.version)}}
        entry = Entry(last, self.version)
        space = self._objects[key][entry.namespace]
        before = space.pop(entry.name)
        if not space:
            del self._objects[key][entry.namespace]
        self._index(key, before, None)
        self._record(Change("DELETED", key, entry, before))
        return entry

    async def durable(self) -> None:
        """Wait until all writes so far would survive the process."""
        if self._flushed is not None:
            await asyncio.shield(self._flushed)

    def close(self) -> None:
        """Write what is pending and close the file."""
        self._flush()
        self._db.close()

    def _place(self, key: str, entry: Entry) -> None:
        self._objects.setdefault(key, {}).setdefault(entry.namespace, {})[entry.name] = entry

    def _index(self, key: str, before: Entry | None, after: Entry | None) -> None:
        old = before.obj["metadata"].get("ownerReferences") or () if before else ()
        new = after.obj["metadata"].get("ownerReferences") or () if after else ()
        if before is None or after is None:
            entry = after or before
            assert entry is not None
            if after is None:
                self._places.pop(entry.uid, None)
            else:
                self._places[entry.uid] = (key, entry.namespace, entry.name)
        if old == new:
            return
        entry = after or before
        assert entry is not None
        place = (key, entry.namespace, entry.name)
        for reference in old:
            dependents = self._dependents.get(reference["uid"])
            if dependents is not None:
                dependents.discard(place)
                if not dependents:
                    del self._dependents[reference["uid"]]
        for reference in new:
            self._dependents.setdefault(reference["uid"], set()).add(place)

    def _record(self, change: Change) -> None:
        self._pending.append(change)
        if self._flushed is None:
            loop = asyncio.get_running_loop()
            self._flushed = loop.create_future()
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        pending, flushed = self._pending, self._flushed
        self._pending, self._flushed = [], None
        if not pending:
            return
        try:
            self._commit(pending)
        except sqlite3.Error as err:
            self._pending = pending + self._pending  # the next write tries again
            if flushed is not None and not flushed.done():
                flushed.set_exception(err)
                flushed.exception()
            return
        for change in pending:
            for subscriber in self._subscribers:
                try:
                    subscriber(change)
                except Exception:
                    logger.exception("a subscriber failed on %s %s", change.key, change.entry.name)
        if flushed is not None and not flushed.done():
            flushed.set_result(None)

    def _commit(self, changes: list[Change]) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                entry = change.entry
                if change.type == "DELETED":
                    db.execute(
                        "DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?",
                        (change.key, entry.namespace, entry.name),
                    )
                else:
                    db.execute(
                        "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)",
                        (change.key, entry.namespace, entry.name, entry.json),
                    )
            db.execute("INSERT OR REPLACE INTO counters VALUES ('version', ?)", (self.version,))
            db.execute("COMMIT")
        except sqlite3.Error:
            db.execute("ROLLBACK")
            raise
