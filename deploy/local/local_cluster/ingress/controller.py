"""The ingress controller: what it watches, what it listens on, what it writes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from local_cluster.client import (
    ENDPOINTSLICES,
    INGRESSCLASSES,
    INGRESSES,
    SECRETS,
    SERVICES,
    ApiError,
    Client,
    InformerSet,
    Key,
    Manifest,
    WorkQueue,
    object_key,
)
from local_cluster.ingress.certificates import CertificateStore
from local_cluster.ingress.endpoints import Backend, derive_addresses, service_port_name
from local_cluster.ingress.front import ConnectionSet, FrontConnection
from local_cluster.ingress.proxy import DEFAULT_TIMEOUT_SECONDS, Proxy
from local_cluster.ingress.routing import (
    CONTROLLER,
    DEFAULT_CLASS_ANNOTATION,
    BackendRef,
    build_routes,
    is_ours,
)

DRAIN_SECONDS = 10.0
_SERVICE_LABEL = "kubernetes.io/service-name"
_MIN_REBUILD_DELAY_SECONDS = 0.01

log = logging.getLogger(__name__)


class IngressController:
    """Controller and reverse proxy in one; an async context manager.

    Entering waits until the routes are known and both ports are open.

    Args:
        kubeconfig: how to reach the API server.
        address: the address to listen on.
        http_port: port for plain HTTP, 0 for a free one.
        https_port: port for HTTPS, 0 for a free one.
        class_name: the IngressClass to create and serve.
        timeout_seconds: longest silence of a pod.
        drain_seconds: how long leaving waits for requests under way.
    """

    def __init__(
        self,
        kubeconfig: str | Path,
        *,
        address: str = "127.0.0.1",
        http_port: int = 8080,
        https_port: int = 8443,
        class_name: str = "local",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self.address = address
        self.http_port = http_port
        self.https_port = https_port
        self.proxy = Proxy(timeout_seconds=timeout_seconds)
        self.certificates = CertificateStore()
        self._kubeconfig = kubeconfig
        self._class_name = class_name
        self._drain_seconds = drain_seconds
        self._stack = contextlib.AsyncExitStack()
        self._connections = ConnectionSet()
        self._servers: list[asyncio.Server] = []
        self._refs: dict[Key, set[BackendRef]] = {}
        self._status_queue: WorkQueue[Key] = WorkQueue("ingress-status")
        self._status_task: asyncio.Task[None] | None = None
        self._rebuild_timer: asyncio.TimerHandle | None = None
        self._rebuild_seconds = 0.0

    async def __aenter__(self) -> IngressController:
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
        self._client = await self._stack.enter_async_context(
            Client.from_kubeconfig(self._kubeconfig, user_agent="local-ingress")
        )
        await self._create_class()
        informers = await self._stack.enter_async_context(InformerSet(self._client))
        self._ingresses = informers.of(INGRESSES)
        self._classes = informers.of(INGRESSCLASSES)
        self._services = informers.of(SERVICES)
        self._slices = informers.of(ENDPOINTSLICES)
        self._secrets = informers.of(SECRETS)
        self._slices_by_service = self._slices.add_index(lambda item: [_service_of(item)])
        self._ingresses.on_change(self._on_ingress)
        self._classes.on_change(lambda key, old, new: self._schedule_rebuild())
        self._secrets.on_change(self._on_secret)
        self._services.on_change(lambda key, old, new: self._update_backends(key))
        self._slices.on_change(self._on_slice)
        await informers.start()
        self._rebuild()
        await self._listen()
        for key in self._ingresses.store:
            self._status_queue.add(key)
        self._status_task = asyncio.create_task(
            self._status_queue.run(self._write_status, workers=2), name="ingress-status"
        )

    async def _stop(self) -> None:
        if self._rebuild_timer is not None:
            self._rebuild_timer.cancel()
        for server in self._servers:
            server.close()
        await self._connections.close(self._drain_seconds)
        for backend in self.proxy.backends.values():
            backend.close()
        if self._status_task is not None:
            self._status_task.cancel()
            await asyncio.gather(self._status_task, return_exceptions=True)
        await self._stack.aclose()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()

        async def open_port(port: int, scheme: str, tls: Any) -> int:
            server = await loop.create_server(
                lambda: FrontConnection(self.proxy.handle, self._connections, scheme),
                self.address,
                port,
                ssl=tls,
                backlog=2048,
            )
            self._servers.append(server)
            return int(server.sockets[0].getsockname()[1])

        self.http_port = await open_port(self.http_port, "http", None)
        self.https_port = await open_port(
            self.https_port, "https", self.certificates.server_context
        )
        self.proxy.http_port, self.proxy.https_port = self.http_port, self.https_port

    async def _create_class(self) -> None:
        body = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {
                "name": self._class_name,
                "annotations": {DEFAULT_CLASS_ANNOTATION: "true"},
            },
            "spec": {"controller": CONTROLLER},
        }
        try:
            await self._client.create(INGRESSCLASSES, body)
        except ApiError as err:
            if not err.already_exists:
                raise

    def _on_ingress(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if new is not None:
            self._status_queue.add(key)
        if (
            old is not None
            and new is not None
            and old["spec"] == new["spec"]
            and old["metadata"].get("annotations") == new["metadata"].get("annotations")
        ):
            return
        self._schedule_rebuild()

    def _on_secret(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if any(item and "tls.crt" in (item.get("data") or {}) for item in (old, new)):
            self._schedule_rebuild()

    def _on_slice(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        for item in (old, new):
            if item is not None:
                namespace, _, name = _service_of(item).partition("/")
                self._update_backends((namespace, name))

    def _schedule_rebuild(self) -> None:
        if self._rebuild_timer is None and self._servers:
            # Many changes at once become one rebuild; it may take a fifth of the time at most.
            delay = max(_MIN_REBUILD_DELAY_SECONDS, 4 * self._rebuild_seconds)
            self._rebuild_timer = asyncio.get_running_loop().call_later(delay, self._rebuild)

    def _rebuild(self) -> None:
        self._rebuild_timer = None
        started = time.monotonic()
        classes = {key[1]: item for key, item in self._classes.store.items()}
        ours = [item for item in self._ingresses.store.values() if is_ours(item, classes)]
        table = build_routes(ours)
        wanted = table.backends()
        for ref in [ref for ref in self.proxy.backends if ref not in wanted]:
            self.proxy.backends.pop(ref).close()
        self._refs = {}
        for ref in wanted:
            self._refs.setdefault((ref.namespace, ref.service), set()).add(ref)
            if ref not in self.proxy.backends:
                self.proxy.backends[ref] = Backend()
                self._update_backend(ref)
        self.proxy.table = table
        problems = self.certificates.update(self._secrets_by_host(ours))
        for host, problem in problems.items():
            log.warning("no certificate for %s: %s", host, problem)
        self._rebuild_seconds = time.monotonic() - started

    def _secrets_by_host(self, ingresses: list[Manifest]) -> dict[str, Manifest]:
        found: dict[str, Manifest] = {}
        for ingress in sorted(
            ingresses, key=lambda item: item["metadata"].get("creationTimestamp") or ""
        ):
            namespace = ingress["metadata"].get("namespace", "")
            for entry in ingress["spec"].get("tls") or []:
                secret = self._secrets.get(namespace, entry.get("secretName") or "")
                if secret is None:
                    continue
                hosts = entry.get("hosts") or [
                    rule["host"] for rule in ingress["spec"].get("rules") or [] if rule.get("host")
                ]
                for host in hosts:
                    found.setdefault(host, secret)
        return found

    def _update_backends(self, key: Key) -> None:
        for ref in self._refs.get(key, ()):
            self._update_backend(ref)

    def _update_backend(self, ref: BackendRef) -> None:
        backend = self.proxy.backends.get(ref)
        if backend is None:
            return
        service = self._services.get(ref.namespace, ref.service)
        port_name = service_port_name(service, ref.port) if service is not None else None
        if port_name is None:
            backend.update([])
            return
        slices = self._slices_by_service.get(f"{ref.namespace}/{ref.service}")
        backend.update(*derive_addresses(slices, port_name))

    async def _write_status(self, key: Key) -> None:
        ingress = self._ingresses.get(*key)
        classes = {item[1]: value for item, value in self._classes.store.items()}
        if ingress is None or not is_ours(ingress, classes):
            return
        ports = [{"port": self.http_port, "protocol": "TCP"}]
        if ingress["spec"].get("tls"):
            ports.append({"port": self.https_port, "protocol": "TCP"})
        wanted = {"ingress": [{"ip": self.address, "ports": ports}]}
        if (ingress.get("status") or {}).get("loadBalancer") == wanted:
            return
        namespace, name = object_key(ingress)
        try:
            await self._client.patch(
                INGRESSES,
                name,
                namespace,
                {"status": {"loadBalancer": wanted}},
                subresource="status",
            )
        except ApiError as err:
            if not err.is_not_found:
                raise


def _service_of(item: Manifest) -> str:
    metadata = item["metadata"]
    return (
        f"{metadata.get('namespace', '')}/{(metadata.get('labels') or {}).get(_SERVICE_LABEL, '')}"
    )
