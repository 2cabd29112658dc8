"""Events live for an hour, as in the real server (``--event-ttl``), so that they do not fill the store."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from local_cluster.apiserver.clock import parse_time
from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.storage import Change, Entry

KEY = "/events"
LIFETIME_SECONDS = 3600.0


class EventExpiry:
    """Removes events that are over their time; each write of an event gives it a new hour."""

    def __init__(self, cluster: Cluster, lifetime_seconds: float = LIFETIME_SECONDS) -> None:
        self._store = cluster.store
        self._lifetime = lifetime_seconds
        self._due: deque[tuple[float, Entry]] = deque()
        self._wake = asyncio.Event()
        now = time.time()
        found = [
            (parse_time(e.obj["metadata"].get("creationTimestamp", "")) or now, e)
            for e in self._store.entries(KEY)
        ]
        for created, entry in sorted(found, key=lambda pair: pair[0]):
            self._due.append((created + lifetime_seconds, entry))
        cluster.store.subscribe(self._observe)

    def _observe(self, change: Change) -> None:
        if change.key == KEY and change.type != "DELETED":
            self._due.append((time.time() + self._lifetime, change.entry))
            self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            while self._due and self._due[0][0] <= time.time():
                _, entry = self._due.popleft()
                if self._store.get(KEY, entry.namespace, entry.name) is entry:
                    self._store.delete(KEY, entry.obj)
            self._wake.clear()
            if self._due:
                await asyncio.sleep(max(0.0, self._due[0][0] - time.time()))
            else:
                await self._wake.wait()
