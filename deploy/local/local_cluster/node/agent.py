"""The node agent: registers the node and gives every pod bound to it a worker."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from local_cluster.client import (
    CONFIGMAPS,
    PERSISTENTVOLUMECLAIMS,
    PODS,
    SECRETS,
    SERVICES,
    Client,
    EventRecorder,
    Informer,
    InformerSet,
    Key,
    Manifest,
)
from local_cluster.client.informer import ChangeCallback
from local_cluster.node.addresses import PodNetwork
from local_cluster.node.claims import ClaimBinder
from local_cluster.node.context import NodeContext, read_server_identity
from local_cluster.node.image_map import load_image_map
from local_cluster.node.log_server import LogServer, make_certificate
from local_cluster.node.node_object import NodeHeartbeat, measure_capacity
from local_cluster.node.pod_worker import PodWorker, pod_folder_name
from local_cluster.node.runtime import find_attempts
from local_cluster.node.usage import UsageMonitor

log = logging.getLogger(__name__)


class AgentError(Exception):
    """The agent cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How the agent was started.

    Args:
        kubeconfig: the way to the API server.
        state: the agent's folder.
        node_name: the name of the Node.
        images: a file that extends the built-in image map.
        capacity: resources beyond those of the machine, for example ``nvidia.com/gpu``.
        port: where logs are served, 0 for a free port.
        restart_backoff_seconds: the first wait of CrashLoopBackOff.
        keep_pods: leave containers running when the agent ends.
        bind_claims: provision folders for PersistentVolumeClaims.
        stop_seconds: the longest grace period when the agent stops its pods.
    """

    kubeconfig: Path
    state: Path
    node_name: str
    images: Path | None = None
    capacity: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    restart_backoff_seconds: float = 10.0
    keep_pods: bool = False
    bind_claims: bool = True
    stop_seconds: float = 8.0


class NodeAgent:
    """Follows the pods of one node.

    Args:
        settings: how the agent was started.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._by_name: dict[Key, str] = {}
        self._node: NodeContext | None = None
        self._draining = False

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set, then stop the pods unless they shall be kept.

        Raises:
            AgentError: the agent cannot start.
            ApiError: the server refused the registration.
        """
        settings = self._settings
        settings.state.mkdir(parents=True, exist_ok=True)
        with self._take_lock():
            await self._run_locked(stop)

    async def _run_locked(self, stop: asyncio.Event) -> None:
        settings = self._settings
        images = load_image_map(settings.images)
        network = PodNetwork(self._preferred_network())
        capacity = measure_capacity(settings.capacity)
        try:
            async with (
                Client.from_kubeconfig(settings.kubeconfig, user_agent="node-agent") as client,
                EventRecorder(client, "kubelet", host=settings.node_name) as events,
                InformerSet(client) as informers,
            ):
                services = informers.of(SERVICES)
                by_namespace = services.add_index(lambda item: [item["metadata"]["namespace"]])
                self._node = NodeContext(
                    name=settings.node_name,
                    state=settings.state.resolve(),
                    client=client,
                    events=events,
                    images=images,
                    network=network,
                    server=read_server_identity(settings.kubeconfig),
                    allocatable=capacity,
                    restart_backoff_seconds=settings.restart_backoff_seconds,
                    list_services=by_namespace.get,
                )
                server = LogServer(self._find_pod)
                tls = make_certificate(settings.state / "pki", settings.node_name)
                await server.start(tls, settings.port)
                try:
                    await self._serve(client, informers, server.port, stop)
                finally:
                    await server.stop()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(events.flush(), 1.0)
        finally:
            network.close()

    async def _serve(
        self, client: Client, informers: InformerSet, port: int, stop: asyncio.Event
    ) -> None:
        assert self._node is not None
        name = self._settings.node_name
        heartbeat = NodeHeartbeat(client, name, self._node.allocatable, port=port)
        await heartbeat.register()
        background = [asyncio.create_task(heartbeat.run())]
        for kind, resource in (("secret", SECRETS), ("configmap", CONFIGMAPS)):
            informers.of(resource).on_change(self._listener(kind))
        if self._settings.bind_claims:
            binder = ClaimBinder(self._node, informers.of(PERSISTENTVOLUMECLAIMS))
            background.append(asyncio.create_task(binder.run()))
        await informers.start()
        pods = Informer(client, PODS, field_selector=f"spec.nodeName={name}")
        following = asyncio.create_task(pods.run())
        background.append(following)
        try:
            await pods.synced()
            await self._clean_leftovers({pod_folder_name(pod) for pod in pods.store.values()})
            pods.on_change(self._pod_changed)
            monitor = UsageMonitor(client, name, lambda: list(self._workers.values()))
            background.append(asyncio.create_task(monitor.run()))
            log.info("node %s is ready, pods on %s.0/24", name, self._node.network.prefix)
            await self._wait(stop, background)
        finally:
            self._draining = True
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self._leave()

    async def _wait(self, stop: asyncio.Event, background: list[asyncio.Task[None]]) -> None:
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait(
                {stopping, *background}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopping}:
                await task  # none of them ends by itself, so this raises
        finally:
            stopping.cancel()

    async def _leave(self) -> None:
        if not self._settings.keep_pods:
            grace = self._settings.stop_seconds
            await asyncio.gather(
                *(worker.stop(grace) for worker in self._workers.values()), return_exceptions=True
            )
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for worker in self._workers.values():
            for runner in worker.runners.values():
                runner.leave()

    # Pods.

    def _find_pod(self, namespace: str, name: str) -> PodWorker | None:
        return self._workers.get(self._by_name.get((namespace, name), ""))

    def _pod_changed(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if self._draining:
            return
        if old is not None and (new is None or old["metadata"]["uid"] != new["metadata"]["uid"]):
            gone = self._workers.get(old["metadata"]["uid"])
            if gone is not None:
                gone.removed()
        if new is None:
            return
        uid = new["metadata"]["uid"]
        self._by_name[key] = uid
        worker = self._workers.get(uid)
        if worker is not None:
            worker.update(new)
            return
        assert self._node is not None
        worker = PodWorker(self._node, new)
        self._workers[uid] = worker
        task = asyncio.create_task(self._run_worker(key, uid, worker), name=f"pod-{key}")
        self._tasks[uid] = task

    async def _run_worker(self, key: Key, uid: str, worker: PodWorker) -> None:
        try:
            await worker.run()
        except Exception:
            log.exception("the worker of pod %s failed", key)
        finally:
            if not self._draining:
                self._workers.pop(uid, None)
                self._tasks.pop(uid, None)
                if self._by_name.get(key) == uid:
                    del self._by_name[key]

    def _listener(self, kind: str) -> ChangeCallback:
        def changed(key: Key, old: Manifest | None, new: Manifest | None) -> None:
            if new is None:
                return
            for worker in self._workers.values():
                if worker.manifest["metadata"]["namespace"] == key[0]:
                    worker.object_changed(kind, key[1])

        return changed

    # State of earlier runs.

    def _take_lock(self) -> IO[str]:
        lock = (self._settings.state / "lock").open("a", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            lock.close()
            raise AgentError(
                f"another node agent works in {self._settings.state}; stop it first or choose "
                "another folder with --state"
            ) from err
        return lock

    def _preferred_network(self) -> str | None:
        for path in (self._settings.state / "pods").glob("*/.pod.json"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                address = str(json.loads(path.read_text(encoding="utf-8")).get("address", ""))
                if address and not address.startswith("127.0.0."):
                    return address.rpartition(".")[0]
        return None

    async def _clean_leftovers(self, wanted: set[str]) -> None:
        """End the containers of pods that were deleted while no agent ran."""
        assert self._node is not None
        folder = self._node.pods_folder
        for pod in folder.iterdir() if folder.exists() else ():
            if pod.name in wanted or not pod.is_dir():
                continue
            for container in pod.iterdir():
                for attempt in find_attempts(container) if container.is_dir() else ():
                    if attempt.is_alive():
                        log.info("ending what is left of deleted pod %s", pod.name)
                        attempt.kill()
                        await attempt.wait_ended()
            await asyncio.to_thread(shutil.rmtree, pod, ignore_errors=True)
