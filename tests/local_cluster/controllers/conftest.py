from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from local_cluster.apiserver import ApiServer
from local_cluster.client import (
    DEPLOYMENTS,
    ENDPOINTSLICES,
    EVENTS,
    HPAS,
    JOBS,
    NODES,
    PDBS,
    PODS,
    REPLICASETS,
    ApiError,
    Client,
    InformerSet,
    Key,
    Manifest,
    WorkQueue,
)
from local_cluster.controllers import ControllerManager, Timing

RESOURCES = (
    DEPLOYMENTS,
    ENDPOINTSLICES,
    EVENTS,
    HPAS,
    JOBS,
    NODES,
    PDBS,
    PODS,
    REPLICASETS,
)


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class World:
    """A real API server with the controllers, and a node that only pretends to run pods."""

    def __init__(
        self,
        client: Client,
        informers: InformerSet,
        controllers: ControllerManager,
        kubeconfig: Path,
    ) -> None:
        self.client = client
        self.controllers = controllers
        self.kubeconfig = kubeconfig
        self._informers = {resource: informers.of(resource) for resource in RESOURCES}
        self._changed = asyncio.Event()
        self._queue: WorkQueue[Key] = WorkQueue("pretended-node")
        self._ips = (f"127.8.{a}.{b}" for a in range(250) for b in range(1, 250))
        self.broken_images: set[str] = set()
        for informer in self._informers.values():
            informer.on_change(lambda key, old, new: self._changed.set())
        self._informers[PODS].on_change(lambda key, old, new: self._queue.add(key))

    def all(self, resource: Any) -> list[Manifest]:
        return list(self._informers[resource].store.values())

    def get(self, resource: Any, name: str) -> Manifest:
        namespace = "default" if resource.namespaced else ""
        return self._informers[resource].get(namespace, name) or {}

    async def until(self, predicate: Callable[[], Any], seconds: float = 20) -> Any:
        try:
            async with asyncio.timeout(seconds):
                while not (value := predicate()):
                    self._changed.clear()
                    await self._changed.wait()
                return value
        except TimeoutError:
            state = [
                (
                    item["kind"],
                    item["metadata"]["name"],
                    item.get("spec", {}).get("replicas"),
                    item.get("status"),
                )
                for resource in (DEPLOYMENTS, REPLICASETS, PODS, HPAS, PDBS)
                for item in self.all(resource)
            ]
            raise AssertionError(f"did not come about; there is {state}") from None

    async def add_node(self, name: str = "n1", **allocatable: str) -> None:
        resources = {"cpu": "64", "memory": "64Gi", "pods": "500", **allocatable}
        await self.client.create(
            NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        )
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "ok",
            "lastTransitionTime": stamp(),
            "lastHeartbeatTime": stamp(),
        }
        status = {"allocatable": resources, "capacity": resources, "conditions": [ready]}
        await self.client.patch(NODES, name, None, {"status": status}, subresource="status")

    async def run_node(self) -> None:
        await self._queue.run(self._play, workers=4)

    async def _play(self, key: Key) -> None:
        pod = self._informers[PODS].get(*key)
        if pod is None or not pod["spec"].get("nodeName"):
            return
        metadata = pod["metadata"]
        try:
            if metadata.get("deletionTimestamp"):
                await self.client.delete(PODS, key[1], key[0], grace_seconds=0, uid=metadata["uid"])
                return
            status = pod.get("status") or {}
            broken = pod["spec"]["containers"][0]["image"] in self.broken_images
            if status.get("podIP") or status.get("phase") in ("Succeeded", "Failed"):
                return
            now = stamp()
            flag = "False" if broken else "True"
            conditions = [
                {"type": kind, "status": value, "lastTransitionTime": now}
                for kind, value in [
                    ("PodScheduled", "True"),
                    ("Initialized", "True"),
                    ("ContainersReady", flag),
                    ("Ready", flag),
                ]
            ]
            body = {
                "status": {
                    "phase": "Running",
                    "podIP": next(self._ips),
                    "startTime": now,
                    "conditions": conditions,
                }
            }
            await self.client.patch(PODS, key[1], key[0], body, subresource="status")
        except ApiError as err:
            if not (err.is_not_found or err.is_conflict):
                raise

    async def set_pod_phase(self, name: str, phase: str) -> None:
        await self.client.patch(
            PODS, name, "default", {"status": {"phase": phase}}, subresource="status"
        )

    def pods_of(self, app: str) -> list[Manifest]:
        return [
            pod
            for pod in self.all(PODS)
            if (pod["metadata"].get("labels") or {}).get("app") == app
            and not pod["metadata"].get("deletionTimestamp")
        ]

    def reasons(self, name: str) -> set[str]:
        return {
            event["reason"]
            for event in self.all(EVENTS)
            if event["involvedObject"]["name"].startswith(name)
        }

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.get(DEPLOYMENTS, name).get("status") or {}
        return status

    def condition(self, name: str, type_: str) -> dict[str, Any]:
        conditions = self.status(name).get("conditions") or []
        return next((c for c in conditions if c["type"] == type_), {})

    def is_rolled_out(self, name: str, replicas: int, generation: int | None = None) -> bool:
        item = self.get(DEPLOYMENTS, name)
        status = item.get("status") or {}
        counts = [
            status.get(field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas")
        ]
        wanted = item["metadata"].get("generation") if generation is None and item else generation
        return counts == [replicas] * 3 and status.get("observedGeneration", 0) >= (wanted or 0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        ApiServer(tmp_path) as server,
        Client.from_kubeconfig(server.kubeconfig) as client,
        InformerSet(client) as informers,
        ControllerManager(
            server.kubeconfig, timing=Timing(hpa_sync_seconds=0.1, node_grace_seconds=2)
        ) as controllers,
    ):
        found = World(client, informers, controllers, server.kubeconfig)
        await informers.start()
        task = asyncio.create_task(found.run_node())
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
