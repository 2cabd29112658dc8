from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from local_cluster.apiserver import ApiServer
from local_cluster.client import SERVICES, Client, Informer


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }


async def test_informer_follows_on_after_the_api_server_restarted(tmp_path: Path) -> None:
    server = ApiServer(tmp_path)
    await server.__aenter__()
    try:
        async with Client.from_kubeconfig(server.kubeconfig) as client:
            informer = Informer(client, SERVICES, namespace="default")
            arrived: asyncio.Queue[str] = asyncio.Queue()
            informer.on_change(lambda key, old, new: arrived.put_nowait(key[1]))
            task = asyncio.create_task(informer.run())
            await informer.synced()
            await client.create(SERVICES, service("before"), "default")
            while await arrived.get() != "before":
                pass
            await server.__aexit__(None, None, None)
            server = ApiServer(tmp_path)
            await server.__aenter__()
            await client.create(SERVICES, service("after"), "default")
            async with asyncio.timeout(15):
                while await arrived.get() != "after":
                    pass
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        await server.__aexit__(None, None, None)
