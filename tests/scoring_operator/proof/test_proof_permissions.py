"""The operator's Role is what its calls need: nothing is missing, nothing is too much."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from operator_cluster import eventually
from operator_role import Permission, granted
from proof_gate import Gate
from proof_specs import SPECS
from proof_world import NAMESPACE, Object, Place, World, running_world
from test_operator_extensions import definition

from local_cluster.controllers import ControllerManager
from scoring_operator.api import Kind, Kinds
from scoring_operator.cluster import ClusterError
from scoring_operator.cluster.client import MERGE
from scoring_operator.manifests.names import MODEL_LABEL, REVISION_LABEL

#: IngressClasses whose controllers need objects of their own kinds.
CLASSES = {
    "traefik": "traefik.io/ingress-controller",
    "azure": "alb.networking.azure.io/alb-controller",
}
#: Granted although no call needs it, and why.
UNUSED = {
    Permission("mlscoring.io", "scoringmodels/finalizers", "update"): (
        "asked for by the OwnerReferencesPermissionEnforcement admission plugin (OpenShift has it on) when a child names "
        "its ScoringModel with blockOwnerDeletion"
    ),
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as world:
        yield world


@asynccontextmanager
async def process(
    kubeconfig: Path, namespace: str, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The operator as it runs in its Deployment, kopf and leader election included; ends in good order."""
    base = {"BASE_DOMAIN": "models.localhost", "INGRESS_CLASS": "local"}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoring_operator", "--kubeconfig", str(kubeconfig)),
        *("--metrics-port", "0", "--listen", "127.0.0.1"),
        *("--leader-elect", "--lease-namespace", namespace),
        env={**os.environ, **base, **settings},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        await child.wait()


async def install(world: World, kind: Any) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await world.client.call("POST", path, body=definition(kind))

    async def served() -> bool:
        try:
            await world.client.call("GET", kind.path())
        except ClusterError:
            return False
        return True

    await eventually(served)


async def settled(place: Place) -> None:
    async def check() -> bool:
        for model in await place.list(Kinds.SCORING_MODEL):
            status = model.get("status") or {}
            if status.get("observedGeneration") != model["metadata"]["generation"]:
                return False
        return True

    await eventually(check, "every model has a status")


async def gone(place: Place, *children: tuple[Kind, str]) -> None:
    async def check() -> bool:
        return not any([await place.get(kind, name) for kind, name in children])

    await eventually(check, f"{children} are deleted")


async def tell_of_fetched_bytes(place: Place, model: str, *digests: str) -> list[str]:
    """What the kubelet reports of pods whose fetch has ended, one pod for each digest; gives the pods' names."""

    async def some() -> list[Object]:
        pods = await place.list(Kinds.POD)
        mine = [p for p in pods if p["metadata"]["labels"].get(MODEL_LABEL) == model]
        return mine if len(mine) >= len(digests) else []

    pods = (await eventually(some))[: len(digests)]
    for pod, digest in zip(pods, digests, strict=True):
        message = {"reason": "Fetched", "message": "", "digest": f"sha256:{digest}"}
        ended = {
            "exitCode": 0,
            "message": json.dumps(message),
            "finishedAt": "2026-01-01T00:00:00Z",
        }
        fetch = {
            "name": "fetch",
            "image": "i",
            "imageID": "i",
            "ready": True,
            "restartCount": 0,
            "state": {"terminated": ended},
        }
        await place.client.call(
            "PATCH",
            Kinds.POD.path(place.name, pod["metadata"]["name"]) + "/status",
            body={"status": {"initContainerStatuses": [fetch]}},
            content_type=MERGE,
        )
    return [pod["metadata"]["name"] for pod in pods]


async def lose_labels(place: Place, *children: tuple[Kind, str]) -> None:
    """Children without our label are not watched: they are met when they are made again, and read then."""
    label = "app.kubernetes.io/managed-by"
    for kind, name in children:
        await place.patch(kind, name, {"metadata": {"labels": {label: None}}})

    async def back() -> bool:
        found = [await place.get(kind, name) for kind, name in children]
        return all(label in child["metadata"]["labels"] for child in found if child)

    await eventually(back, "the labels are back")


async def live_through_everything(place: Place) -> None:
    """Every spec, every change, every accident that leads to a call of its own."""
    for name, spec in SPECS.items():
        await place.apply_model(name, spec)
    for name in CLASSES:
        await place.apply_model(name, {"ingress": {"className": name, "host": f"{name}.test"}})
    await settled(place)
    await eventually(lambda: place.get(Kinds.HTTP_ROUTE, "gateway"))
    await eventually(lambda: place.get(Kinds.CERTIFICATE, "ingress-issuer-tls"))
    await eventually(lambda: place.get(Kinds.SCALED_OBJECT, "scaled-by-keda"))
    await eventually(lambda: place.get(Kinds.MIDDLEWARE, "traefik-redirect"))
    await eventually(lambda: place.get(Kinds.INGRESS_EXTENSION, "azure"))
    rotate = {"metadata": {"annotations": {"mlscoring.io/rotate": "primary"}}}
    await place.patch(Kinds.SECRET, "minimal-keys", rotate)
    # A model of two pods that fetched different bytes: the first ones are written down, the stray pod is replaced.
    names = await tell_of_fetched_bytes(place, "canary", "a" * 64, "b" * 64)
    pins = await eventually(lambda: place.get(Kinds.CONFIG_MAP, "canary-pins"))

    async def one_left() -> bool:
        pods = [await place.get(Kinds.POD, name) for name in names]
        return sum(bool(p) and "deletionTimestamp" not in p["metadata"] for p in pods) == 1

    await eventually(one_left, "the stray pod is replaced")
    await lose_labels(
        place,
        (Kinds.SERVICE_ACCOUNT, "minimal"),
        (Kinds.SECRET, "minimal-keys"),
        (Kinds.CONFIG_MAP, "canary-pins"),
        (Kinds.SERVICE, "minimal"),
        (Kinds.DEPLOYMENT, "minimal"),
        (Kinds.AUTOSCALER, "scaled-by-cpu"),
        (Kinds.DISRUPTION_BUDGET, "minimal"),
        (Kinds.INGRESS, "minimal"),
        (Kinds.NETWORK_POLICY, "minimal"),
        (Kinds.CERTIFICATE, "ingress-issuer-tls"),
        (Kinds.HTTP_ROUTE, "gateway"),
        (Kinds.SCALED_OBJECT, "scaled-by-keda"),
        (Kinds.INGRESS_EXTENSION, "azure"),
        (Kinds.MIDDLEWARE, "traefik-redirect"),
    )
    # And one that lets go of what was written down.
    await place.apply_model("canary", {"sha256": "c" * 64})
    await settled(place)
    for replica_set in await place.list(Kinds.REPLICA_SET):
        if replica_set["metadata"]["labels"].get(REVISION_LABEL) in pins["data"]:
            await place.delete(Kinds.REPLICA_SET, replica_set["metadata"]["name"])
    await gone(place, (Kinds.CONFIG_MAP, "canary-pins"))
    # What an operator of another version made under another name is not wanted any more.
    budget = await place.get(Kinds.DISRUPTION_BUDGET, "minimal")
    assert budget
    kept = {k: budget["metadata"][k] for k in ("labels", "ownerReferences")}
    budget = {**budget, "metadata": {**kept, "name": "minimal-old"}}
    await place.create(Kinds.DISRUPTION_BUDGET, budget)
    await gone(place, (Kinds.DISRUPTION_BUDGET, "minimal-old"))

    inside = {**SPECS["inside"], **SPECS["workload-identity"], "replicas": 1}
    changed = ("gateway", "ingress-issuer", "scaled-by-cpu", "scaled-by-keda", "gateway-canary")
    for name in (*changed, "fixed-size", *CLASSES):
        await place.apply_model(name, inside)
    await settled(place)
    await gone(
        place,
        (Kinds.HTTP_ROUTE, "gateway"),
        (Kinds.CERTIFICATE, "ingress-issuer-tls"),
        (Kinds.AUTOSCALER, "scaled-by-cpu"),
        (Kinds.SCALED_OBJECT, "scaled-by-keda"),
        (Kinds.DEPLOYMENT, "ingress-issuer-canary"),
        (Kinds.SERVICE_ACCOUNT, "fixed-size"),
        (Kinds.SECRET, "fixed-size-tls"),
        (Kinds.MIDDLEWARE, "traefik-redirect"),
        (Kinds.INGRESS_EXTENSION, "azure"),
    )


async def test_the_role_is_exactly_what_the_operator_uses(world: World, tmp_path: Path) -> None:
    for kind in Kinds.OPTIONAL_CHILDREN:
        await install(world, kind)
    system = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "scoring-system"}}
    await world.client.call("POST", NAMESPACE.path(), body=system)
    for name, controller in CLASSES.items():
        body = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": name},
            "spec": {"controller": controller},
        }
        await world.client.call("POST", Kinds.INGRESS_CLASS.path(), body=body)
    place = await world.place()
    gate = Gate(world.kubeconfig)
    walled = {"NETWORK_POLICY": "Ingress", "NETWORK_POLICY_FROM": "gateways"}
    async with ControllerManager(world.kubeconfig), gate.open(tmp_path) as kubeconfig:
        async with process(kubeconfig, "scoring-system", **walled):
            await live_through_everything(place)
        async with process(kubeconfig, "scoring-system"):
            await gone(place, (Kinds.NETWORK_POLICY, "minimal"))
    used = {permission for call, status in gate.calls for permission in call.permissions(status)}
    assert len(gate.calls) > 300
    assert used - granted() == set(), "calls that the Role does not allow"
    assert granted() - used - set(UNUSED) == set(), "allowed, and never used"
    assert set(UNUSED) <= granted() - used, "an exception that is none"
