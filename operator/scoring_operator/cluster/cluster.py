"""The cluster as reconcile sees it: caches to read from, and the few writes that it needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from scoring_operator.api import Key, Kind, Kinds, Manifest, ScoringModel
from scoring_operator.cluster.client import APPLY, MERGE, Client
from scoring_operator.cluster.content import merge_diff, trim_observed, trim_owned
from scoring_operator.cluster.discovery import Discovery
from scoring_operator.cluster.downloads import Download, Downloads
from scoring_operator.cluster.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
)
from scoring_operator.cluster.informer import Informer
from scoring_operator.cluster.ownership import (
    as_applied,
    check_owner,
    controller_uid,
    is_as_applied,
    is_owned,
    lost_fields,
    stamp,
    was_applied,
)
from scoring_operator.manifests.names import (
    INSTANCE_LABEL,
    MANAGED_BY_SELECTOR,
    MANAGER,
    PROBE_PORT,
)

_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
# How long it holds that a ScoringModel exists: about as long as making its children takes.
_CONFIRMED_SECONDS = 2.0


class Cluster:
    """Caches, and writes that happen only when something differs.

    Args:
        client: to the API server.
        namespace: the only namespace to look at; None for all.
        on_change: called with the key of a ScoringModel when it or one of its children changed.
    """

    def __init__(
        self, client: Client, *, namespace: str | None, on_change: Callable[[Key], None]
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._on_change = on_change
        self._informers: dict[Kind, Informer] = {}
        self._tasks: list[asyncio.Task[None]] = []
        #: What kinds, groups and version the cluster has.
        self.discovery = Discovery(client)
        self._downloads = Downloads(PROBE_PORT)
        self._confirmed: dict[Key, tuple[str, float]] = {}
        # Fields that somebody took from us in the very moment of applying (an admission webhook): applying them again
        # would change nothing, forever.
        self._ceded: dict[tuple[Kind, str, str], tuple[Manifest, frozenset[str]]] = {}

    async def start(self) -> None:
        """Start watching, and wait until all caches are filled.

        Raises:
            ClusterError: the ScoringModel kind is not installed, or must not be read.
        """
        # Fails early and with a reason where a watch would only retry in silence.
        await self._client.call(
            "GET", Kinds.SCORING_MODEL.path(self._namespace), query={"limit": "1"}
        )
        self._watch(Kinds.SCORING_MODEL, selector="", key_of=_key_of_model)
        for kind in (*Kinds.CHILDREN, *Kinds.OBSERVED):
            self._watch_children(kind)
        for kind in Kinds.OPTIONAL_CHILDREN:
            if await self.discovery.serves(kind):
                self._watch_children(kind)
        await self._watch_ingress_classes()
        await asyncio.gather(*(i.synced.wait() for i in self._informers.values()))

    async def stop(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._downloads.close()

    def seconds_since_contact(self) -> float:
        """Age of the oldest sign of life among all watches."""
        now = time.monotonic()
        return max((now - i.last_contact for i in self._informers.values()), default=0.0)

    def stopped_watching(self) -> bool:
        """Whether a watch has ended that never should."""
        return any(task.done() for task in self._tasks)

    def models(self) -> Iterable[Manifest]:
        """All ScoringModels."""
        return self._informers[Kinds.SCORING_MODEL].all()

    def model(self, key: Key) -> Manifest | None:
        """The ScoringModel as last seen."""
        return self._informers[Kinds.SCORING_MODEL].get(*key)

    def cached(self, kind: Kind, key: Key) -> list[Manifest]:
        """All objects of a kind that carry the model's labels."""
        informer = self._informers.get(kind)
        return list(informer.of(key)) if informer else []

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """An object as last seen; None when it is not there or not labelled as a child."""
        informer = self._informers.get(kind)
        return informer.get(namespace, name) if informer else None

    def owned(self, kind: Kind, model: ScoringModel, name: str) -> Manifest | None:
        """A child of the model as last seen; an object of somebody else has nothing for us."""
        found = self.get(kind, model.namespace, name)
        return found if found and is_owned(found, model) else None

    async def read(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """An object as the API server has it."""
        try:
            return await self._client.call("GET", kind.path(namespace, name))
        except NotFoundError:
            return None

    async def is_available(self, kind: Kind) -> bool:
        """Whether an optional kind is installed; starts watching it when it is."""
        if kind in self._informers:
            return True
        if not await self.discovery.serves(kind):
            return False
        if kind not in self._informers:
            self._watch_children(kind)
        await self._informers[kind].synced.wait()
        return True

    def ingress_controller(self, class_name: str | None) -> str | None:
        """`spec.controller` of an IngressClass; of the default class when no name is given."""
        informer = self._informers.get(Kinds.INGRESS_CLASS)
        for item in informer.all() if informer else ():
            metadata = item["metadata"]
            is_default = (metadata.get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
            if metadata["name"] == class_name or (class_name is None and is_default):
                controller = item.get("spec", {}).get("controller")
                return str(controller) if controller else None
        return None

    async def apply(self, manifest: Manifest, model: ScoringModel) -> bool:
        """Make a child as wanted.

        Args:
            manifest: the child; only fields that this operator owns.
            model: its owner.

        Returns:
            Whether something was written.

        Raises:
            NameTakenError: an object of that name belongs to someone else; it is left alone.
            ConflictError: there is a child that was not known; look again.
            StaleOwnerError: it belongs to a deleted ScoringModel of the same name.
            ClusterError: the API server refused.
        """
        kind = Kinds.of(manifest)
        namespace, name = model.namespace, manifest["metadata"]["name"]
        wanted = stamp(manifest)
        at = (kind, namespace, name)
        live = self.get(kind, namespace, name)
        if live is None:
            self._ceded.pop(at, None)
            await self._confirm(model)
            live = await self._create(kind, wanted, model)
            self._keep(kind, live)
            # Of a new object a server notes no owner of empty values, which it does not store; of an applied one it does.
            if not lost_fields(wanted, live, MANAGER):
                return True
        else:
            check_owner(live, kind, model)
            if self._is_as_wanted(kind, wanted, live):
                return False
        answer = await self._change(kind, wanted, live, model)
        self._keep(kind, answer)
        lost = frozenset(lost_fields(wanted, answer, MANAGER))
        self._ceded.pop(at, None)
        if lost:
            self._ceded[at] = (wanted, lost)
        return True

    async def hand_over_replicas(self, deployment: Manifest, replicas: int) -> None:
        """Keep the number of pods while its ownership goes to the autoscaler.

        A field that its only owner stops applying falls back to its default, which for replicas is 1. A second field
        manager that holds the value prevents it
        (https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership).

        Args:
            deployment: as stored.
            replicas: the number to keep.
        """
        metadata = {k: deployment["metadata"][k] for k in ("name", "namespace")}
        manifest = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"replicas": replicas},
        }
        answer = await self._apply(Kinds.DEPLOYMENT, manifest, f"{MANAGER}-handover")
        self._keep(Kinds.DEPLOYMENT, answer)

    async def merge(self, kind: Kind, live: Manifest, patch: Manifest) -> None:
        """Merge-patch an object, if it is still what it was when it was read."""
        metadata = live["metadata"]
        version = {"resourceVersion": metadata["resourceVersion"]}
        body = {**patch, "metadata": {**patch.get("metadata", {}), **version}}
        answer = await self._client.call(
            "PATCH",
            kind.path(metadata["namespace"], metadata["name"]),
            query={"fieldManager": MANAGER},
            body=body,
            content_type=MERGE,
        )
        self._keep(kind, answer)

    async def prune(
        self,
        model: ScoringModel,
        wanted: Sequence[Manifest],
        kinds: Sequence[Kind] = (*Kinds.CHILDREN, *Kinds.OPTIONAL_CHILDREN),
    ) -> int:
        """Delete children that are no longer wanted.

        Args:
            model: the owner; what it does not own is left alone.
            wanted: all children that it should have.
            kinds: of the children to look at.

        Returns:
            How many were deleted.
        """
        keep = {(Kinds.of(m), m["metadata"]["name"]) for m in wanted}
        deleted = 0
        for kind in kinds:
            for live in self.cached(kind, model.key):
                metadata = live["metadata"]
                if (kind, metadata["name"]) in keep or metadata.get("deletionTimestamp"):
                    continue
                if controller_uid(live) == model.uid:
                    await self._delete(kind, live)
                    deleted += 1
        return deleted

    async def patch_status(self, manifest: Manifest, status: Manifest) -> None:
        """Write the status of a ScoringModel.

        Args:
            manifest: the ScoringModel as stored.
            status: the whole status; fields of the stored one that it lacks are removed.
        """
        metadata = manifest["metadata"]
        path = Kinds.SCORING_MODEL.path(metadata["namespace"], metadata["name"])
        diff = merge_diff(manifest.get("status") or {}, status)
        body = {"metadata": {"uid": metadata["uid"]}, "status": diff}
        answer = await self._client.call(
            "PATCH",
            f"{path}/status",
            query={"fieldManager": MANAGER},
            body=body,
            content_type=MERGE,
        )
        self._keep(Kinds.SCORING_MODEL, answer)
        if _asked(answer) != _asked(manifest):
            # The answer was newer than the change that it brought, whose own event is old by now and says nothing.
            self._on_change(_key_of_model(answer))

    async def delete_pod(self, pod: Manifest) -> None:
        """Delete a pod, if it is still the one that was seen; its ReplicaSet makes another."""
        await self._delete(Kinds.POD, pod)

    def progress(self, pod: Manifest) -> Download | None:
        """How far a pod's download was when it was last asked; None when it has not said."""
        return self._downloads.known(pod)

    async def create_event(self, event: Manifest) -> None:
        """Post a Kubernetes Event."""
        namespace = event["metadata"]["namespace"]
        await self._client.call("POST", Kinds.EVENT.path(namespace), body=event)

    def _is_as_wanted(self, kind: Kind, wanted: Manifest, live: Manifest) -> bool:
        if is_as_applied(wanted, live, MANAGER):
            return True
        at = (kind, live["metadata"]["namespace"], live["metadata"]["name"])
        ceded = self._ceded.get(at)
        if ceded is None or ceded[0] != wanted:
            return False
        return frozenset(lost_fields(wanted, live, MANAGER)) <= ceded[1]

    async def _apply(self, kind: Kind, manifest: Manifest, manager: str) -> Manifest:
        metadata = manifest["metadata"]
        return await self._client.call(
            "PATCH",
            kind.path(metadata["namespace"], metadata["name"]),
            query={"fieldManager": manager, "force": "true"},
            body=manifest,
            content_type=APPLY,
        )

    async def _create(self, kind: Kind, manifest: Manifest, model: ScoringModel) -> Manifest:
        try:
            return await self._client.call(
                "POST",
                kind.path(model.namespace),
                # What the server does not know would be left out in silence.
                query={"fieldManager": MANAGER, "fieldValidation": "Strict"},
                body=manifest,
            )
        except ConflictError:
            # Something of that name is there without our label: a stranger's, or a child that lost it.
            live = await self.read(kind, model.namespace, manifest["metadata"]["name"])
            if live is not None:
                check_owner(live, kind, model)
                self._keep(kind, live)
            # What is wanted may depend on the child that was not known, such as its keys: look again, at once.
            self._on_change(model.key)
            raise

    async def _change(
        self, kind: Kind, manifest: Manifest, live: Manifest, model: ScoringModel
    ) -> Manifest:
        """Apply to a child that is there.

        What was created does not count as applied, and an apply would leave behind what it no longer names. So it is made to
        count first, as client-go's csaupgrade does (https://pkg.go.dev/k8s.io/client-go/util/csaupgrade).
        """
        if not was_applied(live, MANAGER):
            name = manifest["metadata"]["name"]
            fresh = await self.read(kind, model.namespace, name)
            if fresh is None:
                raise ConflictError(f"{kind.name} {name} went away while it was changed")
            check_owner(fresh, kind, model)
            patch = {"metadata": {"managedFields": as_applied(fresh, MANAGER)}}
            await self.merge(kind, fresh, patch)
        return await self._apply(kind, manifest, MANAGER)

    async def _delete(self, kind: Kind, live: Manifest) -> None:
        metadata = live["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": metadata["uid"]},
        }
        path = kind.path(metadata["namespace"], metadata["name"])
        try:
            await self._client.call("DELETE", path, body=body)
        except (NotFoundError, ConflictError):
            return  # gone already, or another object by now

    async def _confirm(self, model: ScoringModel) -> None:
        """Children are made again only for a model that the API server still has: caches may lag behind a deletion.

        A model without a status is new, and nothing of it can be gone. Should it be deleted meanwhile, Kubernetes collects what
        is made for it.
        """
        cached = self.model(model.key)
        if cached and cached["metadata"]["uid"] == model.uid and "status" not in cached:
            return
        uid, since = self._confirmed.get(model.key, ("", 0.0))
        if uid == model.uid and time.monotonic() - since < _CONFIRMED_SECONDS:
            return
        live = await self.read(Kinds.SCORING_MODEL, model.namespace, model.name)
        gone = live is None or live["metadata"].get("deletionTimestamp")
        if gone or (live and live["metadata"]["uid"] != model.uid):
            self._confirmed.pop(model.key, None)
            raise ConflictError(f"ScoringModel {model.key} is gone")
        self._confirmed[model.key] = (model.uid, time.monotonic())

    def _keep(self, kind: Kind, answer: Manifest) -> None:
        """Read our own writes at once, without waiting for the watch."""
        informer = self._informers.get(kind)
        if informer:
            informer.keep_answer(answer)

    async def _watch_ingress_classes(self) -> None:
        """IngressClasses belong to the cluster: an operator of one namespace may not be allowed to see them."""
        try:
            await self._client.call("GET", Kinds.INGRESS_CLASS.path(), query={"limit": "1"})
        except (ForbiddenError, NotFoundError):
            return
        # What a class's controller understands decides about the Ingresses of all models.
        self._watch(
            Kinds.INGRESS_CLASS,
            selector="",
            key_of=lambda manifest: Key("", manifest["metadata"]["name"]),
            on_change=lambda _: self._report_all(),
        )

    def _report_all(self) -> None:
        for manifest in self.models():
            self._on_change(_key_of_model(manifest))

    def _watch_children(self, kind: Kind) -> None:
        self._watch(kind, selector=MANAGED_BY_SELECTOR, key_of=_key_of_child)

    def _watch(
        self,
        kind: Kind,
        *,
        selector: str,
        key_of: Callable[[Manifest], Key | None],
        on_change: Callable[[Key], None] | None = None,
    ) -> None:
        informer = Informer(
            self._client,
            kind,
            namespace=self._namespace if kind.namespaced else None,
            selector=selector,
            key_of=key_of,
            on_change=on_change or self._on_change,
            trim=trim_observed if kind in Kinds.OBSERVED else trim_owned,
        )
        self._informers[kind] = informer
        task = asyncio.create_task(informer.run(), name=f"watch {kind.plural}")
        self._tasks.append(task)


def _key_of_model(manifest: Manifest) -> Key:
    return Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])


def _asked(manifest: Manifest) -> tuple[Any, ...]:
    """What people say of a ScoringModel: all that a status is not."""
    metadata = manifest["metadata"]
    return tuple(metadata.get(name) for name in ("generation", "labels", "annotations"))


def _key_of_child(manifest: Manifest) -> Key | None:
    metadata = manifest["metadata"]
    name = (metadata.get("labels") or {}).get(INSTANCE_LABEL)
    return Key(metadata["namespace"], name) if name else None
