"""The server: starts and stops all parts, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from local_cluster.apiserver.admission import Admission
from local_cluster.apiserver.api import MAX_BODY_BYTES, Api
from local_cluster.apiserver.auth import Authenticator
from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.collector import Collector
from local_cluster.apiserver.definitions import Definitions
from local_cluster.apiserver.deletion import Deletions
from local_cluster.apiserver.event_expiry import EventExpiry
from local_cluster.apiserver.kubeconfig import write_kubeconfig
from local_cluster.apiserver.namespaces import Namespaces
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.pki import ensure_identity
from local_cluster.apiserver.quota_status import QuotaStatus
from local_cluster.apiserver.storage import Store

_SHUTDOWN_SECONDS = 2.0


def _build_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """Build a request that may carry a body as large as the API takes."""
    loop = asyncio.get_running_loop()
    # One byte more than allowed, so that the API itself refuses what is too large.
    return web.BaseRequest(
        message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES + 1
    )


class ApiServer:
    """An API server, used as an async context manager.

    Args:
        state_dir: folder for everything that lasts; made if absent.
        port: to listen on; 0 takes the one used before, or a free one.
        address: to listen on.

    Attributes:
        kubeconfig: path of the kubeconfig, which is there once the server listens.
        url: of the server, once it listens.
    """

    def __init__(self, state_dir: Path, port: int = 0, address: str = "127.0.0.1") -> None:
        self._folder = state_dir
        self._port = port
        self._address = address
        self.kubeconfig = state_dir / "kubeconfig"
        self.url = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the server."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server; everything acknowledged is in the state folder."""
        await self._stack.aclose()

    async def _start(self) -> None:
        identity = ensure_identity(self._folder, self._address)
        store = Store(self._folder / "state.sqlite")
        self._stack.callback(store.close)
        cluster = Cluster(store)
        admission = Admission(cluster)
        objects = Objects(cluster, admission)
        deletions = Deletions(cluster, admission)
        authenticator = Authenticator(self._folder, cluster)
        definitions = Definitions(cluster, objects, deletions)
        collector = Collector(cluster, objects, deletions)
        namespaces = Namespaces(cluster, objects, deletions)
        quotas = QuotaStatus(cluster, objects)
        events = EventExpiry(cluster)
        definitions.load()
        namespaces.ensure_defaults()
        await store.durable()

        remembered = self._folder / "port"
        port = self._port or (int(remembered.read_text()) if remembered.exists() else 0)
        api = Api(cluster, objects, deletions, authenticator, f"{self._address}:{port}")
        self._stack.push_async_callback(api.pods.close)
        # Cancelling handlers of clients that went away ends their watches; writes never wait half-done.
        server = web.Server(
            api.handle, handler_cancellation=True, request_factory=_build_request, access_log=None
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        self._stack.callback(cluster.hub.close_all)
        context = identity.ssl_context()
        site = web.TCPSite(runner, self._address, port, ssl_context=context, backlog=1024)
        try:
            await site.start()
        except OSError:
            if self._port:
                raise
            # The port of the last run is taken: a free one, which the new kubeconfig names.
            await site.stop()
            site = web.TCPSite(runner, self._address, 0, ssl_context=context, backlog=1024)
            await site.start()
        port = runner.addresses[0][1]
        remembered.write_text(str(port), encoding="ascii")
        host = f"[{self._address}]" if ":" in self._address else self._address
        self.url = f"https://{host}:{port}"
        self._stack.push_async_callback(self._cancel_tasks)
        for part in (definitions, namespaces, collector, quotas, events):
            self._spawn(part.run())
        write_kubeconfig(
            self.kubeconfig, self.url, identity.ca_path.read_bytes(), authenticator.admin_token
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
