"""Kubernetes Events: written in the background, repeated ones counted up instead of added."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from local_cluster.client.errors import ApiError
from local_cluster.client.http import Client, Manifest
from local_cluster.client.resources import EVENTS

# client-go's spam filter: a burst of 25 events about one object, then one every five minutes.
_BURST = 25
_REFILL_SECONDS = 300.0
_MAX_REMEMBERED = 4096
_MAX_QUEUED = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Note:
    involved: Manifest
    type: str
    reason: str
    message: str
    at: datetime


class EventRecorder:
    """Posts events of one component; an async context manager.

    Args:
        client: an open client.
        component: who reports, for example ``deployment-controller``.
        host: the node's name, for events of a node agent.
    """

    def __init__(self, client: Client, component: str, *, host: str = "") -> None:
        self._client = client
        self._component = component
        self._host = host
        self._queue: asyncio.Queue[_Note] = asyncio.Queue(_MAX_QUEUED)
        self._known: OrderedDict[tuple[str, ...], tuple[str, int]] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._serial = itertools.count()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EventRecorder:
        self._task = asyncio.create_task(self._run(), name=f"events-{self._component}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def normal(
        self, involved: Manifest, reason: str, message: str, *, field_path: str = ""
    ) -> None:
        """Report something that went as intended."""
        self.event(involved, "Normal", reason, message, field_path=field_path)

    def warning(
        self, involved: Manifest, reason: str, message: str, *, field_path: str = ""
    ) -> None:
        """Report something that somebody should look at."""
        self.event(involved, "Warning", reason, message, field_path=field_path)

    def event(
        self,
        involved: Manifest,
        type_: str,
        reason: str,
        message: str,
        *,
        field_path: str = "",
    ) -> None:
        """Queue an event about an object; never waits and never fails.

        Args:
            involved: the object, with apiVersion, kind and metadata.
            type_: ``Normal`` or ``Warning``.
            reason: one CamelCase word.
            message: the sentence; cut at the API's limit of 1024 characters.
            field_path: a part of the object, for example ``spec.containers{scorer}``.
        """
        metadata = involved["metadata"]
        reference = {
            "apiVersion": involved.get("apiVersion"),
            "kind": involved.get("kind"),
            "namespace": metadata.get("namespace"),
            "name": metadata["name"],
            "uid": metadata.get("uid"),
            "resourceVersion": metadata.get("resourceVersion"),
            "fieldPath": field_path,
        }
        reference = {name: value for name, value in reference.items() if value}
        if not self._admit(str(reference.get("uid") or reference["name"])):
            return
        note = _Note(reference, type_, reason, message[:1024], datetime.now(UTC))
        try:
            self._queue.put_nowait(note)
        except asyncio.QueueFull:
            log.warning("event dropped, the queue is full: %s %s", reason, message)

    def _admit(self, source: str) -> bool:
        now = time.monotonic()
        tokens, since = self._tokens.pop(source, (float(_BURST), now))
        tokens = min(float(_BURST), tokens + (now - since) / _REFILL_SECONDS)
        admitted = tokens >= 1
        self._tokens[source] = (tokens - 1 if admitted else tokens, now)
        while len(self._tokens) > _MAX_REMEMBERED:
            self._tokens.popitem(last=False)
        return admitted

    async def _run(self) -> None:
        while True:
            note = await self._queue.get()
            try:
                await self._write(note)
            except ApiError as err:
                # A namespace that is going away takes no events; nothing to mend here.
                log.debug("event not written: %s", err)
            except Exception:
                log.exception("event not written")
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        """Wait until all queued events are written."""
        await self._queue.join()

    async def _write(self, note: _Note) -> None:
        involved = note.involved
        namespace = str(involved.get("namespace") or "default")
        key = (
            namespace,
            str(involved.get("uid") or involved["name"]),
            str(involved.get("fieldPath", "")),
            note.type,
            note.reason,
            note.message,
        )
        stamp = note.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        known = self._known.pop(key, None)
        if known is not None:
            name, count = known[0], known[1] + 1
            try:
                await self._client.patch(
                    EVENTS, name, namespace, {"count": count, "lastTimestamp": stamp}
                )
                self._known[key] = (name, count)
                return
            except ApiError as err:
                if not err.is_not_found:
                    raise
        # As client-go names them: the object and the time in hexadecimal.
        name = f"{involved['name']}.{time.time_ns() + next(self._serial):x}"
        source = {"component": self._component} | ({"host": self._host} if self._host else {})
        await self._client.create(
            EVENTS,
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": involved,
                "reason": note.reason,
                "message": note.message,
                "source": source,
                "firstTimestamp": stamp,
                "lastTimestamp": stamp,
                "count": 1,
                "type": note.type,
                "eventTime": None,
                "reportingComponent": self._component,
                "reportingInstance": self._host,
            },
            namespace,
        )
        self._known[key] = (name, 1)
        while len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)
