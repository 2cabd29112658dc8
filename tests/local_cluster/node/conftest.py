from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from local_cluster.node.agent import AgentSettings, NodeAgent
from local_cluster.node.leftovers import end_leftovers

Manifest = dict[str, Any]


def merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


class FakeApi:
    """The few parts of an API server a node agent needs, over a real socket."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.tokens: list[Manifest] = []
        self._version = 0
        self._watchers: list[tuple[str, str | None, asyncio.Queue[Manifest]]] = []
        self._changed = asyncio.Condition()
        self.server = ""

    # What tests use.

    async def add(self, plural: str, manifest: Manifest, namespace: str = "default") -> Manifest:
        manifest = json.loads(json.dumps(manifest))
        metadata = manifest.setdefault("metadata", {})
        if namespace:
            metadata.setdefault("namespace", namespace)
        metadata.setdefault("uid", str(uuid.uuid4()))
        await self._store((plural, metadata.get("namespace", ""), metadata["name"]), manifest)
        return manifest

    def get(self, plural: str, name: str, namespace: str = "default") -> Manifest | None:
        return self.objects.get((plural, namespace, name))

    async def edit(
        self, plural: str, name: str, patch: Manifest, namespace: str = "default"
    ) -> None:
        key = (plural, namespace, name)
        await self._store(key, merge(self.objects[key], patch))

    async def delete_pod(self, name: str, grace: int = 30) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        patch = {"deletionTimestamp": stamp, "deletionGracePeriodSeconds": grace}
        await self.edit("pods", name, {"metadata": patch})

    async def remove(self, plural: str, name: str, namespace: str = "default") -> None:
        await self._store((plural, namespace, name), None)

    async def until(self, condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Wait until a condition on the stored objects holds; returns its value."""

        async def wait() -> Any:
            async with self._changed:
                while not (value := condition()):
                    # Files and logs change without the API hearing of it.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), 0.05)
                return value

        return await asyncio.wait_for(wait(), seconds)

    def events(self, name: str) -> list[tuple[str, str]]:
        return [
            (item["reason"], item["message"])
            for key, item in self.objects.items()
            if key[0] == "events" and item["involvedObject"]["name"] == name
        ]

    # The server.

    async def _store(self, key: tuple[str, str, str], item: Manifest | None) -> None:
        self._version += 1
        old = self.objects.get(key)
        if item is None:
            assert old is not None
            kind, shown = "DELETED", self.objects.pop(key)
        else:
            item["metadata"]["resourceVersion"] = str(self._version)
            kind, shown = ("MODIFIED" if old else "ADDED"), item
            self.objects[key] = item
        for plural, node, queue in self._watchers:
            if plural == key[0] and self._selected(shown, node):
                queue.put_nowait({"type": kind, "object": shown})
        async with self._changed:
            self._changed.notify_all()

    @staticmethod
    def _selected(item: Manifest, node: str | None) -> bool:
        return node is None or item.get("spec", {}).get("nodeName") == node

    def _failure(self, status: int, reason: str, message: str) -> web.Response:
        body = {"kind": "Status", "code": status, "reason": reason, "message": message}
        return web.json_response(body, status=status)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        plural, name, subresource = (*parts, "", "")[:3]
        selector = request.query.get("fieldSelector", "")
        node = selector.partition("=")[2] or None
        if request.query.get("watch"):
            return await self._watch(request, plural, node)
        if request.method == "GET" and not name:
            items = [
                item
                for key, item in self.objects.items()
                if key[0] == plural and self._selected(item, node)
            ]
            version = {"resourceVersion": str(self._version)}
            return web.json_response({"kind": "List", "metadata": version, "items": items})
        body = await request.json() if request.can_read_body else {}
        if subresource == "token":
            self.tokens.append(body)
            return web.json_response({"status": {"token": f"token-{len(self.tokens)}"}})
        key = (plural, namespace, name or body.get("metadata", {}).get("name", ""))
        stored = self.objects.get(key)
        if request.method == "POST":
            if stored is not None:
                return self._failure(409, "AlreadyExists", f"{plural} {key[2]} already exists")
            return web.json_response(await self.add(plural, body, namespace), status=201)
        if stored is None:
            return self._failure(404, "NotFound", f'{plural} "{key[2]}" not found')
        uid = body.get("metadata", {}).get("uid") or body.get("preconditions", {}).get("uid")
        if uid and uid != stored["metadata"]["uid"]:
            return self._failure(409, "Conflict", "the uid in the precondition does not match")
        if request.method == "PATCH":
            await self._store(key, merge(stored, body))
            return web.json_response(self.objects[key])
        if request.method == "DELETE":
            await self._store(key, None)
        return web.json_response(stored)

    async def _watch(
        self, request: web.Request, plural: str, node: str | None
    ) -> web.StreamResponse:
        queue: asyncio.Queue[Manifest] = asyncio.Queue()
        watcher = (plural, node, queue)
        since = int(request.query.get("resourceVersion") or 0)
        self._watchers.append(watcher)
        for key, item in list(self.objects.items()):
            newer = int(item["metadata"]["resourceVersion"]) > since
            if key[0] == plural and self._selected(item, node) and newer:
                queue.put_nowait({"type": "ADDED", "object": item})
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while True:
                await response.write(json.dumps(await queue.get()).encode() + b"\n")
        except ConnectionResetError:
            return response
        finally:
            self._watchers.remove(watcher)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    fake = FakeApi()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    await fake.add("serviceaccounts", {"metadata": {"name": "default"}})
    yield fake
    await runner.cleanup()


@pytest.fixture
def kubeconfig(api: FakeApi, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": api.server}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
async def start_agent(
    api: FakeApi, kubeconfig: Path, tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    """Starts a node agent in this process; the returned function stops it again."""
    running: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    async def start(**settings: Any) -> Callable[[], Any]:
        images = tmp_path / "images.yaml"
        if not images.exists():
            shell = {"entrypoint": ["sh"], "env": {"FROM_IMAGE": "$(POD_NAME)@$(POD_IP)"}}
            images.write_text(yaml.safe_dump({"images": {"shell": shell}}))
        values = {"images": images, "restart_backoff_seconds": 0.2} | settings
        stop = asyncio.Event()
        agent = NodeAgent(
            AgentSettings(kubeconfig=kubeconfig, state=tmp_path / "node", node_name="n1", **values)
        )
        task = asyncio.create_task(agent.run(stop))
        ready = asyncio.create_task(api.until(lambda: api.get("leases", "n1", "kube-node-lease")))
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            ready.cancel()
            await task

        async def end() -> None:
            stop.set()
            await task

        running.append((stop, task))
        return end

    start.state = tmp_path / "node"  # type: ignore[attr-defined]
    yield start
    for stop, task in running:
        stop.set()
        with contextlib.suppress(Exception):
            await task
    end_leftovers(tmp_path / "node" / "pods")


def build_pod(name: str, script: str | None = None, /, **extra: Any) -> Manifest:
    container: Manifest = {"name": "main", "image": "shell"}
    if script is not None:
        container["args"] = ["-c", script]
    container |= extra.pop("container", {})
    spec = {
        "nodeName": "n1",
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        **extra,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def pod() -> Callable[..., Manifest]:
    return build_pod
