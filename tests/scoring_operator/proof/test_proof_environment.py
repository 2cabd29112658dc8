"""Proxies: what the environment says of them is heard, what it says of passwords is not, and their pages are no answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from proof_world import World, running_world

from scoring_operator.api import Kinds
from scoring_operator.cluster import Client, TransientError, connect

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: "https://api.example.com:6443"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as world:
        yield world


async def test_a_netrc_entry_for_the_api_servers_host_changes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    client = Client(await connect(world.kubeconfig))
    try:
        assert (await client.call("GET", Kinds.SCORING_MODEL.path()))["items"] == []
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("bypassed", "proxy"),
    [("", "http://proxy:3128"), ("api.example.com", None), (".example.com", None), ("*", None)],
)
async def test_the_proxy_of_the_environment_is_used_unless_it_is_bypassed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bypassed: str, proxy: str | None
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", bypassed)
    for name in ("https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    client = await connect(kubeconfig)
    assert client.configuration.proxy == proxy
    await client.close()


async def test_an_answer_that_is_no_json_is_weather(tmp_path: Path) -> None:
    """A proxy or a portal on the way answers 200 with a page of its own."""

    async def page(request: web.BaseRequest) -> web.Response:
        return web.Response(text="<html>please log in</html>", content_type="text/html")

    runner = web.ServerRunner(web.Server(page))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = yaml.safe_load(KUBECONFIG)
    config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    client = Client(await connect(kubeconfig))
    try:
        with pytest.raises(TransientError, match="no JSON object"):
            await client.call("GET", Kinds.SCORING_MODEL.path())
    finally:
        await client.close()
        await runner.cleanup()
