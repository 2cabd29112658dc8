"""A real API server over a real socket for the operator's tests, and a proxy that brings bad weather."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from local_cluster.apiserver import ApiServer
from scoring_operator.api import Kind, Kinds
from scoring_operator.app import Operator
from scoring_operator.cluster import Client, NotFoundError, connect
from scoring_operator.cluster.client import MERGE
from scoring_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CRDS = Kind(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", False
)
NAMESPACE = "default"
SETTINGS = Settings(base_domain="models.localhost", url_port=8443, ingress_class="local")
WAIT_SECONDS = 60.0


class Api:
    """What a user and the cluster's own controllers do."""

    def __init__(self, client: Client, kubeconfig: Path) -> None:
        self.client = client
        self.kubeconfig = kubeconfig

    async def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        try:
            return await self.client.call("GET", kind.path(NAMESPACE, name))
        except NotFoundError:
            return None

    async def must_get(self, kind: Kind, name: str) -> dict[str, Any]:
        found = await self.get(kind, name)
        assert found is not None, f"{kind.name} {name}"
        return found

    async def list(self, kind: Kind) -> list[dict[str, Any]]:
        page = await self.client.call("GET", kind.path(NAMESPACE))
        return list(page["items"])

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        path = Kinds.of(manifest).path(NAMESPACE)
        return await self.client.call("POST", path, body=manifest)

    async def patch(
        self, kind: Kind, name: str, patch: dict[str, Any], subresource: str = ""
    ) -> dict[str, Any]:
        path = kind.path(NAMESPACE, name) + (f"/{subresource}" if subresource else "")
        return await self.client.call(
            "PATCH", path, query={"fieldManager": "kubectl-edit"}, body=patch, content_type=MERGE
        )

    async def delete(self, kind: Kind, name: str) -> None:
        await self.client.call("DELETE", kind.path(NAMESPACE, name))

    async def ready_condition(self, name: str) -> dict[str, Any]:
        model = await self.must_get(Kinds.SCORING_MODEL, name)
        for condition in model.get("status", {}).get("conditions", ()):
            if condition["type"] == "Ready":
                return dict(condition)
        return {}


def scoring_model(name: str = "faq", **spec: Any) -> dict[str, Any]:
    base = {"modelURI": "https://models.example.com/faq.joblib", "framework": "sklearn"}
    return {
        "apiVersion": "mlscoring.io/v1",
        "kind": "ScoringModel",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {**base, **spec},
    }


@asynccontextmanager
async def running_api(state: Path) -> AsyncIterator[Api]:
    """An API server with the CRD installed."""
    async with ApiServer(state) as server:
        client = Client(await connect(server.kubeconfig))
        api = Api(client, server.kubeconfig)
        try:
            await install_crd(client)
            yield api
        finally:
            await client.close()


async def install_crd(client: Client) -> None:
    """Install the ScoringModel kind, and wait until it is served."""
    crd = yaml.safe_load((ROOT / "crds" / "scoringmodels.yaml").read_text())
    await client.call("POST", CRDS.path(), body=crd)
    await eventually(lambda: _served(client))


async def _served(client: Client) -> bool:
    try:
        await client.call("GET", Kinds.SCORING_MODEL.path())
    except NotFoundError:
        return False
    return True


@asynccontextmanager
async def running_operator(
    kubeconfig: Path, settings: Settings = SETTINGS, **options: Any
) -> AsyncIterator[Operator]:
    operator = Operator(settings, kubeconfig=kubeconfig, **options)
    await operator.start()
    try:
        yield operator
    finally:
        await operator.stop()


async def eventually(
    check: Callable[[], Awaitable[Any]], what: str = "", seconds: float = WAIT_SECONDS
) -> Any:
    """Wait until a check gives something true."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = await check()
                if found:
                    return found
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"did not come true: {what or check}") from None


def writes(operator: Operator) -> int:
    """How many writing calls the operator has made; one that ends in a conflict has written nothing."""
    return int(
        sum(
            sample.value
            for metric in operator.metrics.calls.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
            and sample.labels["verb"] not in {"GET", "WATCH"}
            and sample.labels["code"] != "409"
        )
    )


async def at_rest(operator: Operator) -> None:
    """Wait until the operator has nothing to do and the echo of its own writes has arrived."""

    async def quiet() -> bool:
        before = writes(operator)
        for _ in range(10):
            if not operator.queue.is_idle or writes(operator) != before:
                return False
            await asyncio.sleep(0.02)
        return True

    await eventually(quiet, "the operator comes to rest")


class Weather:
    """A proxy between operator and API server that loses, delays and refuses.

    Args:
        kubeconfig: of the real API server.
        seed: of the dice.
        trouble: share of calls that go wrong.
    """

    def __init__(self, kubeconfig: Path, *, seed: int, trouble: float) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        self._config = config
        self._target = config["clusters"][0]["cluster"]["server"]
        self._ca = config["clusters"][0]["cluster"]
        self._dice = random.Random(seed)
        self.trouble = trouble
        self.troubles = 0

    @asynccontextmanager
    async def blowing(self, folder: Path) -> AsyncIterator[Path]:
        """Listen, and give a kubeconfig that leads through the proxy."""
        context = ssl.create_default_context(cadata=_authority(self._ca))
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            server = web.Server(lambda request: self._handle(session, request))
            runner = web.ServerRunner(server, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            config = {**self._config, "clusters": [{**self._config["clusters"][0]}]}
            config["clusters"][0]["cluster"] = {"server": url}
            path = folder / "weather.kubeconfig"
            path.write_text(yaml.safe_dump(config))
            try:
                yield path
            finally:
                await runner.cleanup()

    async def _handle(
        self, session: aiohttp.ClientSession, request: web.BaseRequest
    ) -> web.StreamResponse:
        watching = "watch=1" in request.query_string
        bad = self._dice.random() < self.trouble
        self.troubles += bad
        kind = self._dice.choice(["429", "500", "503", "409", "lost", "half"]) if bad else ""
        if kind in {"429", "500", "503", "409"} and not watching:
            headers = {"Retry-After": "0"} if kind == "429" else {}
            return web.json_response({"message": "weather"}, status=int(kind), headers=headers)
        if kind == "lost":
            assert request.transport
            request.transport.close()
            return web.Response()
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in {"host", "content-length"}
        }
        body = await request.read()
        url = f"{self._target}{request.raw_path}"
        async with session.request(request.method, url, headers=headers, data=body) as answer:
            if kind == "half" and not watching:
                # The server has done it, and the client never hears of it.
                await answer.read()
                return web.json_response({"message": "weather"}, status=500)
            if watching and bad:
                gone = b'{"type":"ERROR","object":{"code":410,"message":"too old"}}\n'
                return web.Response(body=gone, content_type="application/json")
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            if "Retry-After" in answer.headers:
                response.headers["Retry-After"] = answer.headers["Retry-After"]
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response


def _authority(cluster: dict[str, Any]) -> str:
    import base64

    if "certificate-authority-data" in cluster:
        return base64.b64decode(cluster["certificate-authority-data"]).decode()
    return Path(cluster["certificate-authority"]).read_text()
