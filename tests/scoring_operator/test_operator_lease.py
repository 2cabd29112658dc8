from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from operator_cluster import eventually

from local_cluster.apiserver import ApiServer
from scoring_operator.cluster import Client, connect
from scoring_operator.cluster.lease import LEASE, Lease, Timing
from scoring_operator.leadership import Leadership

FAST = Timing(duration_seconds=0.6, renew_seconds=0.1, give_up_seconds=0.4, retry_seconds=0.05)


@pytest.fixture
async def server(tmp_path):
    async with ApiServer(tmp_path) as server:
        yield server


@pytest.fixture
async def client(server):
    client = Client(await connect(server.kubeconfig))
    yield client
    await client.close()


def candidate(client, identity, timing=FAST):
    return Lease(client, namespace="default", name="test", identity=identity, timing=timing)


async def holder(client):
    return (await client.call("GET", LEASE.path("default", "test")))["spec"]["holderIdentity"]


async def test_of_many_candidates_one_gets_the_lease(client):
    tasks = [asyncio.create_task(candidate(client, f"c{n}").acquire()) for n in range(5)]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_released_lease_is_taken_at_once(client):
    first, second = candidate(client, "first"), candidate(client, "second", Timing(60, 5, 10, 0.01))
    await first.acquire()
    await first.release()
    await asyncio.wait_for(second.acquire(), 5)
    assert await holder(client) == "second"


async def test_a_silent_holder_is_replaced_and_notices(client):
    first, second = candidate(client, "first"), candidate(client, "second")
    await first.acquire()
    await second.acquire()
    assert await holder(client) == "second"
    await asyncio.wait_for(first.keep(), 5)


async def test_a_renewed_lease_is_not_taken(client):
    first, second = candidate(client, "first"), candidate(client, "second")
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    waiting = asyncio.create_task(second.acquire())
    done, _ = await asyncio.wait(
        [keeping, waiting], timeout=FAST.duration_seconds * 2.5, return_when="FIRST_COMPLETED"
    )
    assert not done
    for task in (keeping, waiting):
        task.cancel()
    await asyncio.gather(keeping, waiting, return_exceptions=True)


async def test_a_restarted_holder_goes_on(client):
    await candidate(client, "pod").acquire()
    again = candidate(client, "pod", Timing(60, 5, 10, 60))
    await asyncio.wait_for(again.acquire(), 5)


async def test_losing_the_lease_stops_the_process(server, client):
    lost = asyncio.Event()
    async with AsyncExitStack() as stack:
        leadership = Leadership(
            kubeconfig=server.kubeconfig,
            namespace="default",
            identity="me",
            on_lost=lost.set,
            timing=FAST,
        )
        stack.push_async_callback(leadership.end)
        await leadership.begin()
        path = LEASE.path("default", "scoring-operator")

        async def take():
            live = await client.call("GET", path)
            live["spec"]["holderIdentity"] = "other"
            try:
                await client.call("PUT", path, body=live)
            except Exception:
                return False
            return True

        await eventually(take)
        await asyncio.wait_for(lost.wait(), 5)
