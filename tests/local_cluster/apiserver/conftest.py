"""An API server in this process, and clients for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml

from local_cluster.apiserver import ApiServer


def _find_kubectls() -> list[str]:
    """Every kubectl of this machine, each version once."""
    found: dict[str, str] = {}
    folders = [
        str(Path(os.__file__).parent),
        *os.environ.get("PATH", "").split(os.pathsep),
        "/usr/bin",
    ]
    bin_folder = Path(os.sys.executable).parent  # type: ignore[attr-defined]
    for folder in [str(bin_folder), *folders]:
        path = shutil.which("kubectl", path=folder)
        if path is None or Path(path).resolve() in map(Path, found.values()):
            continue
        result = subprocess.run(
            [path, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False
        )
        if result.returncode == 0:
            version = yaml.safe_load(result.stdout)["clientVersion"]["gitVersion"]
            found.setdefault(version, str(Path(path).resolve()))
    return list(found.values())


@dataclass
class Client:
    """A plain HTTP client with the admin's token."""

    session: aiohttp.ClientSession
    url: str
    token: str
    kubeconfig: Path
    warnings: list[str] = field(default_factory=list)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send a request; returns the status and the decoded answer."""
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        sent = {"Accept": accept, "Content-Type": content_type, **(headers or {})}
        async with self.session.request(
            method, self.url + path, data=data, headers=sent
        ) as response:
            text = await response.read()
            self.warnings = response.headers.getall("Warning", [])
            try:
                return response.status, orjson.loads(text)
            except orjson.JSONDecodeError:
                return response.status, text.decode()

    async def get(self, path: str, **options: Any) -> Any:
        """GET what must be there."""
        status, body = await self.request("GET", path, **options)
        assert status == 200, body
        return body

    async def post(self, path: str, body: Any, **options: Any) -> Any:
        """POST what must be taken."""
        status, answer = await self.request("POST", path, body, **options)
        assert status == 201, answer
        return answer

    async def apply(
        self, path: str, body: Any, *, manager: str = "test", query: str = ""
    ) -> tuple[int, Any]:
        """Apply server-side."""
        return await self.request(
            "PATCH",
            f"{path}?fieldManager={manager}{query}",
            body,
            content_type="application/apply-patch+yaml",
        )

    async def merge(self, path: str, patch: Any) -> tuple[int, Any]:
        """Send a merge patch."""
        return await self.request("PATCH", path, patch, content_type="application/merge-patch+json")

    async def wait_for(self, path: str, condition: Callable[[int, Any], bool]) -> Any:
        """Ask until a condition holds; at most ten seconds."""
        async with asyncio.timeout(10):
            while True:
                status, body = await self.request("GET", path)
                if condition(status, body):
                    return body

    async def wait_gone(self, path: str) -> None:
        """Wait until a path answers 404."""
        await self.wait_for(path, lambda status, _: status == 404)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    async with ApiServer(tmp_path / "state") as running:
        yield running


async def make_client(server: ApiServer) -> Client:
    config = yaml.safe_load(server.kubeconfig.read_text())
    token = config["users"][0]["user"]["token"]
    context = ssl.create_default_context(cafile=str(server.kubeconfig.parent / "ca.crt"))
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=0),
        headers={"Authorization": f"Bearer {token}", "User-Agent": "test/1"},
    )
    return Client(session, server.url, token, server.kubeconfig)


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[Client]:
    made = await make_client(server)
    yield made
    await made.session.close()


@pytest.fixture
def connect() -> Callable[[ApiServer], Awaitable[Client]]:
    return make_client


Kubectl = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture(scope="session")
def kubectl_paths() -> list[str]:
    return _find_kubectls()


@pytest.fixture(params=[0, 1], ids=["first", "second"])
def kubectl_path(request: pytest.FixtureRequest, kubectl_paths: list[str]) -> str:
    if request.param >= len(kubectl_paths):
        pytest.skip("no further kubectl on this machine")
    return kubectl_paths[request.param]


@pytest.fixture
def kubectl(server: ApiServer, kubectl_path: str, tmp_path: Path) -> Kubectl:
    """Run kubectl against the server; returns exit code, output and errors."""

    async def run(*arguments: str, stdin: Any = None, fails: bool = False) -> tuple[int, str, str]:
        environment = {
            "KUBECONFIG": str(server.kubeconfig),
            "HOME": str(tmp_path / "home"),
            "PATH": os.environ["PATH"],
        }
        text = None
        if stdin is not None:
            text = (
                stdin
                if isinstance(stdin, str)
                else yaml.safe_dump_all(stdin if isinstance(stdin, list) else [stdin])
            ).encode()
        process = await asyncio.create_subprocess_exec(
            kubectl_path,
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate(text)
        code = process.returncode or 0
        if not fails:
            assert code == 0, err.decode() + out.decode()
        return code, out.decode(), err.decode()

    return run
