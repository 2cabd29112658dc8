"""Progress of a download: asked of the pod, told in whole steps, done without where nobody answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from operator_cluster import eventually

from scoring_operator.cluster import Download, downloads
from scoring_operator.cluster.downloads import Downloads
from scoring_operator.status.pods import derive_finding, describe_download
from scoring_operator.status.reasons import Reason

MIB = 1 << 20


@asynccontextmanager
async def fetching_pod(answer):
    """Something that answers as the fetcher does; gives its port and the requests that came."""
    asked = []

    async def handle(request):
        asked.append(request.path)
        return await answer()

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1], asked
    finally:
        await runner.cleanup()


def pod(uid="u", address="127.0.0.1"):
    running = {"name": "fetch", "state": {"running": {}}}
    status = {"podIP": address, "initContainerStatuses": [running]}
    return {"metadata": {"name": "faq-1", "uid": uid}, "status": status}


@pytest.fixture
async def asking():
    made = []

    def make(port):
        made.append(Downloads(port))
        return made[-1]

    yield make
    for item in made:
        await item.close()


async def told(found, subject=None):
    async def check():
        return found.known(subject or pod())

    return await eventually(check)


async def test_a_pod_tells_how_far_it_is_and_is_not_asked_all_the_time(asking):
    async def answer():
        return web.json_response({"bytes": 5, "totalBytes": 10})

    async with fetching_pod(answer) as (port, asked):
        found = asking(port)
        assert await told(found) == Download(5, 10)
        for _ in range(20):
            found.known(pod())
            await asyncio.sleep(0)
        assert asked == ["/progress"]


@pytest.mark.parametrize(
    "reply",
    [
        lambda: web.Response(status=404),
        lambda: web.Response(text="no json"),
        lambda: web.json_response({"bytes": "many"}),
        lambda: web.json_response([1]),
        lambda: web.Response(text="1" * 100_000),
    ],
)
async def test_an_answer_of_somebody_else_is_no_answer(asking, monkeypatch, reply):
    monkeypatch.setattr(downloads, "_PERIOD_SECONDS", 0.001)

    async def answer():
        return reply()

    async with fetching_pod(answer) as (port, asked):
        found = asking(port)

        async def asked_twice():
            assert found.known(pod()) is None
            return len(asked) >= 2

        await eventually(asked_twice)


async def test_a_pod_that_does_not_answer_holds_up_nobody_and_is_asked_less_and_less(
    asking, monkeypatch
):
    monkeypatch.setattr(downloads, "_PERIOD_SECONDS", 0.001)
    monkeypatch.setattr(downloads, "_LONGEST_SECONDS", 0.1)
    silent = asyncio.Event()

    async def answer():
        await silent.wait()
        return web.Response()

    async with fetching_pod(answer) as (port, asked):
        found = asking(port)
        assert found.known(pod()) is None

        async def arrived():
            assert found.known(pod()) is None
            return asked

        await eventually(arrived)
        assert len(asked) == 1
        silent.set()


async def test_a_pod_without_an_address_is_not_asked(asking):
    assert asking(1).known(pod(address="")) is None


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (0, 200 * MIB, "0 of 200 MiB (0 %)"),
        (51 * MIB, 200 * MIB, "50 of 200 MiB (25 %)"),
        (200 * MIB, 200 * MIB, "200 of 200 MiB (100 %)"),
        (300 * MIB, 200 * MIB, "200 of 200 MiB (100 %)"),
        (10 * MIB, 0, "it has begun"),
        (65 * MIB, 0, "more than 64 MiB"),
        (1000 * MIB, 0, "more than 512 MiB"),
    ],
)
def test_progress_is_told_in_mib_and_percent(done, total, text):
    assert describe_download(done, total) == text


def test_a_download_changes_status_a_hundred_times_at_most():
    total = 10_000 * MIB
    texts = {describe_download(done, total) for done in range(0, total, MIB)}
    assert len(texts) <= 101


def test_status_shows_the_progress(model):
    finding = derive_finding([pod()], model(), {"faq-1": "50 of 200 MiB (25 %)"})
    assert finding.reason is Reason.MODEL_DOWNLOADING
    assert finding.text() == "pod faq-1 is fetching the model: 50 of 200 MiB (25 %)."
    assert not finding.failed
