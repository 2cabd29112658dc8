"""A cluster's programs as processes: an API server with controllers, the operator, and a proxy that refuses some writes.

All of them on loopback; each is gone at the end of its `async with` block.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml
from aiohttp import web
from kubernetes.aio.client import ApiClient

from scoring_operator.cluster import connect

# A thousand models took 100 s where this was written; far slower than that, something is broken.
PATIENCE_SECONDS = 1200.0
DOMAIN = "models.bench.example.com"
INGRESS_CLASS = "bench"


async def until(check: Callable[[], Any], what: str, *, every_seconds: float = 0.05) -> Any:
    """Wait until a check gives something true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise SystemExit(f"gave up waiting until {what}")
        await asyncio.sleep(every_seconds)


@dataclass(slots=True)
class Process:
    """A child process and what the kernel says of it."""

    child: asyncio.subprocess.Process
    kernel: psutil.Process

    def cpu_seconds(self) -> float:
        """CPU time since its start."""
        times = self.kernel.cpu_times()
        return times.user + times.system

    def memory_mib(self) -> float:
        """Resident memory now."""
        return self.kernel.memory_info().rss / 2**20

    def peak_memory_mib(self) -> float:
        """The most resident memory so far, as the kernel keeps it."""
        text = Path(f"/proc/{self.kernel.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", text)
        return int(match[1]) / 2**10 if match else self.memory_mib()


@asynccontextmanager
async def process(*command: str, log: Path, **environment: str) -> AsyncIterator[Process]:
    """Run a program; it is gone at the end."""
    with log.open("ab") as output:
        child = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        yield Process(child, psutil.Process(child.pid))
    finally:
        if child.returncode is None:
            child.terminate()
            try:
                await asyncio.wait_for(child.wait(), 20)
            except TimeoutError:
                child.kill()
        await child.wait()


@asynccontextmanager
async def local_api(folder: Path) -> AsyncIterator[Path]:
    """The local cluster's API server and controllers."""
    module = (sys.executable, "-m")
    state = folder / "api"
    async with process(
        *module, "local_cluster.apiserver", "--state", str(state), log=folder / "apiserver.log"
    ):
        kubeconfig = state / "kubeconfig"
        await until(kubeconfig.exists, "the API server listens")
        async with process(
            *module,
            "local_cluster.controllers",
            *("--kubeconfig", str(kubeconfig), "--log-level", "ERROR"),
            log=folder / "controllers.log",
        ):
            yield kubeconfig


@dataclass(slots=True)
class Running:
    """An operator and the door to its metrics."""

    process: Process
    session: aiohttp.ClientSession
    port: int

    async def ready(self) -> bool:
        """Whether its caches are full."""
        try:
            async with self.session.get(f"http://127.0.0.1:{self.port}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def metrics(self) -> str:
        """What Prometheus would read."""
        async with self.session.get(f"http://127.0.0.1:{self.port}/metrics") as answer:
            return await answer.text()

    async def writes(self) -> float:
        """Writing calls so far."""
        text = await self.metrics()
        pattern = r'^scoring_operator_api_calls_total\{.*verb="(\w+)"\} (\S+)'
        found = re.findall(pattern, text, re.MULTILINE)
        return sum(float(count) for verb, count in found if verb not in {"GET", "WATCH"})

    async def reconciles(self) -> float:
        """Reconciles so far."""
        found = re.findall(
            r"^scoring_operator_reconciles_total\{.*\} (\S+)", await self.metrics(), re.MULTILINE
        )
        return sum(map(float, found))


@asynccontextmanager
async def operator(folder: Path, kubeconfig: Path) -> AsyncIterator[Running]:
    """The operator as its Deployment starts it; without leader election, because nobody else is there."""
    log = folder / f"operator-{time.time_ns()}.log"
    async with (
        process(
            *(sys.executable, "-m", "scoring_operator", "--kubeconfig", str(kubeconfig)),
            *("--metrics-port", "0", "--listen", "127.0.0.1", "--log-level", "info"),
            log=log,
            BASE_DOMAIN=DOMAIN,
            INGRESS_CLASS=INGRESS_CLASS,
        ) as child,
        aiohttp.ClientSession() as session,
    ):

        def listens() -> int:
            match = re.search(r'"port": (\d+)', log.read_text())
            return int(match[1]) if match else 0

        running = Running(child, session, await until(listens, "the operator listens"))
        yield running


@asynccontextmanager
async def refusing(kubeconfig: Path, folder: Path, prefix: str) -> AsyncIterator[Path]:
    """A proxy that answers 503 to every write of a child whose name begins with a prefix."""
    config = yaml.safe_load(await asyncio.to_thread(kubeconfig.read_text))
    api: ApiClient = await connect(kubeconfig)
    target, pool = (
        api.configuration.host,
        aiohttp.TCPConnector(limit=0, ssl=api.rest_client.ssl_context),
    )
    authority = await api.configuration.get_api_key_with_prefix("BearerToken")
    # Unasked, aiohttp would ask for compressed lists.
    async with aiohttp.ClientSession(
        connector=pool, skip_auto_headers=["Accept-Encoding"]
    ) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            body = await request.read()
            # What is created is named in the body alone.
            created = request.method == "POST" and not request.path.endswith("/events")
            name = json.loads(body)["metadata"]["name"] if created else ""
            if name.startswith(prefix) or (
                request.method != "GET" and f"/{prefix}" in request.path
            ):
                return web.json_response({"message": "busy"}, status=503)
            headers = {
                k: request.headers[k] for k in ("Accept", "Content-Type") if k in request.headers
            }
            if authority:
                headers["Authorization"] = authority
            async with session.request(
                request.method,
                target + request.raw_path,
                headers=headers,
                data=body,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as answer:
                response = web.StreamResponse(status=answer.status)
                response.content_type = answer.content_type
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response

        server = web.Server(handle, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}
        path = folder / "refusing.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        try:
            yield path
        finally:
            await runner.cleanup()
            await api.close()


async def at_rest(running: Running, seconds: float = 3.0) -> None:
    """Wait until the operator has neither written nor reconciled for a while."""
    before = (-1.0, -1.0)
    since = time.monotonic()

    async def check() -> bool:
        nonlocal before, since
        now = (await running.writes(), await running.reconciles())
        if now != before:
            before, since = now, time.monotonic()
        return time.monotonic() - since >= seconds

    await until(check, "the operator comes to rest", every_seconds=0.25)
