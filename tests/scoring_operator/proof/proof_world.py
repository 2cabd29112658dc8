"""A namespace of a real API server, and what must be true of it once the operator has come to rest."""

from __future__ import annotations

import base64
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from operator_cluster import SETTINGS, install_crd
from proof_specs import manifest

from local_cluster.apiserver import ApiServer
from scoring_operator.api import Kind, Kinds, parse_scoring_model
from scoring_operator.cluster import Client, ConflictError, NotFoundError, connect
from scoring_operator.cluster.client import APPLY, MERGE
from scoring_operator.manifests import Wishes, build_children, plan_exposure

NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
Object = dict[str, Any]


class Place:
    """One namespace, as a user sees it.

    Args:
        client: to the API server.
        name: of the namespace.

    Attributes:
        foreign: objects of somebody else, as they were made.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name
        self.foreign: dict[tuple[str, str], Object] = {}

    async def get(self, kind: Kind, name: str) -> Object | None:
        try:
            return await self.client.call("GET", kind.path(self.name, name))
        except NotFoundError:
            return None

    async def list(self, kind: Kind) -> list[Object]:
        return list((await self.client.call("GET", kind.path(self.name)))["items"])

    async def create(self, kind: Kind, body: Object) -> Object:
        body = copy.deepcopy(body)
        body["metadata"]["namespace"] = self.name
        return await self.client.call("POST", kind.path(self.name), body=body)

    async def apply_model(self, name: str, spec: Object) -> None:
        """Create a model, or replace its spec, as `kubectl apply --server-side` does."""
        body = manifest(name, **spec)
        body["metadata"]["namespace"] = self.name
        await self.client.call(
            "PATCH",
            Kinds.SCORING_MODEL.path(self.name, name),
            query={"fieldManager": "kubectl", "force": "true"},
            body=body,
            content_type=APPLY,
        )

    async def patch(self, kind: Kind, name: str, patch: Object) -> None:
        await self.client.call(
            "PATCH",
            kind.path(self.name, name),
            query={"fieldManager": "somebody"},
            body=patch,
            content_type=MERGE,
        )

    async def delete(self, kind: Kind, name: str) -> None:
        try:
            await self.client.call("DELETE", kind.path(self.name, name))
        except NotFoundError:
            return

    async def make_foreign(self, kind: Kind, name: str) -> None:
        """Put an object of somebody else where a child would be, unless something is there."""
        if await self.get(kind, name) is not None:
            return
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": {"name": name},
            **_FOREIGN[kind],
        }
        with suppress(ConflictError):  # the operator was faster
            self.foreign[kind.name, name] = await self.create(kind, body)

    async def problems(self) -> list[str]:
        """What is not as it should be; empty once everything has converged."""
        found: list[str] = []
        live = {
            (kind.name, item["metadata"]["name"]): item
            for kind in Kinds.CHILDREN
            for item in await self.list(kind)
        }
        for at, made in self.foreign.items():
            if live.get(at) != {k: v for k, v in made.items() if k not in {"apiVersion", "kind"}}:
                found.append(f"{at} of somebody else was touched")
        models = await self.list(Kinds.SCORING_MODEL)
        owners = {model["metadata"]["uid"] for model in models}
        for at, item in live.items():
            for reference in item["metadata"].get("ownerReferences") or ():
                if reference["uid"] not in owners:
                    found.append(f"{at} is still there without its model")
        for model in models:
            found += self._model_problems(model, live)
        return found

    def _model_problems(self, stored: Object, live: dict[tuple[str, str], Object]) -> list[str]:
        model = parse_scoring_model(stored)
        status = stored.get("status") or {}
        generation = stored["metadata"]["generation"]
        if status.get("observedGeneration") != generation:
            return [f"{model.name}: status is about another generation"]
        ready = next(c for c in status["conditions"] if c["type"] == "Ready")
        if ready["observedGeneration"] != generation:
            return [f"{model.name}: Ready is about another generation"]
        exposure = plan_exposure(model, SETTINGS)
        keys = live.get(("Secret", f"{model.name}-keys"), {}).get("data") or {}
        pair = live.get(("Secret", f"{model.name}-tls"), {}).get("data") or {}
        wishes = Wishes(
            replicas=None if model.autoscaling else model.replicas,
            keys={n: base64.b64decode(keys.get(n, "")).decode() for n in ("primary", "secondary")}
            if not model.auth.secret_name and model.auth.mode == "APIKey"
            else {},
            certificate=(
                base64.b64decode(pair.get("tls.crt", "")),
                base64.b64decode(pair.get("tls.key", "")),
            )
            if exposure.host and not model.gateway
            else None,
        )
        found, blocked, wanted = [], False, set()
        for child in build_children(model, SETTINGS, exposure, wishes).manifests:
            at = (child["kind"], child["metadata"]["name"])
            wanted.add(at)
            if at in self.foreign:
                blocked = True
            elif at not in live:
                found.append(f"{at} is missing")
            else:
                found += [f"{at}{path}" for path in _differences(child, live[at])]
                if child["kind"] == "Secret" and not all(child["data"].values()):
                    found.append(f"{at} is empty")
        if blocked:
            if ready["reason"] != "NameTaken":
                found.append(f"{model.name}: NameTaken is not told but {ready['reason']}")
            return found
        for at, item in live.items():
            references = item["metadata"].get("ownerReferences") or ()
            if at not in wanted and any(r["uid"] == model.uid for r in references):
                found.append(f"{at} is no longer wanted")
        return found


_FOREIGN: dict[Kind, Object] = {
    Kinds.SERVICE: {"spec": {"selector": {"app": "mine"}, "ports": [{"port": 1234}]}},
    Kinds.SERVICE_ACCOUNT: {},
    Kinds.SECRET: {"stringData": {"primary": "mine"}},
    Kinds.DISRUPTION_BUDGET: {
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "mine"}}}
    },
}
#: Kinds of which somebody else may have one under a child's name.
FOREIGN_KINDS = tuple(_FOREIGN)


def _differences(wanted: Any, live: Any, path: str = "") -> list[str]:
    """Paths at which a stored object lacks what was applied; what others added is no difference."""
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return [path] if wanted else []
        return [
            found
            for name, value in wanted.items()
            if not (path == "" and name in {"apiVersion", "kind"})
            for found in _differences(value, live.get(name), f"{path}.{name}")
        ]
    if isinstance(wanted, list):
        rest = live if isinstance(live, list) else []
        return [
            f"{path}[{index}]"
            for index, value in enumerate(wanted)
            if not any(_differences(value, item) == [] for item in rest)
        ]
    return [] if wanted == live else [f"{path}: {live!r} instead of {wanted!r}"]


class World:
    """An API server with the ScoringModel kind, and namespaces in it.

    Args:
        client: to the API server.
        kubeconfig: of the same.
        folder: for kubeconfigs of proxies.
    """

    def __init__(self, client: Client, kubeconfig: Path, folder: Path) -> None:
        self.client = client
        self.kubeconfig = kubeconfig
        self.folder = folder
        self._count = 0

    async def place(self) -> Place:
        """A fresh namespace."""
        self._count += 1
        name = f"place-{self._count}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await self.client.call("POST", NAMESPACE.path(), body=body)
        return Place(self.client, name)


@asynccontextmanager
async def running_world(folder: Path) -> AsyncIterator[World]:
    """Start an API server in this loop."""
    async with ApiServer(folder) as server:
        client = Client(await connect(server.kubeconfig))
        try:
            await install_crd(client)
            yield World(client, server.kubeconfig, folder)
        finally:
            await client.close()
