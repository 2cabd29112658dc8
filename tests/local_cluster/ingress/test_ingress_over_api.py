from __future__ import annotations

import asyncio
import base64
import io
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from local_cluster.apiserver import ApiServer
from local_cluster.client import (
    ENDPOINTSLICES,
    INGRESSCLASSES,
    INGRESSES,
    SECRETS,
    SERVICES,
    Client,
)
from local_cluster.ingress import IngressController

Secrets = Callable[[str], dict[str, Any]]


@pytest.fixture
def secret(self_signed: Callable[..., tuple[bytes, bytes]]) -> Secrets:
    """Makes a TLS Secret for a host."""

    def build(host: str) -> dict[str, Any]:
        names = ("tls.crt", "tls.key")
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "tls"},
            "type": "kubernetes.io/tls",
            "data": {
                name: base64.b64encode(pem).decode()
                for name, pem in zip(names, self_signed(host), strict=True)
            },
        }

    return build


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"ports": [{"name": "http", "port": 80}]},
}


def ingress(**spec: Any) -> dict[str, Any]:
    backend = {"service": {"name": "web", "port": {"name": "http"}}}
    rule = {
        "host": "web.test",
        "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {"ingressClassName": "local", "rules": [rule], **spec},
    }


def slice_of(*ports: int, name: str = "web-1") -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": port} for port in ports],
    }


@asynccontextmanager
async def pod(text: str) -> AsyncIterator[int]:
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=f"{text} {request.headers['X-Forwarded-Proto']}")

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class World:
    def __init__(self, client: Client, controller: IngressController) -> None:
        self.client = client
        self.controller = controller

    async def get(
        self, scheme: str = "http", trust: dict[str, str] | None = None
    ) -> tuple[int, str]:
        context = ssl.create_default_context()
        if trust is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_verify_locations(cadata=base64.b64decode(trust["tls.crt"]).decode())
        port = self.controller.https_port if scheme == "https" else self.controller.http_port
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                f"{scheme}://127.0.0.1:{port}/",
                headers={"Host": "web.test"},
                ssl=context,
                server_hostname="web.test" if scheme == "https" else None,
                allow_redirects=False,
            ) as response,
        ):
            return response.status, await response.text()

    async def eventually(self, check: Callable[[], Awaitable[bool]]) -> None:
        # The controller follows watches of its own: only asking tells that it has caught up.
        async with asyncio.timeout(10):
            while not await check():  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        ApiServer(tmp_path) as server,
        Client.from_kubeconfig(server.kubeconfig) as client,
        IngressController(
            server.kubeconfig, http_port=0, https_port=0, drain_seconds=1
        ) as controller,
    ):
        yield World(client, controller)


async def test_ingress_class_is_created_as_the_default(world: World) -> None:
    found = await world.client.get(INGRESSCLASSES, "local")
    assert found["spec"]["controller"] == "mlscoring.io/local-ingress"
    assert found["metadata"]["annotations"] == {
        "ingressclass.kubernetes.io/is-default-class": "true"
    }


async def test_ingress_serves_its_service_and_gets_its_address(world: World) -> None:
    async with pod("hello") as port:
        await world.client.create(SERVICES, SERVICE, "default")
        await world.client.create(ENDPOINTSLICES, slice_of(port), "default")
        await world.client.create(INGRESSES, ingress(), "default")

        async def served() -> bool:
            return await world.get() == (200, "hello http")

        await world.eventually(served)

        async def has_address() -> bool:
            item = await world.client.get(INGRESSES, "web", "default")
            return bool(item.get("status", {}).get("loadBalancer", {}).get("ingress"))

        await world.eventually(has_address)
        item = await world.client.get(INGRESSES, "web", "default")
        (address,) = item["status"]["loadBalancer"]["ingress"]
        assert address["ip"] == "127.0.0.1"
        assert address["ports"] == [{"port": world.controller.http_port, "protocol": "TCP"}]
        await world.client.delete(INGRESSES, "web", "default")

        async def gone() -> bool:
            return (await world.get())[0] == 404

        await world.eventually(gone)


async def test_certificate_comes_from_its_secret_and_is_renewed_without_restart(
    world: World, secret: Secrets
) -> None:
    async with pod("hello") as port:
        first = secret("web.test")
        await world.client.create(SECRETS, first, "default")
        await world.client.create(SERVICES, SERVICE, "default")
        await world.client.create(ENDPOINTSLICES, slice_of(port), "default")
        tls = [{"hosts": ["web.test"], "secretName": "tls"}]
        await world.client.create(INGRESSES, ingress(tls=tls), "default")

        async def verified_by(trust: dict[str, str]) -> bool:
            try:
                return await world.get("https", trust) == (200, "hello https")
            except aiohttp.ClientSSLError:
                return False

        await world.eventually(lambda: verified_by(first["data"]))
        assert (await world.get())[0] == 308
        second = secret("web.test")
        await world.client.patch(SECRETS, "tls", "default", {"data": second["data"]})
        await world.eventually(lambda: verified_by(second["data"]))
        assert not await verified_by(first["data"])


async def test_unknown_host_over_tls_gets_the_default_certificate_and_404(world: World) -> None:
    assert (await world.get("https"))[0] == 404


async def test_no_request_is_lost_while_endpoints_are_replaced(world: World) -> None:
    await world.client.create(SERVICES, SERVICE, "default")
    await world.client.create(INGRESSES, ingress(), "default")
    async with pod("one") as first:
        await world.client.create(ENDPOINTSLICES, slice_of(first), "default")

        async def served() -> bool:
            return (await world.get())[0] == 200

        await world.eventually(served)
        stop = asyncio.Event()
        seen: set[tuple[int, str]] = set()

        async def load() -> None:
            while not stop.is_set():
                seen.add(await world.get())

        tasks = [asyncio.create_task(load()) for _ in range(3)]
        async with pod("two") as second:
            await world.client.create(ENDPOINTSLICES, slice_of(second, name="web-2"), "default")
            await world.client.delete(ENDPOINTSLICES, "web-1", "default")

            async def moved() -> bool:
                return (200, "two http") in seen

            await world.eventually(moved)
            stop.set()
            await asyncio.gather(*tasks)
    assert {status for status, _ in seen} == {200}


async def test_requests_go_on_while_the_api_server_restarts(tmp_path: Path) -> None:
    async with pod("hello") as port:
        server = ApiServer(tmp_path)
        await server.__aenter__()
        try:
            async with (
                Client.from_kubeconfig(server.kubeconfig) as client,
                IngressController(
                    server.kubeconfig, http_port=0, https_port=0, drain_seconds=1
                ) as controller,
            ):
                world = World(client, controller)
                await client.create(SERVICES, SERVICE, "default")
                await client.create(INGRESSES, ingress(), "default")
                await client.create(ENDPOINTSLICES, slice_of(port), "default")

                async def served() -> bool:
                    return (await world.get())[0] == 200

                await world.eventually(served)
                await server.__aexit__(None, None, None)
                assert await served()
                server = ApiServer(tmp_path)
                await server.__aenter__()
                await client.delete(INGRESSES, "web", "default")

                async def gone() -> bool:
                    return (await world.get())[0] == 404

                await world.eventually(gone)
        finally:
            await server.__aexit__(None, None, None)


async def test_program_prints_its_ports_serves_and_stops_on_sigterm(
    tmp_path: Path, secret: Secrets
) -> None:
    async with pod("hello") as port, ApiServer(tmp_path) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "local_cluster.ingress",
            "--kubeconfig",
            str(server.kubeconfig),
            "--http-port",
            "0",
            "--https-port",
            "0",
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                ports = json.loads(await process.stdout.readline())
            async with (
                Client.from_kubeconfig(server.kubeconfig) as client,
                aiohttp.ClientSession(headers={"Host": "web.test"}) as session,
            ):
                await client.create(SECRETS, secret("web.test"), "default")
                await client.create(SERVICES, SERVICE, "default")
                await client.create(ENDPOINTSLICES, slice_of(port), "default")
                await client.create(INGRESSES, ingress(), "default")
                url = f"https://127.0.0.1:{ports['httpsPort']}/"
                body = bytes(3_000_000)
                async with asyncio.timeout(20):
                    while True:
                        async with session.post(url, data=io.BytesIO(body), ssl=False) as response:
                            if response.status == 200:
                                assert await response.text() == "hello https"
                                break
        finally:
            process.terminate()
            async with asyncio.timeout(20):
                assert await process.wait() == 0
