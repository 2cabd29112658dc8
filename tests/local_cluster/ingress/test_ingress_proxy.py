from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from local_cluster.ingress.endpoints import Backend
from local_cluster.ingress.front import ConnectionSet, FrontConnection
from local_cluster.ingress.proxy import Proxy
from local_cluster.ingress.routing import BackendRef, build_routes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

MAIN = BackendRef("default", "main", 80)
CANARY = BackendRef("default", "canary", 80)


def ingress(
    service: str = "main", annotations: dict[str, str] | None = None, tls: bool = False
) -> dict[str, Any]:
    backend = {"service": {"name": service, "port": {"number": 80}}}
    spec: dict[str, Any] = {
        "rules": [
            {
                "host": "model.test",
                "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
            }
        ]
    }
    if tls:
        spec["tls"] = [{"hosts": ["model.test"], "secretName": "x"}]
    return {
        "metadata": {"name": service, "namespace": "default", "annotations": annotations or {}},
        "spec": spec,
    }


class Front:
    def __init__(self, proxy: Proxy, port: int, session: aiohttp.ClientSession) -> None:
        self.proxy = proxy
        self.port = port
        self._session = session

    def send(self, method: str, path: str = "/", **options: Any) -> Any:
        headers = {"Host": "model.test", **options.pop("headers", {})}
        return self._session.request(
            method, f"http://127.0.0.1:{self.port}{path}", headers=headers, **options
        )


@asynccontextmanager
async def proxying(*ingresses: dict[str, Any], timeout_seconds: float = 5) -> AsyncIterator[Front]:
    proxy = Proxy(timeout_seconds=timeout_seconds)
    proxy.table = build_routes(ingresses or [ingress()])
    proxy.backends = {ref: Backend() for ref in proxy.table.backends()}
    connections = ConnectionSet()
    server = await asyncio.get_running_loop().create_server(
        lambda: FrontConnection(proxy.handle, connections, "http"), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession() as session:
            yield Front(proxy, port, session)
    finally:
        server.close()
        await connections.close(1)
        for backend in proxy.backends.values():
            backend.close()


@asynccontextmanager
async def pod(handler: Handler) -> AsyncIterator[tuple[str, int]]:
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "127.0.0.1", runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_pod(handler: RawHandler) -> AsyncIterator[tuple[str, int]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "127.0.0.1", server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.path_qs,
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "length": len(body),
        }
    )


def named(name: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=name)

    return handler


async def test_request_reaches_the_pod_with_forwarding_headers() -> None:
    async with pod(echo) as address, proxying() as front:
        front.proxy.backends[MAIN].update([address])
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "6.6.6.6", "X-A": "b"}
        async with front.send("POST", "/score?x=1", data=b"abc", headers=headers) as response:
            seen = await response.json()
    assert seen["method"] == "POST"
    assert seen["path"] == "/score?x=1"
    assert seen["length"] == 3
    assert seen["headers"]["host"] == "model.test"
    assert seen["headers"]["x-a"] == "b"
    assert seen["headers"]["x-forwarded-for"] == "127.0.0.1"
    assert seen["headers"]["x-forwarded-proto"] == "http"
    assert seen["headers"]["x-forwarded-host"] == "model.test"
    assert len(seen["headers"]["x-request-id"]) == 32


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 100, 3_000_000])
async def test_bodies_of_any_size_pass_in_both_directions(size: int, chunked: bool) -> None:
    async def mirror(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if not chunked:
            response.content_length = int(request.headers["Content-Length"])
        await response.prepare(request)
        async for piece in request.content.iter_any():
            await response.write(piece)
        return response

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 65_536):
            yield payload[start : start + 65_536]

    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    async with pod(mirror) as address, proxying() as front:
        front.proxy.backends[MAIN].update([address])
        for _ in range(2):
            body = pieces() if chunked else io.BytesIO(payload)
            async with front.send("PUT", data=body) as response:
                assert response.status == 200
                assert await response.read() == payload


async def test_head_and_204_have_no_body_and_the_connection_goes_on() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=204) if request.method == "DELETE" else web.Response(text="abc")

    async with pod(handler) as address, proxying() as front:
        front.proxy.backends[MAIN].update([address])
        for method, status, body in [
            ("HEAD", 200, b""),
            ("DELETE", 204, b""),
            ("GET", 200, b"abc"),
        ]:
            async with front.send(method) as response:
                assert (response.status, await response.read()) == (status, body)


async def test_unknown_host_is_404_and_service_without_pods_503_in_json() -> None:
    async with proxying() as front:
        async with front.send("GET", headers={"Host": "other.test"}) as response:
            assert response.status == 404
            assert "other.test" in (await response.json())["error"]["message"]
        async with front.send("GET") as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert "default/main" in (await response.json())["error"]["message"]


async def test_plain_http_is_redirected_where_the_host_has_tls() -> None:
    async with proxying(ingress(tls=True)) as front:
        front.proxy.https_port = 8443
        for host, location in [
            ("model.test:8080", "https://model.test:8443/score?a=b"),
            ("model.test", "https://model.test/score?a=b"),
        ]:
            async with front.send(
                "POST", "/score?a=b", headers={"Host": host}, allow_redirects=False
            ) as response:
                assert response.status == 308
                assert response.headers["Location"] == location


async def test_refused_connection_moves_any_request_to_another_pod() -> None:
    async with pod(named("dead")) as dead:
        pass
    async with pod(named("alive")) as alive, proxying() as front:
        front.proxy.backends[MAIN].update([dead, alive])
        for _ in range(6):
            async with front.send("POST", data=b"x") as response:
                assert await response.text() == "alive"


async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "annotations", "status"),
    [
        ("GET", {}, 200),
        ("POST", {}, 502),
        ("POST", {"mlscoring.io/retry-non-idempotent": "true"}, 200),
    ],
)
async def test_request_that_a_dying_pod_took_is_repeated_only_when_that_is_safe(
    method: str, annotations: dict[str, str], status: int
) -> None:
    async with (
        raw_pod(dies) as dying,
        pod(named("alive")) as alive,
        proxying(ingress(annotations=annotations)) as front,
    ):
        seen = set()
        for _ in range(2):
            # Both orders of the two pods, so that the dying one is asked first once.
            front.proxy.backends[MAIN].update([dying, alive])
            async with front.send(method) as response:
                seen.add(response.status)
        assert status in seen
        assert seen <= {200, status}


async def test_half_a_response_breaks_the_connection_instead_of_ending_well() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    async with raw_pod(half) as address, proxying() as front:
        front.proxy.backends[MAIN].update([address])
        with pytest.raises(aiohttp.ClientError):
            async with front.send("GET") as response:
                await response.read()


async def test_response_that_ends_with_its_connection_is_complete() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        await writer.drain()

    async with raw_pod(old) as address, proxying() as front:
        front.proxy.backends[MAIN].update([address])
        async with front.send("GET") as response:
            assert await response.text() == "all of it"


async def test_silent_pod_ends_in_504() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_pod(silent) as address, proxying(timeout_seconds=0.05) as front:
        front.proxy.backends[MAIN].update([address])
        async with front.send("GET") as response:
            assert response.status == 504


async def test_early_answer_to_a_large_upload_reaches_the_client() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        writer.write_eof()
        while await reader.read(1 << 16):
            pass

    async with raw_pod(refuse) as address, proxying() as front:
        front.proxy.backends[MAIN].update([address])
        async with front.send("POST", data=io.BytesIO(bytes(5_000_000))) as response:
            assert response.status == 413


async def test_requests_go_to_the_pod_with_fewer_under_way() -> None:
    release = asyncio.Event()
    arrived = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        arrived.set()
        await release.wait()
        return web.Response(text="slow")

    async with pod(slow) as first, pod(named("fast")) as second, proxying() as front:
        backend = front.proxy.backends[MAIN]
        backend.update([first])

        async def held() -> str:
            async with front.send("GET") as response:
                return str(await response.text())

        task = asyncio.create_task(held())
        await arrived.wait()
        backend.update([first, second])
        for _ in range(4):
            async with front.send("GET") as response:
                assert await response.text() == "fast"
        release.set()
        assert await task == "slow"


async def test_pod_that_leaves_finishes_its_request_and_gets_no_new_one() -> None:
    release = asyncio.Event()
    arrived = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        arrived.set()
        await release.wait()
        return web.Response(text="old")

    async with pod(slow) as old, pod(named("new")) as new, proxying() as front:
        backend = front.proxy.backends[MAIN]
        backend.update([old])

        async def held() -> str:
            async with front.send("GET") as response:
                return str(await response.text())

        task = asyncio.create_task(held())
        await arrived.wait()
        backend.update([new])
        async with front.send("GET") as response:
            assert await response.text() == "new"
        release.set()
        assert await task == "old"


async def test_no_request_is_lost_while_pods_come_and_go() -> None:
    async with proxying() as front, contextpods(front) as replace:
        failures: list[int] = []
        stop = asyncio.Event()
        sent = 0

        async def load() -> None:
            nonlocal sent
            while not stop.is_set():
                async with front.send("POST", data=b"x" * 500) as response:
                    await response.read()
                    sent += 1
                    if response.status != 200:
                        failures.append(response.status)

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        for _ in range(10):
            await replace()
        stop.set()
        await asyncio.gather(*tasks)
        assert sent > 100
        assert failures == []


@asynccontextmanager
async def contextpods(front: Front) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    current = pod(named("pod"))
    address = await current.__aenter__()
    backend = front.proxy.backends[MAIN]
    backend.update([address])

    async def replace() -> None:
        nonlocal current, address
        following = pod(named("pod"))
        fresh = await following.__aenter__()
        backend.update([fresh, address])
        for _ in range(50):
            await asyncio.sleep(0)
        backend.update([fresh])
        await current.__aexit__(None, None, None)
        current, address = following, fresh

    try:
        yield replace
    finally:
        await current.__aexit__(None, None, None)


async def test_canary_gets_its_share_and_none_while_it_has_no_pod() -> None:
    annotations = {"mlscoring.io/canary": "true", "mlscoring.io/canary-weight": "50"}
    async with (
        pod(named("main")) as main,
        pod(named("canary")) as canary,
        proxying(ingress(), ingress("canary", annotations)) as front,
    ):
        front.proxy.backends[MAIN].update([main])

        async def answers() -> list[str]:
            found = []
            for _ in range(60):
                async with front.send("GET") as response:
                    found.append(await response.text())
            return found

        assert set(await answers()) == {"main"}
        front.proxy.backends[CANARY].update([canary])
        share = (await answers()).count("canary")
        assert 10 <= share <= 50


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n", 431),
    ],
)
async def test_malformed_requests_are_refused_and_the_connection_closed(
    request_bytes: bytes, status: int
) -> None:
    async with proxying() as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(request_bytes)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["status"] == status


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def path(request: web.Request) -> web.Response:
        return web.Response(text=request.path)

    async with pod(path) as address, proxying() as front:
        front.proxy.backends[MAIN].update([address])
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        head = b" HTTP/1.1\r\nHost: model.test\r\n"
        writer.write(
            b"GET /1" + head + b"\r\nGET /2" + head + b"\r\n"
            b"GET /3" + head + b"Connection: close\r\n\r\n"
        )
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    positions = [answer.find(b"\r\n\r\n/%d" % number) for number in (1, 2, 3)]
    assert -1 not in positions
    assert positions == sorted(positions)


async def test_client_that_waits_for_continue_gets_it() -> None:
    async with pod(echo) as address, proxying() as front:
        front.proxy.backends[MAIN].update([address])
        async with front.send("POST", data=b"x" * 10, expect100=True) as response:
            assert (await response.json())["length"] == 10
