"""All controllers in one process, over one set of local copies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from local_cluster.client import Client, EventRecorder
from local_cluster.controllers.caches import Caches
from local_cluster.controllers.deployment import DeploymentController
from local_cluster.controllers.disruption import DisruptionController
from local_cluster.controllers.endpoint_controller import EndpointController
from local_cluster.controllers.hpa import SYNC_SECONDS, HorizontalController
from local_cluster.controllers.jobs import JobController
from local_cluster.controllers.node_lifecycle import GRACE_SECONDS, NodeLifecycleController
from local_cluster.controllers.replicaset import ReplicaSetController
from local_cluster.controllers.scheduler import SCHEDULER_NAME, Scheduler
from local_cluster.controllers.service_accounts import ServiceAccountController

log = logging.getLogger(__name__)


class Queue(Protocol):
    """The part of a work queue that tells whether there is work."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is worked on."""


class Controller(Protocol):
    """What every controller is."""

    @property
    def queue(self) -> Queue:
        """The keys it works on."""

    async def run(self) -> None:
        """Work until cancelled."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The periods of controllers that look again by the clock.

    Args:
        hpa_sync_seconds: between two looks of an autoscaler at its metrics.
        node_grace_seconds: how old a node's Lease may be.
    """

    hpa_sync_seconds: float = SYNC_SECONDS
    node_grace_seconds: float = GRACE_SECONDS


class ControllerManager:
    """The controllers and the scheduler; an async context manager.

    Entering waits until all local copies are complete.

    Args:
        kubeconfig: how to reach the API server.
        timing: periods, shorter ones for tests.
    """

    def __init__(self, kubeconfig: str | Path, *, timing: Timing | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._timing = timing or Timing()
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._controllers: dict[str, Controller] = {}

    @property
    def idle(self) -> bool:
        """Whether no controller has anything to do right now; delayed work does not count."""
        return all(controller.queue.idle for controller in self._controllers.values())

    async def __aenter__(self) -> ControllerManager:
        await self._stack.__aenter__()
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        enter = self._stack.enter_async_context
        client = await enter(
            Client.from_kubeconfig(
                self._kubeconfig, user_agent="kube-controller-manager/local-cluster"
            )
        )

        async def recorder(component: str) -> EventRecorder:
            return await enter(EventRecorder(client, component))

        caches = Caches(client)
        await enter(caches.informers)
        timing = self._timing
        self._controllers = {
            "deployment": DeploymentController(
                client, caches, await recorder("deployment-controller")
            ),
            "replicaset": ReplicaSetController(
                client, caches, await recorder("replicaset-controller")
            ),
            "job": JobController(client, caches, await recorder("job-controller")),
            "scheduler": Scheduler(client, caches, await recorder(SCHEDULER_NAME)),
            "endpoints": EndpointController(client, caches),
            "hpa": HorizontalController(
                client,
                caches,
                await recorder("horizontal-pod-autoscaler"),
                sync_seconds=timing.hpa_sync_seconds,
            ),
            "disruption": DisruptionController(client, caches, await recorder("controllermanager")),
            "node-lifecycle": NodeLifecycleController(
                client,
                caches,
                await recorder("node-controller"),
                grace_seconds=timing.node_grace_seconds,
            ),
            "serviceaccounts": ServiceAccountController(client, caches),
        }
        await caches.informers.start()
        for name, controller in self._controllers.items():
            self._spawn(name, controller.run())

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._stack.aclose()

    async def wait(self) -> None:
        """Return when a controller ended, which none does unless it broke.

        Raises:
            Exception: what broke it.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
