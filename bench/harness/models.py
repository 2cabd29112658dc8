"""The load on an operator: ScoringModels created, changed and awaited, and their children as somebody writes them by hand."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from harness.cluster import DOMAIN, INGRESS_CLASS, until
from harness.report import say
from scoring_operator.api import Kind, Kinds, parse_scoring_model
from scoring_operator.certificates import make_certificate
from scoring_operator.cluster import Client, ClusterError, NotFoundError
from scoring_operator.cluster.client import MERGE
from scoring_operator.keys import choose_keys
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.manifests.names import APPLIED_ANNOTATION, TEMPLATE_ANNOTATION
from scoring_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
#: Children of one minimal model on a cluster without extras.
CHILDREN = 7
BATCH = 50


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
    settings = Settings(base_domain=DOMAIN, ingress_class=INGRESS_CLASS)
    exposure = plan_exposure(model, settings)
    assert exposure.host
    wishes = Wishes(keys=choose_keys(None).values, certificate=_pair(exposure.host))
    children = []
    for child in build_children(model, settings, exposure, wishes).manifests:
        child["metadata"].pop("ownerReferences")
        for ours in (APPLIED_ANNOTATION, TEMPLATE_ANNOTATION):
            child["metadata"].get("annotations", {}).pop(ours, None)
        children.append(child)
    return children


def _pair(host: str) -> tuple[bytes, bytes]:
    view = make_certificate(host, days=90, now=datetime.now(UTC))
    return view.pem, view.key_pem


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
    kinds = (
        *(Kinds.DEPLOYMENT, Kinds.SERVICE, Kinds.INGRESS, Kinds.DISRUPTION_BUDGET, Kinds.SECRET),
        Kinds.SERVICE_ACCOUNT,
    )
    total = 0
    for kind in kinds:
        page = await client.call("GET", kind.path(where))
        # Every namespace has an account of its own.
        total += sum(item["metadata"]["name"] != "default" for item in page["items"])
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
    assert found == CHILDREN * len(names), f"{found} children of {len(names)} models"
    return took


async def create_failing(client: Client, where: str, count: int) -> None:
    """Models whose children `refusing(…, "failing-")` does not let through."""
    for number in range(count):
        body = scoring_model(where, f"failing-{number}")
        await client.call("POST", Kinds.SCORING_MODEL.path(where), body=body)


async def apply_by_hand(kubeconfig: Path, folder: Path, where: str, names: Sequence[str]) -> float:
    """`kubectl apply` of all children, one file; seconds."""
    file = folder / "by-hand.json"
    # One List: from a file of many documents kubectl takes three times as long, all of it in its own parser.
    children = [child for name in names for child in hand_written(where, name)]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": children}))
    kubectl = shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))
    began = time.monotonic()
    child = await asyncio.create_subprocess_exec(
        *(kubectl, "--kubeconfig", str(kubeconfig), "apply", "-f", str(file)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await child.wait():
        raise SystemExit("kubectl apply failed")
    return time.monotonic() - began


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
