"""Which bytes a revision runs: what its first pod fetched is recorded, and every later pod of it must fetch the same.

The record is a ConfigMap that the fetch container reads when it starts, so that a replacement pod of the same ReplicaSet
learns of it without another pod template. Its keys are revisions, and `<revision>.update` for the digest that takes the
place of a revision's bytes when `updatePolicy` is `Always`: the model then gets that digest as its `sha256`, which makes a
revision of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from scoring_operator.api import Canary, Manifest, ScoringModel
from scoring_operator.manifests import names
from scoring_operator.manifests.revision import derive_revision
from scoring_operator.settings import Settings
from scoring_operator.status import pods as pod_status
from scoring_operator.status.reasons import Reason
from scoring_operator.status.termination import parse_termination

_PREFIX = "sha256:"
_UPDATE = ".update"


@dataclass(frozen=True, slots=True)
class Pins:
    """What is known of the bytes.

    Args:
        model: the ScoringModel; with an update its digest is the `sha256`.
        data: of the ConfigMap.
        strays: pods that fetched other bytes than their revision's, because they began before those were known.
    """

    model: ScoringModel
    data: dict[str, str] = field(default_factory=dict)
    strays: tuple[Manifest, ...] = ()


@dataclass(frozen=True, slots=True)
class _Fetch:
    """How a pod's fetch ended."""

    pod: Manifest
    revision: str
    ended_at: str
    reason: str
    digest: str


def derive_pins(
    model: ScoringModel,
    settings: Settings,
    *,
    stored: Mapping[str, str],
    pods: Sequence[Manifest],
    replica_sets: Sequence[Manifest],
) -> Pins:
    """Read what the pods fetched.

    Args:
        model: the ScoringModel.
        settings: the operator's settings.
        stored: data of the ConfigMap; empty without one.
        pods: of the model and its canary.
        replica_sets: of both; their revisions can come back, so they keep their record.
    """
    fetches = sorted(filter(None, map(_read, pods)), key=lambda f: f.ended_at)
    data: dict[str, str] = {}
    strays: list[Manifest] = []
    resolved = model
    for canary in (None, model.canary) if model.canary else (None,):
        if (canary or model).sha256:
            continue  # the spec names the only digest itself
        revision = derive_revision(model, settings, canary)
        pin, update = stored.get(revision, ""), stored.get(revision + _UPDATE, "")
        # Once there is an update, only its own pods can tell of a newer one: what others found may be older.
        watched = (
            derive_revision(*_resolve(model, settings, canary, update)) if update else revision
        )
        runs = update or pin
        for fetch in fetches:
            if fetch.revision == revision and fetch.reason == "Fetched":
                pin = pin or fetch.digest
                if fetch.digest != pin:
                    strays.append(fetch.pod)
            elif (
                model.update_policy == "Always"
                and fetch.reason == Reason.DIGEST_MISMATCH
                and fetch.revision == watched
                and fetch.digest != runs
            ):
                update = fetch.digest
        if pin:
            data[revision] = pin
        if update:
            data[revision + _UPDATE] = update
            resolved = _with_digest(resolved, canary, update)
    alive = {_revision(item) for item in (*pods, *replica_sets)}
    data.update({k: v for k, v in stored.items() if k.partition(".")[0] in alive and k not in data})
    return Pins(resolved, dict(sorted(data.items())), tuple(strays))


def _resolve(
    model: ScoringModel, settings: Settings, canary: Canary | None, digest: str
) -> tuple[ScoringModel, Settings, Canary | None]:
    if canary:
        return model, settings, replace(canary, sha256=digest)
    return replace(model, sha256=digest), settings, None


def _with_digest(model: ScoringModel, canary: Canary | None, digest: str) -> ScoringModel:
    if canary:
        return replace(model, canary=replace(canary, sha256=digest))
    return replace(model, sha256=digest)


def _read(pod: Manifest) -> _Fetch | None:
    """The last end of a pod's fetch that says which bytes are there."""
    if pod_status.is_leaving(pod):
        return None
    for container in pod.get("status", {}).get("initContainerStatuses") or ():
        if container.get("name") != "fetch":
            continue
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            ended = state.get("terminated") or {}
            said = parse_termination(ended.get("message") or "") or {}
            digest = str(said.get("digest") or "").removeprefix(_PREFIX)
            if len(digest) == 64:
                ended_at = str(ended.get("finishedAt") or "")
                return _Fetch(pod, _revision(pod), ended_at, str(said["reason"]), digest)
    return None


def _revision(item: Manifest) -> str:
    labels = item["metadata"].get("labels") or {}
    return str(labels.get(names.REVISION_LABEL, ""))
