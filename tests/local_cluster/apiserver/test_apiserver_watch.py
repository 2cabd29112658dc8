"""Watches: order, selectors, bookmarks, resumption, and what is too old."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from local_cluster.apiserver.errors import ApiError
from local_cluster.apiserver.storage import Change, Entry
from local_cluster.apiserver.watch import HISTORY_LENGTH, Hub

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


class Stream:
    """An open watch."""

    def __init__(self, client: Any, query: str, accept: str = "application/json") -> None:
        self._client = client
        self._url = f"{client.url}{CONFIG_MAPS}?watch=true&{query}"
        self._headers = {"Accept": accept}

    async def __aenter__(self) -> Stream:
        self._response = await self._client.session.get(self._url, headers=self._headers)
        assert self._response.status == 200
        return self

    async def __aexit__(self, *_: object) -> None:
        self._response.close()

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            event: dict[str, Any] = orjson.loads(await self._response.content.readline())
        return event

    async def rest(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(10):
            return [orjson.loads(line) async for line in self._response.content]


async def make(client: Any, name: str, **labels: str) -> dict[str, Any]:
    created: dict[str, Any] = await client.post(
        CONFIG_MAPS, {"metadata": {"name": name, "labels": labels}}
    )
    return created


async def test_a_watch_goes_on_from_the_version_of_the_list(client: Any) -> None:
    await make(client, "before")
    version = (await client.get(CONFIG_MAPS))["metadata"]["resourceVersion"]
    await make(client, "missed")
    async with Stream(client, f"resourceVersion={version}") as stream:
        assert (await stream.next())["object"]["metadata"]["name"] == "missed"
        await client.merge(f"{CONFIG_MAPS}/missed", {"data": {"a": "b"}})
        await client.request("DELETE", f"{CONFIG_MAPS}/missed")
        modified, deleted = await stream.next(), await stream.next()
    assert (modified["type"], deleted["type"]) == ("MODIFIED", "DELETED")
    versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in (modified, deleted)]
    assert versions == sorted(set(versions))


async def test_a_watch_without_a_version_starts_with_what_there_is(client: Any) -> None:
    await make(client, "a")
    async with Stream(client, "") as stream:
        event = await stream.next()
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "a")


async def test_a_streaming_list_ends_with_a_bookmark(client: Any) -> None:
    await make(client, "a")
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with Stream(client, query) as stream:
        first, bookmark = await stream.next(), await stream.next()
    assert (first["type"], bookmark["type"]) == ("ADDED", "BOOKMARK")
    annotations = bookmark["object"]["metadata"]["annotations"]
    assert annotations == {"k8s.io/initial-events-end": "true"}


async def test_objects_come_and_go_as_their_labels_match(client: Any) -> None:
    version = (await client.get(CONFIG_MAPS))["metadata"]["resourceVersion"]
    async with Stream(client, f"resourceVersion={version}&labelSelector=app%3Dweb") as stream:
        await make(client, "a", app="other")
        await client.merge(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"app": "web"}}})
        await client.merge(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})
        await client.merge(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"app": "other"}}})
        events = [await stream.next() for _ in range(3)]
    assert [e["type"] for e in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert events[2]["object"]["metadata"]["labels"] == {"app": "web"}


async def test_a_watch_ends_after_its_timeout_with_a_bookmark(client: Any) -> None:
    async with Stream(client, "timeoutSeconds=1&allowWatchBookmarks=true") as stream:
        events = await stream.rest()
    assert [e["type"] for e in events] == ["BOOKMARK"]


async def test_a_version_that_was_never_there_is_answered_with_gone(client: Any) -> None:
    async with Stream(client, "resourceVersion=99999999") as stream:
        event = await stream.next()
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == (
        "ERROR",
        410,
        "Expired",
    )


async def test_writes_that_change_nothing_are_not_seen(client: Any) -> None:
    created = await make(client, "a")
    version = created["metadata"]["resourceVersion"]
    async with Stream(client, f"resourceVersion={version}") as stream:
        await client.request("PUT", f"{CONFIG_MAPS}/a", created)
        await make(client, "b")
        assert (await stream.next())["object"]["metadata"]["name"] == "b"


async def test_watched_tables_carry_their_columns_once(client: Any) -> None:
    await make(client, "a")
    await make(client, "b")
    async with Stream(client, "", "application/json;as=Table;v=v1;g=meta.k8s.io") as stream:
        first, second = (await stream.next())["object"], (await stream.next())["object"]
    assert first["columnDefinitions"][0]["name"] == "Name"
    assert second["columnDefinitions"] is None
    assert [first["rows"][0]["cells"][0], second["rows"][0]["cells"][0]] == ["a", "b"]


async def test_history_is_bounded_and_what_fell_out_is_expired() -> None:
    hub = Hub(0)
    for version in range(1, HISTORY_LENGTH + 11):
        entry = Entry({"metadata": {"name": "a"}}, version)
        hub.publish(Change("MODIFIED", "/configmaps", entry, entry))
    with pytest.raises(ApiError) as caught:
        hub.open("/configmaps", "", None, 9)
    assert caught.value.code == 410
    watcher = hub.open("/configmaps", "", None, 10)
    assert len(await watcher.next_events(1)) == HISTORY_LENGTH
