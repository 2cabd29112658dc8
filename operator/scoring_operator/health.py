"""HTTP endpoints of the operator: /healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

Check = Callable[[], str | None]


class HealthServer:
    """A small HTTP server for the kubelet and Prometheus.

    Args:
        registry: what /metrics shows.
        is_alive: None, or why the process should be restarted.
        is_ready: None, or why it does not work yet.
    """

    def __init__(self, registry: CollectorRegistry, is_alive: Check, is_ready: Check) -> None:
        self._registry = registry
        app = web.Application()
        app.router.add_get("/healthz", _check(is_alive))
        app.router.add_get("/readyz", _check(is_ready))
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, address: str, port: int) -> int:
        """Listen.

        Args:
            address: to listen on.
            port: 0 for any free one.

        Returns:
            The port.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _check(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        problem = check()
        return web.Response(status=503 if problem else 200, text=(problem or "ok") + "\n")

    return answer
