"""A cache that is told of the same objects twice, by the watch and by the answers to writes, in either order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scoring_operator.api import Key, Kinds
from scoring_operator.cluster.informer import Informer

KEY = Key("default", "m")


def child(version: int, uid: str = "1", **labels: str) -> dict[str, Any]:
    metadata = {
        "namespace": "default",
        "name": "m",
        "uid": uid,
        "resourceVersion": str(version),
        "labels": labels or {"ours": "yes"},
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata}


class Server:
    """Lists nothing at version 10, then sends what it is told."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def call(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"metadata": {"resourceVersion": "10"}, "items": []}

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await self._events.get()
            self._events.task_done()

    async def send(self, kind: str, manifest: dict[str, Any]) -> None:
        """Send an event and wait until the informer asks for the next one."""
        self._events.put_nowait({"type": kind, "object": manifest})
        await self._events.join()


@pytest.fixture
async def server():
    return Server()


@pytest.fixture
async def informer(server):
    informer = Informer(
        server,
        Kinds.SERVICE,
        namespace=None,
        selector="ours=yes",
        key_of=lambda _: KEY,
        on_change=lambda _: None,
    )
    task = asyncio.create_task(informer.run())
    await informer.synced.wait()
    yield informer
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def version_of(informer: Informer) -> str | None:
    found = informer.get("default", "m")
    return found and found["metadata"]["resourceVersion"]


async def test_an_answer_is_read_before_the_watch_tells_of_it(informer):
    informer.keep_answer(child(11))
    assert version_of(informer) == "11"


async def test_an_answer_that_comes_after_the_objects_end_does_not_bring_it_back(informer, server):
    await server.send("ADDED", child(11))
    await server.send("DELETED", child(12))
    informer.keep_answer(child(11))
    assert version_of(informer) is None
    assert list(informer.of(KEY)) == []


async def test_an_answer_that_comes_after_newer_news_changes_nothing(informer, server):
    await server.send("ADDED", child(11))
    await server.send("MODIFIED", child(13))
    informer.keep_answer(child(11))
    assert version_of(informer) == "13"


async def test_bookmarks_tell_how_far_the_watch_is(informer, server):
    await server.send("BOOKMARK", {"metadata": {"resourceVersion": "20"}})
    informer.keep_answer(child(15))
    assert version_of(informer) is None


async def test_an_object_that_lost_its_label_is_kept_however_far_the_watch_is(informer, server):
    await server.send("BOOKMARK", {"metadata": {"resourceVersion": "20"}})
    informer.keep_answer(child(15, other="label"))
    assert version_of(informer) == "15"


async def test_the_end_of_an_earlier_object_does_not_end_its_successor(informer, server):
    await server.send("ADDED", child(11, uid="1"))
    informer.keep_answer(child(14, uid="2"))
    await server.send("DELETED", child(13, uid="1"))
    assert version_of(informer) == "14"
