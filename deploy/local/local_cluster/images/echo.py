"""A tiny HTTP server for tests of rollouts, probes and ingresses: it says who and what it is.

``GET /`` and every other path answers with JSON: pod, message, path, method, headers and the
environment's ``ECHO_…`` variables. ``/healthz`` answers 200 once ``ECHO_START_SECONDS`` have
passed. On SIGTERM it serves on for ``ECHO_DRAIN_SECONDS``, then exits with 0. It listens on
``LISTEN_ADDRESS`` and ``LISTEN_PORT``: a Service named echo would set ``ECHO_PORT``.
"""

from __future__ import annotations

import asyncio
import os
import signal

from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    """Tell the client what arrived here, and where here is."""
    delay = float(request.query.get("delay", "0"))
    if delay:
        await asyncio.sleep(delay)
    return web.json_response(
        {
            "pod": os.environ.get("ECHO_POD", os.environ.get("HOSTNAME", "")),
            "message": os.environ.get("ECHO_MESSAGE", ""),
            "method": request.method,
            "path": request.path_qs,
            "headers": dict(request.headers),
            "env": {k: v for k, v in sorted(os.environ.items()) if k.startswith("ECHO_")},
            "body": (await request.read()).decode(errors="replace"),
        },
        headers={"X-Pod": os.environ.get("ECHO_POD", "")},
    )


async def serve() -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ready_at = loop.time() + float(os.environ.get("ECHO_START_SECONDS", "0"))

    async def health(_: web.Request) -> web.Response:
        return web.Response(status=200 if loop.time() >= ready_at else 503)

    app = web.Application()
    app.router.add_get("/healthz", health)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
    await runner.setup()
    address = os.environ.get("LISTEN_ADDRESS", "127.0.0.1")
    port = int(os.environ.get("LISTEN_PORT", "8080"))
    await web.TCPSite(runner, address, port).start()
    print(f"listening on {address}:{port}", flush=True)
    await stop.wait()
    await asyncio.sleep(float(os.environ.get("ECHO_DRAIN_SECONDS", "0")))
    await runner.cleanup()
    print("stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(serve())
