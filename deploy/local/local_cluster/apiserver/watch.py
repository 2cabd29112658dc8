"""Watches: changes of the store in, ordered event streams out.

Keeps a bounded history for each resource type, so that a client can go on from a version it has seen; what fell out of
it is answered with 410. It renders nothing: subscribers get `Change` objects, and the JSON in them is made once.
"""

from __future__ import annotations

import asyncio
from collections import deque

from local_cluster.apiserver.errors import expired
from local_cluster.apiserver.selectors import Predicate
from local_cluster.apiserver.storage import Change, Entry, EventType

HISTORY_LENGTH = 10_000
"""Changes kept for each resource type."""

MAX_BACKLOG = 20_000
"""A watcher that is so far behind is cut off and has to list again, as in the real server."""


class Watcher:
    """One open watch: the changes that one client has not seen yet."""

    def __init__(self, namespace: str, predicate: Predicate | None, since: int) -> None:
        self._namespace = namespace
        self._predicate = predicate
        self._since = since
        self._backlog: deque[tuple[EventType, Entry]] = deque()
        self._wake = asyncio.Event()
        self.closed = False

    def offer(self, change: Change) -> None:
        """Take a change if it concerns this watch."""
        if change.version <= self._since or self.closed:
            return
        self._since = change.version
        event = self._translate(change)
        if event is None:
            return
        if len(self._backlog) >= MAX_BACKLOG:
            self.close()
            return
        self._backlog.append(event)
        self._wake.set()

    def _translate(self, change: Change) -> tuple[EventType, Entry] | None:
        if self._namespace and change.entry.namespace != self._namespace:
            return None
        predicate = self._predicate
        if predicate is None:
            return change.type, change.entry
        matches = change.type != "DELETED" and predicate(change.entry.obj)
        matched = change.before is not None and predicate(change.before.obj)
        if matches:
            return ("MODIFIED" if matched else "ADDED"), change.entry
        if not matched:
            return None
        if change.type == "DELETED":
            return "DELETED", change.entry
        # To this client the object is gone: it gets the last state that it could see, at the new version.
        assert change.before is not None
        metadata = {**change.before.obj["metadata"], "resourceVersion": str(change.version)}
        return "DELETED", Entry({**change.before.obj, "metadata": metadata}, change.version)

    async def next_events(self, seconds: float) -> list[tuple[EventType, Entry]]:
        """Wait for events.

        Args:
            seconds: how long to wait at most.

        Returns:
            All events that are there, none after the timeout or when the watch was closed.
        """
        if not self._backlog and not self.closed:
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                return []
        self._wake.clear()
        events = list(self._backlog)
        self._backlog.clear()
        return events

    def close(self) -> None:
        """End the watch."""
        self.closed = True
        self._wake.set()


class Hub:
    """Hands changes to watchers and keeps the recent ones.

    Args:
        version: resource version of the store at start; what was before is not known.
    """

    def __init__(self, version: int) -> None:
        self._start = version
        self._history: dict[str, deque[Change]] = {}
        self._compacted: dict[str, int] = {}
        self._watchers: dict[str, set[Watcher]] = {}

    def publish(self, change: Change) -> None:
        """Keep a change and offer it to the watchers of its type."""
        history = self._history.setdefault(change.key, deque())
        if len(history) >= HISTORY_LENGTH:
            self._compacted[change.key] = history.popleft().version
        history.append(change)
        for watcher in self._watchers.get(change.key, ()):
            watcher.offer(change)

    def oldest(self, key: str) -> int:
        """Give the oldest version from which a watch of this type can start."""
        return self._compacted.get(key, self._start)

    def open(self, key: str, namespace: str, predicate: Predicate | None, since: int) -> Watcher:
        """Open a watch.

        Args:
            key: storage key of the type.
            namespace: only this one; empty for all.
            predicate: only objects for which it holds; None for all.
            since: version after which the events start.

        Raises:
            ApiError: 410, changes after `since` are no longer known.
        """
        if since < self.oldest(key):
            raise expired(since, self.oldest(key))
        watcher = Watcher(namespace, predicate, since)
        for change in self._history.get(key, ()):
            watcher.offer(change)
        self._watchers.setdefault(key, set()).add(watcher)
        return watcher

    def close(self, key: str, watcher: Watcher) -> None:
        """End one watch."""
        watcher.close()
        self._watchers.get(key, set()).discard(watcher)

    def close_key(self, key: str) -> None:
        """End all watches of a type that is no longer served."""
        for watcher in tuple(self._watchers.get(key, ())):
            watcher.close()

    def close_all(self) -> None:
        """End all watches, when the server stops."""
        for key in self._watchers:
            self.close_key(key)
