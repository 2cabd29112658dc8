"""A proxy in front of the API server that writes down every call and breaks those that a plan names."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from operator_cluster import _authority
from operator_role import Permission, needed

_GONE = b'{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}\n'


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it came."""

    method: str
    path: str
    watching: bool
    applying: bool

    def permissions(self, status: int) -> set[Permission]:
        """What it needed; `status` is that of the answer."""
        return needed(self.method, self.path, watching=self.watching, status=status)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with a call.

    Args:
        what: `status`: refused with `status`; `lost`: the connection breaks before the server hears of it; `unheard`: the
            server does it, and the connection breaks; `hang`: the server does it, and the answer never comes; `gone`:
            a watch is told that its version is too old; `cut`: a watch breaks off in the middle of an event; `late`:
            the answer, or each piece of a watch, comes late.
        status: for `status`.
        retry_after: header of that name, for `status`.
    """

    what: str
    status: int = 0
    retry_after: str | None = None


Plan = Callable[[Call], Fault | None]


def dice(seed: int, share: float) -> Plan:
    """A plan that breaks a share of the calls in every way that there is."""
    generator = random.Random(seed)
    calls = [
        Fault("status", 409),
        Fault("status", 429, "0"),
        Fault("status", 429, "1"),
        Fault("status", 500),
        Fault("status", 503),
        Fault("status", 504),
        Fault("lost"),
        Fault("unheard"),
        Fault("hang"),
        Fault("late"),
    ]
    watches = [*calls[:2], Fault("lost"), Fault("gone"), Fault("cut"), Fault("late")]

    def plan(call: Call) -> Fault | None:
        if generator.random() >= share:
            return None
        return generator.choice(watches if call.watching else calls)

    return plan


@dataclass
class Gate:
    """The proxy.

    Args:
        kubeconfig: of the API server.
        plan: which calls go wrong, and how.

    Attributes:
        calls: every call with the status of its answer, in the order of the answers.
        faults: how many went wrong.
    """

    kubeconfig: Path
    plan: Plan = lambda _: None
    calls: list[tuple[Call, int]] = field(default_factory=list)
    faults: int = 0

    @asynccontextmanager
    async def open(self, folder: Path) -> AsyncIterator[Path]:
        """Listen, and give a kubeconfig that leads through the proxy."""
        config = yaml.safe_load(self.kubeconfig.read_text())
        target = config["clusters"][0]["cluster"]
        context = ssl.create_default_context(cadata=_authority(target))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

            async def handle(request: web.BaseRequest) -> web.StreamResponse:
                return await self._handle(session, target["server"], request)

            runner = web.ServerRunner(
                web.Server(handle, handler_cancellation=True, access_log=None),
                shutdown_timeout=0.05,
            )
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            config["clusters"][0]["cluster"] = {
                "server": f"http://127.0.0.1:{runner.addresses[0][1]}"
            }
            path = folder / "gate.kubeconfig"
            path.write_text(yaml.safe_dump(config))
            try:
                yield path
            finally:
                await runner.cleanup()

    async def _handle(
        self, session: aiohttp.ClientSession, target: str, request: web.BaseRequest
    ) -> web.StreamResponse:
        call = Call(
            request.method,
            request.path,
            request.query.get("watch") in {"1", "true"},
            "apply-patch" in request.headers.get("Content-Type", ""),
        )
        fault = self.plan(call)
        self.faults += fault is not None
        what = fault.what if fault else ""
        if fault and what == "status":
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            return web.json_response({"message": "fault"}, status=fault.status, headers=headers)
        if what == "lost":
            return _break(request)
        if what == "gone":
            return web.Response(body=_GONE, content_type="application/json")
        body = await request.read()
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in {"host", "content-length"}
        }
        patience = aiohttp.ClientTimeout(total=None)
        async with session.request(
            request.method,
            f"{target}{request.raw_path}",
            headers=headers,
            data=body,
            timeout=patience,
        ) as answer:
            self.calls.append((call, answer.status))
            if what == "unheard":
                await answer.read()
                return _break(request)
            if what == "hang":
                await answer.read()
                await asyncio.Event().wait()
            return await _pass_on(request, answer, what)


async def _pass_on(
    request: web.BaseRequest, answer: aiohttp.ClientResponse, what: str
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status)
    for name in ("Content-Type", "Retry-After"):
        if name in answer.headers:
            response.headers[name] = answer.headers[name]
    await response.prepare(request)
    async for chunk in answer.content.iter_any():
        if what == "late":
            await asyncio.sleep(0.05)
        if what == "cut":
            await response.write(chunk[: len(chunk) // 2])
            return _break(request)
        await response.write(chunk)
    return response


def _break(request: web.BaseRequest) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response()
