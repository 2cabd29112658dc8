from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import yaml
from aiohttp import web

from local_cluster.client import (
    PODS,
    ApiError,
    Client,
    ClusterAccess,
    EventRecorder,
    Informer,
    KubeconfigError,
    WorkQueue,
    load_kubeconfig,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with Client(ClusterAccess(f"http://127.0.0.1:{port}"), **options) as client:
            yield client
    finally:
        await runner.cleanup()


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": message}


def pod(name: str, version: int, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "resourceVersion": str(version),
            "labels": labels,
        }
    }


async def test_a_refusal_carries_status_reason_and_message() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(status(404, "NotFound", 'pods "x" not found'), status=404)

    async with serving(handler) as client:
        with pytest.raises(ApiError, match='pods "x" not found') as caught:
            await client.get(PODS, "x", "default")
    assert caught.value.is_not_found
    assert caught.value.reason == "NotFound"


async def test_too_many_requests_is_repeated_after_the_time_the_server_asks_for() -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.method)
        if len(seen) < 3:
            return web.json_response(
                status(429, "TooManyRequests", "slow down"),
                status=429,
                headers={"Retry-After": "0"},
            )
        return web.json_response({"kind": "Pod"}, status=201)

    async with serving(handler) as client:
        assert await client.create(PODS, {"metadata": {}}, "default") == {"kind": "Pod"}
    assert seen == ["POST"] * 3


async def test_a_broken_connection_is_retried_for_get_but_not_for_post() -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.method)
        if seen.count(request.method) == 1:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"kind": "Pod"})

    async with serving(handler) as client:
        assert await client.get(PODS, "x", "default") == {"kind": "Pod"}
        with pytest.raises(ApiError) as caught:
            await client.create(PODS, {"metadata": {}}, "default")
    assert caught.value.status == 0
    assert seen == ["GET", "GET", "POST"]


async def test_an_unreachable_server_ends_in_an_error_when_patience_is_over() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    async with serving(handler) as open_client:
        server = open_client.access.server
    async with Client(ClusterAccess(server), patience_seconds=0.05) as client:
        with pytest.raises(ApiError, match="Unreachable"):
            await client.get(PODS, "x", "default")


async def test_apply_sends_field_manager_and_media_type() -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(request.query, path=request.path, type=request.content_type)
        return web.json_response({})

    async with serving(handler) as client:
        await client.apply(PODS, "x", "ns", {"spec": {}}, field_manager="me", subresource="status")
    assert seen == {
        "fieldManager": "me",
        "force": "true",
        "path": "/api/v1/namespaces/ns/pods/x/status",
        "type": "application/apply-patch+yaml",
    }


class Collection:
    """A scripted pods collection: lists and watches as the test says."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.version = 1
        self.lists = 0
        self.watches: list[str] = []
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") != "true":
            self.lists += 1
            return web.json_response(
                {
                    "kind": "PodList",
                    "apiVersion": "v1",
                    "metadata": {"resourceVersion": str(self.version)},
                    "items": self.items,
                }
            )
        self.watches.append(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while (event := await self.events.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response


@asynccontextmanager
async def following(collection: Collection) -> AsyncIterator[Informer]:
    async with serving(collection.answer) as client:
        informer = Informer(client, PODS)
        task = asyncio.create_task(informer.run())
        try:
            async with asyncio.timeout(5):
                await informer.synced()
                yield informer
        finally:
            task.cancel()
            collection.events.put_nowait(None)
            await asyncio.gather(task, return_exceptions=True)


async def next_change(informer: Informer, count: int = 1) -> list[tuple[str, bool, bool]]:
    changes: list[tuple[str, bool, bool]] = []
    enough = asyncio.Event()

    def note(key: tuple[str, str], old: Any, new: Any) -> None:
        changes.append((key[1], old is not None, new is not None))
        if len(changes) >= count:
            enough.set()

    informer._callbacks.append(note)
    await enough.wait()
    return changes


async def test_informer_follows_additions_changes_and_deletions() -> None:
    collection = Collection()
    collection.items = [pod("a", 1)]
    async with following(collection) as informer:
        assert informer.store["default", "a"]["kind"] == "Pod"
        collection.events.put_nowait({"type": "ADDED", "object": pod("b", 2)})
        collection.events.put_nowait({"type": "MODIFIED", "object": pod("a", 3)})
        collection.events.put_nowait({"type": "DELETED", "object": pod("a", 4)})
        changes = await next_change(informer, 3)
        assert changes == [("b", False, True), ("a", True, True), ("a", True, False)]
        assert set(informer.store) == {("default", "b")}


async def test_informer_resumes_from_the_last_bookmark_without_listing_again() -> None:
    collection = Collection()
    async with following(collection) as informer:
        collection.events.put_nowait({"type": "BOOKMARK", "object": pod("", 41)})
        collection.events.put_nowait(None)
        collection.events.put_nowait({"type": "ADDED", "object": pod("b", 42)})
        await next_change(informer)
        assert collection.watches == ["1", "41"]
        assert collection.lists == 1


async def test_informer_lists_again_after_gone_and_reports_what_changed_meanwhile() -> None:
    collection = Collection()
    collection.items = [pod("a", 1), pod("b", 1), pod("c", 1)]
    async with following(collection) as informer:
        collection.items = [pod("a", 1), pod("b", 7)]
        collection.version = 9
        collection.events.put_nowait(
            {"type": "ERROR", "object": status(410, "Expired", "too old resource version")}
        )
        changes = await next_change(informer, 2)
        assert changes == [("c", True, False), ("b", True, True)]
        assert collection.lists == 2


async def test_informer_takes_objects_larger_than_any_read_buffer() -> None:
    collection = Collection()
    async with following(collection) as informer:
        big = pod("big", 2, filler="x" * 600_000)
        collection.events.put_nowait({"type": "ADDED", "object": big})
        await next_change(informer)
        assert len(informer.store["default", "big"]["metadata"]["labels"]["filler"]) == 600_000


async def test_index_moves_an_object_when_its_value_changes() -> None:
    collection = Collection()
    collection.items = [pod("a", 1, app="one")]
    async with following(collection) as informer:
        index = informer.add_index(lambda item: [item["metadata"]["labels"]["app"]])
        assert len(index.get("one")) == 1
        collection.events.put_nowait({"type": "MODIFIED", "object": pod("a", 2, app="two")})
        await next_change(informer)
        assert index.get("one") == []
        assert len(index.get("two")) == 1


async def test_queue_works_on_a_key_once_at_a_time_and_again_when_added_meanwhile() -> None:
    queue: WorkQueue[str] = WorkQueue("test")
    running: list[str] = []
    finished = asyncio.Event()
    rounds = 0

    async def reconcile(key: str) -> None:
        nonlocal rounds
        assert key not in running
        running.append(key)
        rounds += 1
        if rounds == 1:
            queue.add(key)
            queue.add(key)
        await asyncio.sleep(0)
        running.remove(key)
        if rounds == 2:
            finished.set()

    queue.add("a")
    queue.add("a")
    task = asyncio.create_task(queue.run(reconcile, workers=3))
    async with asyncio.timeout(5):
        await finished.wait()
    await asyncio.sleep(0)
    assert queue.idle
    assert rounds == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_queue_does_not_let_a_failing_key_hold_up_another() -> None:
    queue: WorkQueue[str] = WorkQueue("test", base_delay_seconds=60)
    good = asyncio.Event()

    async def reconcile(key: str) -> None:
        if key == "bad":
            raise ApiError(500, "InternalError", "no")
        good.set()

    queue.add("bad")
    queue.add("good")
    task = asyncio.create_task(queue.run(reconcile, workers=1))
    async with asyncio.timeout(5):
        await good.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_queue_backoff_doubles_until_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue("test", base_delay_seconds=1, max_delay_seconds=8)
    delays = [queue.add_rate_limited("a") for _ in range(5)]
    assert [round(delay / 1.1) for delay in delays] == pytest.approx([1, 2, 4, 8, 8], rel=0.3)
    queue.forget("a")
    assert queue.add_rate_limited("a") < 1.2
    for timer in queue._timers.values():
        timer.cancel()


async def test_repeated_events_are_counted_instead_of_added() -> None:
    posted: list[dict[str, Any]] = []
    patched: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        (posted if request.method == "POST" else patched).append(await request.json())
        return web.json_response({})

    involved = {"apiVersion": "v1", "kind": "Pod"} | pod("a", 1)
    async with serving(handler) as client, EventRecorder(client, "tester") as recorder:
        for _ in range(3):
            recorder.warning(involved, "Failed", "no luck")
        recorder.normal(involved, "Created", "done")
        await recorder.flush()
    assert [event["reason"] for event in posted] == ["Failed", "Created"]
    assert posted[0]["source"] == {"component": "tester"}
    assert [patch["count"] for patch in patched] == [2, 3]


def test_kubeconfig_resolves_the_current_context(tmp_path: Any) -> None:
    path = tmp_path / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "b",
                "contexts": [
                    {"name": "a", "context": {"cluster": "x", "user": "x"}},
                    {"name": "b", "context": {"cluster": "c", "user": "u", "namespace": "n"}},
                ],
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1/"}}],
                "users": [{"name": "u", "user": {"token": "secret"}}],
            }
        )
    )
    access = load_kubeconfig(path)
    assert access.server == "http://127.0.0.1:1"
    assert access.headers == {"Authorization": "Bearer secret"}
    assert access.namespace == "n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"current-context": "z"}, "no entry 'z' in contexts"),
        ({"current-context": None}, "names no current-context"),
        ({"users": [{"name": "u", "user": {"exec": {"command": "x"}}}]}, "credential plugin"),
        (
            {
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {
                            "server": "https://x",
                            "certificate-authority-data": base64.b64encode(b"no").decode(),
                        },
                    }
                ]
            },
            "certificates cannot be used",
        ),
    ],
)
def test_kubeconfig_errors_name_what_is_wrong(
    tmp_path: Any, change: dict[str, Any], message: str
) -> None:
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://x"}}],
        "users": [{"name": "u", "user": {}}],
    } | change
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(KubeconfigError, match=message):
        load_kubeconfig(path)
