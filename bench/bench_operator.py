"""`make bench-operator`: a thousand ScoringModels against `kubectl apply` of their hand-written children, in one run.

Starts the local cluster's API server and controllers (no node agent: no pod runs), or works against a given KUBECONFIG,
where it makes namespaces of its own and deletes them. Progress goes to stderr; a table and, as the last line, one JSON
object to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml
from aiohttp import web
from harness.machine import describe_machine
from harness.report import print_goals, print_json_line, print_table, say
from harness.statistics import Goal
from kubernetes.aio.client import ApiClient

from scoring_operator.api import Kind, Kinds, parse_scoring_model
from scoring_operator.certificates import make_certificate
from scoring_operator.cluster import Client, ClusterError, NotFoundError, connect
from scoring_operator.cluster.client import MERGE
from scoring_operator.keys import choose_keys
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.manifests.names import APPLIED_ANNOTATION
from scoring_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
DOMAIN = "models.bench.example.com"
FAILING = 10
PACKAGES = ("scoring-operator", "kopf", "kubernetes", "aiohttp")
# A thousand models took 100 s where this was written; far slower than that, something is broken.
PATIENCE_SECONDS = 1200.0
BATCH = 50


@dataclass
class Measured:
    """What one run has found."""

    operator_seconds: list[float] = field(default_factory=list)
    kubectl_seconds: list[float] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------ processes
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
            INGRESS_CLASS="bench",
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
    async with aiohttp.ClientSession(connector=pool, auto_decompress=False) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if request.method != "GET" and f"/{prefix}" in request.path:
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
                data=await request.read(),
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


# ------------------------------------------------------------------------------------------------------------ manifests
def scoring_model(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """A minimal ScoringModel."""
    base = {"modelURI": f"https://models.example.com/{name}.joblib", "framework": "sklearn"}
    return {
        "apiVersion": "mlscoring.io/v1",
        "kind": "ScoringModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**base, **spec},
    }


def hand_written(namespace: str, name: str) -> list[dict[str, Any]]:
    """What somebody without the operator would write: the same children, without owner and stamp."""
    stored = scoring_model(namespace, name)
    stored["metadata"] |= {"uid": "u", "generation": 1}
    model = parse_scoring_model(stored)
    settings = Settings(base_domain=DOMAIN, ingress_class="bench")
    exposure = plan_exposure(model, settings)
    assert exposure.host
    wishes = Wishes(keys=choose_keys(None).values, certificate=_pair(exposure.host))
    children = []
    for child in build_children(model, settings, exposure, wishes).manifests:
        child["metadata"].pop("ownerReferences")
        child["metadata"].get("annotations", {}).pop(APPLIED_ANNOTATION, None)
        children.append(child)
    return children


def _pair(host: str) -> tuple[bytes, bytes]:
    from datetime import UTC, datetime

    view = make_certificate(host, days=90, now=datetime.now(UTC))
    return view.pem, view.key_pem


# ------------------------------------------------------------------------------------------------------------- measures
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


class Statuses:
    """A watch on the ScoringModels of a namespace: the newest generation that each one's status is about."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._path = Kinds.SCORING_MODEL.path(namespace)
        self.seen: dict[str, int] = {}
        self.news = asyncio.Condition()

    async def run(self) -> None:
        """Watch until cancelled; a broken watch begins anew."""
        while True:
            try:
                page = await self._client.call("GET", self._path)
                for item in page["items"]:
                    await self._note(item)
                query = {"resourceVersion": page["metadata"]["resourceVersion"]}
                async for event in self._client.watch(self._path, query=query, silence_seconds=600):
                    if event["type"] in {"ADDED", "MODIFIED"}:
                        await self._note(event["object"])
            except ClusterError as err:
                say(f"the watch begins anew: {err}")

    async def _note(self, item: dict[str, Any]) -> None:
        generation = (item.get("status") or {}).get("observedGeneration", 0)
        self.seen[item["metadata"]["name"]] = generation
        async with self.news:
            self.news.notify_all()

    async def wait(self, name: str, generation: int) -> None:
        """Until the status of a model is about a generation."""
        async with self.news:
            await self.news.wait_for(lambda: self.seen.get(name, 0) >= generation)


@asynccontextmanager
async def watched(client: Client, namespace: str) -> AsyncIterator[Statuses]:
    """The statuses of a namespace, for as long as they are needed."""
    statuses = Statuses(client, namespace)
    task = asyncio.create_task(statuses.run())
    try:
        yield statuses
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def namespace(client: Client, name: str) -> AsyncIterator[str]:
    """A namespace that goes away with everything in it."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await client.call("POST", NAMESPACE.path(), body=body)
    try:
        yield name
    finally:
        try:
            await client.call("DELETE", NAMESPACE.path(name=name))
            await until(lambda: _gone(client, name), f"namespace {name} is gone", every_seconds=0.5)
        except ClusterError as err:
            say(f"delete the namespace {name} yourself: {err}")


async def _gone(client: Client, name: str) -> bool:
    try:
        await client.call("GET", NAMESPACE.path(name=name))
    except NotFoundError:
        return True
    return False


async def count_children(client: Client, where: str) -> int:
    """How many objects of the children's kinds there are, without what every namespace has."""
    kinds = (Kinds.DEPLOYMENT, Kinds.SERVICE, Kinds.INGRESS, Kinds.DISRUPTION_BUDGET, Kinds.SECRET)
    total = 0
    for kind in kinds:
        page = await client.call("GET", kind.path(where))
        total += len(page["items"])
    return total


async def create_at_once(client: Client, where: str, names: Sequence[str]) -> float:
    """Create the models, many at a time, and wait until every status is there; seconds."""
    gate = asyncio.Semaphore(BATCH)

    async def create(name: str) -> None:
        async with gate:
            path = Kinds.SCORING_MODEL.path(where)
            await client.call("POST", path, body=scoring_model(where, name))

    async with watched(client, where) as statuses:
        began = time.monotonic()
        await asyncio.gather(*(create(name) for name in names))
        for name in names:
            await statuses.wait(name, 1)
        took = time.monotonic() - began
    # A status is written after the children: all of them must be there by now.
    found = await count_children(client, where)
    assert found == 6 * len(names), f"{found} children of {len(names)} models"
    return took


async def apply_by_hand(kubeconfig: Path, folder: Path, where: str, names: Sequence[str]) -> float:
    """`kubectl apply` of all children, one file; seconds."""
    file = folder / "by-hand.json"
    documents = [child for name in names for child in hand_written(where, name)]
    file.write_text("\n".join(map(json.dumps, documents)))
    kubectl = shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))
    began = time.monotonic()
    child = await asyncio.create_subprocess_exec(
        *(kubectl, "--kubeconfig", str(kubeconfig), "apply", "-f", str(file)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await child.wait():
        raise SystemExit("kubectl apply failed")
    return time.monotonic() - began


async def quiet(running: Running, seconds: float = 3.0) -> None:
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


async def change_specs(
    client: Client, where: str, names: Sequence[str], statuses: Statuses, batch_size: int
) -> list[float]:
    """Change one spec after the other; seconds until each one's status is about it."""
    pending: list[asyncio.Task[float]] = []

    async def wait(name: str, generation: int, began: float) -> float:
        await statuses.wait(name, generation)
        return time.monotonic() - began

    for name in names:
        began = time.monotonic()
        answer = await client.call(
            "PATCH",
            Kinds.SCORING_MODEL.path(where, name),
            body={"spec": {"batching": {"maxSize": batch_size}}},
            content_type=MERGE,
        )
        generation = answer["metadata"]["generation"]
        pending.append(asyncio.create_task(wait(name, generation, began)))
    return list(await asyncio.gather(*pending))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# --------------------------------------------------------------------------------------------------------------- phases
async def compare(
    client: Client, kubeconfig: Path, folder: Path, count: int, rounds: int, found: Measured
) -> None:
    """The operator and kubectl in turn, each round in fresh namespaces."""
    names = [f"m{number:04}" for number in range(count)]
    stamp = time.time_ns() // 1_000_000
    for number in range(rounds):

        async def ours(number: int = number) -> None:
            async with operator(folder, kubeconfig) as running:
                await until(running.ready, "the operator is ready")
                async with namespace(client, f"bench-ours-{stamp}-{number}") as where:
                    began = running.process.cpu_seconds()
                    seconds = await create_at_once(client, where, names)
                    found.operator_seconds.append(seconds)
                    used = running.process.cpu_seconds() - began
                    say(f"operator: {count} models in {seconds:.1f} s, {used:.1f} s of CPU")

        async def theirs(number: int = number) -> None:
            async with namespace(client, f"bench-hand-{stamp}-{number}") as where:
                seconds = await apply_by_hand(kubeconfig, folder, where, names)
                found.kubectl_seconds.append(seconds)
                say(f"kubectl apply: the children of {count} models in {seconds:.1f} s")

        # Who comes first changes every round: a growing store would else favour one.
        for turn in (theirs, ours) if number % 2 == 0 else (ours, theirs):
            await turn()


async def live(client: Client, kubeconfig: Path, folder: Path, count: int, found: Measured) -> None:
    """Restart, rest and change with all models there."""
    names = [f"m{number:04}" for number in range(count)]
    numbers = found.numbers
    async with namespace(client, f"bench-live-{time.time_ns() // 1_000_000}") as where:
        async with operator(folder, kubeconfig) as running:
            await until(running.ready, "the operator is ready")
            await create_at_once(client, where, names)
            await quiet(running)
            numbers["peak_mib"] = running.process.peak_memory_mib()
        began = time.monotonic()
        async with operator(folder, kubeconfig) as running:
            await until(running.ready, "the operator is ready")
            numbers["restart_seconds"] = time.monotonic() - began
            # Every model is looked at once after the start.
            await until(lambda: _reconciled(running, count), "every model was looked at")
            numbers["restart_all_seen_seconds"] = time.monotonic() - began
            await quiet(running)
            numbers["restart_writes"] = await running.writes()
            say(
                f"restart: ready in {numbers['restart_seconds']:.1f} s, all models seen after "
                f"{numbers['restart_all_seen_seconds']:.1f} s, {numbers['restart_writes']:.0f} writes"
            )
            writes, cpu = await running.writes(), running.process.cpu_seconds()
            await asyncio.sleep(20)
            numbers["idle_writes"] = await running.writes() - writes
            numbers["idle_cpu_percent"] = (running.process.cpu_seconds() - cpu) / 20 * 100
            numbers["resident_mib"] = running.process.memory_mib()
            numbers["peak_mib"] = max(numbers["peak_mib"], running.process.peak_memory_mib())
            say(f"idle: {numbers['idle_cpu_percent']:.2f} % CPU, {numbers['resident_mib']:.0f} MiB")
        await change_among_failing(client, kubeconfig, folder, where, names, numbers)


async def _reconciled(running: Running, count: int) -> bool:
    return await running.reconciles() >= count


async def change_among_failing(
    client: Client,
    kubeconfig: Path,
    folder: Path,
    where: str,
    names: Sequence[str],
    numbers: dict[str, float],
) -> None:
    """Change every spec, without and with models whose children the API server answers with 503."""
    half = len(names) // 2
    async with (
        refusing(kubeconfig, folder, "failing-") as through,
        operator(folder, through) as running,
        watched(client, where) as statuses,
    ):
        await until(running.ready, "the operator is ready")
        await quiet(running)
        calm = await change_specs(client, where, names[:half], statuses, 16)
        for number in range(FAILING):
            path = Kinds.SCORING_MODEL.path(where)
            body = scoring_model(where, f"failing-{number}")
            await client.call("POST", path, body=body)
        among = await change_specs(client, where, names[half:], statuses, 16)
    numbers["change_p50_seconds"] = statistics.median(calm)
    numbers["change_p99_seconds"] = percentile(calm, 0.99)
    numbers["change_among_failing_p50_seconds"] = statistics.median(among)
    numbers["change_among_failing_p99_seconds"] = percentile(among, 0.99)
    say(
        f"spec changes: {statistics.median(calm):.2f} / {percentile(calm, 0.99):.2f} s (p50 / p99), with {FAILING} "
        f"failing models {statistics.median(among):.2f} / {percentile(among, 0.99):.2f} s"
    )


def judge(found: Measured, *, local: bool) -> list[Goal]:
    """Goals and whether they hold."""
    ratios = [
        ours / theirs
        for ours, theirs in zip(found.operator_seconds, found.kubectl_seconds, strict=True)
    ]
    numbers = found.numbers
    wait = numbers["change_among_failing_p99_seconds"] / max(numbers["change_p99_seconds"], 0.001)
    return [
        Goal(
            "time against kubectl apply",
            statistics.median(ratios) if ratios else None,
            1.0 if local else 0.5,
            at_least=False,
            note="until all children and statuses are there, against kubectl apply of the children",
        ),
        Goal("restart seconds", numbers["restart_seconds"], 15, at_least=False, note="to ready"),
        Goal("restart writes", numbers["restart_writes"], 0, at_least=False),
        Goal("peak memory MiB", numbers["peak_mib"], 300, at_least=False, note="resident, peak"),
        Goal("idle writes", numbers["idle_writes"], 0, at_least=False, note="in 20 s"),
        Goal("idle CPU percent", numbers["idle_cpu_percent"], 1, at_least=False, note="over 20 s"),
        Goal(
            "wait behind failing models",
            wait,
            1.5,
            at_least=False,
            note=f"p99 of a spec change with {FAILING} failing models, against without",
        ),
    ]


async def measure(options: argparse.Namespace, folder: Path, kubeconfig: Path) -> Measured:
    """All phases against one API server."""
    client = Client(await connect(kubeconfig))
    found = Measured()
    try:
        await install_kind(client)
        if options.rounds:
            await compare(client, kubeconfig, folder, options.models, options.rounds, found)
        await live(client, kubeconfig, folder, options.models, found)
    finally:
        await client.close()
    return found


async def install_kind(client: Client) -> None:
    """The ScoringModel kind, unless it is there."""
    crd = yaml.safe_load((ROOT / "crds" / "scoringmodels.yaml").read_text())
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    try:
        await client.call("GET", f"{path}/{crd['metadata']['name']}")
    except NotFoundError:
        await client.call("POST", path, body=crd)

    async def served() -> bool:
        try:
            await client.call("GET", Kinds.SCORING_MODEL.path())
        except NotFoundError:
            return False
        return True

    await until(served, "the ScoringModel kind is served")


async def run(options: argparse.Namespace) -> int:
    """Measure, print, judge."""
    about = {"machine": describe_machine(PACKAGES), "models": options.models}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.kubeconfig:
            found = await measure(options, folder, options.kubeconfig)
        else:
            async with local_api(folder) as kubeconfig:
                found = await measure(options, folder, kubeconfig)
    rows = [
        ["operator", ", ".join(f"{s:.1f}" for s in found.operator_seconds)],
        ["kubectl apply", ", ".join(f"{s:.1f}" for s in found.kubectl_seconds)],
        *[[key.replace("_", " "), f"{value:.2f}"] for key, value in found.numbers.items()],
    ]
    print_table(f"{options.models} ScoringModels", ["what", "seconds, MiB or percent"], rows)
    goals = judge(found, local=options.kubeconfig is None)
    print_goals(goals)
    print_json_line("operator", goals, about)
    return 0 if all(goal.holds is not False for goal in goals) else 1


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="bench_operator", description=__doc__)
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        help="a cluster to measure on, with an ingress or without (default: an API server and controllers of its own)",
    )
    parser.add_argument("--models", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--rounds", type=int, default=1, help="comparisons (default: 1; 0: none)")
    parser.add_argument("--quick", action="store_true", help="100 models, one round")
    options = parser.parse_args()
    if options.quick:
        options.models, options.rounds = 100, 1
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
