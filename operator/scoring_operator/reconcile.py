"""One ScoringModel from spec to status: parse, build, apply, prune, observe, derive, write.

Knows nothing of events and diffs: whatever happened, the state decides, and doing it again changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scoring_operator.api import (
    Key,
    Kind,
    Kinds,
    Manifest,
    ScoringModel,
    SpecError,
    parse_scoring_model,
)
from scoring_operator.cluster import (
    Cluster,
    ClusterError,
    ConflictError,
    NamespaceTerminatingError,
    NotFoundError,
    TransientError,
)
from scoring_operator.cluster.ownership import is_owned, owned_annotation, owns_field
from scoring_operator.events import EventLimiter, build_event
from scoring_operator.keys import ROTATE_ANNOTATION, choose_keys
from scoring_operator.manifests import (
    Children,
    Exposure,
    Wishes,
    build_children,
    names,
    plan_exposure,
)
from scoring_operator.manifests.dialect import find_dialect
from scoring_operator.refusals import finding_of
from scoring_operator.settings import Settings
from scoring_operator.status import (
    Condition,
    Observed,
    Reason,
    Status,
    derive_status,
    merge_conditions,
)
from scoring_operator.status.conditions import condition
from scoring_operator.status.pins import Pins, derive_pins
from scoring_operator.status.pods import describe_download, is_fetching, is_ready
from scoring_operator.status.termination import Finding
from scoring_operator.tls import HostCertificates, Tls, rfc3339

log = logging.getLogger(__name__)

# Two autoscalers of one Deployment fight, and KEDA refuses a second one: the one that is not wanted goes first.
_AUTOSCALERS = (Kinds.AUTOSCALER, Kinds.SCALED_OBJECT)
# Image volumes are stable since Kubernetes 1.36 (https://kubernetes.io/docs/concepts/storage/volumes/#image).
_IMAGE_VOLUMES_SINCE = 36
# A fetching pod is asked this often how far it is.
_PROGRESS_SECONDS = 3.0
# What cannot be watched (Secrets and kinds of others) is looked at again after this time while it is missing or wrong.
_LOOK_AGAIN_SECONDS = 30.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reconcile did.

    Args:
        result: `gone`, `unchanged` or `changed`; for metrics.
        look_again_seconds: when to come back although nothing may happen; None: never.
    """

    result: str
    look_again_seconds: float | None = None


class Reconciler:
    """Makes the cluster match one ScoringModel at a time.

    Args:
        cluster: to read from and write to.
        settings: the operator's settings.
        now: the time, with zone.
    """

    def __init__(
        self, cluster: Cluster, settings: Settings, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._now = now
        self._limiter = EventLimiter()
        self._certificates = HostCertificates(cluster, settings, now)

    async def reconcile(self, key: Key) -> Outcome:
        """Make the children as wanted and the status as observed.

        Args:
            key: which ScoringModel; it may be gone by now.

        Raises:
            ClusterError: the API server did not let it finish; try again later.
        """
        manifest = self._cluster.model(key)
        if manifest is None or manifest["metadata"].get("deletionTimestamp"):
            # Kubernetes collects the children by their owner references.
            return Outcome("gone")
        try:
            model = parse_scoring_model(manifest)
        except SpecError as err:
            finding = Finding(Reason.INVALID_SPEC, str(err), "Correct the field and apply again.")
            return Outcome(await self._write_failure(manifest, finding))
        unsupported = await self._unsupported(model)
        if unsupported:
            return Outcome(
                await self._write_failure(manifest, unsupported), _LOOK_AGAIN_SECONDS * 10
            )
        pins = await self._decide_pins(model)
        model = pins.model
        exposure = plan_exposure(model, self._settings)
        tls = await self._certificates.decide(model, exposure)
        children = await self._build(model, exposure, tls, pins.data)
        pruned = await self._cluster.prune(model, children.manifests, _AUTOSCALERS)
        written, problem = await self._apply(children, model)
        written += pruned
        if problem is None:
            # With a problem something of the new set may be missing that the old set still provides.
            written += await self._cluster.prune(model, children.manifests)
            for pod in pins.strays:
                # Only once its replacement will find the digest that it must have.
                log.warning(
                    "a pod fetched other bytes than its revision",
                    extra={"model": str(key), "pod": pod["metadata"]["name"]},
                )
                await self._cluster.delete_pod(pod)
        observed = await self._observe(manifest, model, children, exposure, tls, problem)
        status = derive_status(model, children, exposure, observed)
        changed = await self._write_status(
            manifest, status.fields, status.conditions, model.generation
        )
        again = _earliest(
            tls.look_again_seconds,
            _LOOK_AGAIN_SECONDS if problem and problem.failed else None,
            await self._missing_kind(children, status),
            _PROGRESS_SECONDS if observed.downloads else None,
        )
        return Outcome("changed" if written or changed else "unchanged", again)

    async def _unsupported(self, model: ScoringModel) -> Finding | None:
        """What this cluster cannot do; a child would be refused with less helpful words, or silently changed."""
        uris = (model.model_uri, model.canary.model_uri if model.canary else "")
        if not any(uri.startswith("oci:") for uri in uris):
            return None
        minor = await self._cluster.discovery.minor_version()
        if minor >= _IMAGE_VOLUMES_SINCE:
            return None
        return Finding(
            Reason.INVALID_SPEC,
            f"spec.modelURI: oci: needs image volumes, which Kubernetes has since 1.{_IMAGE_VOLUMES_SINCE}; "
            f"this cluster is 1.{minor}",
            "Upgrade the cluster, or publish the model at another kind of URI, such as https: or abfss:.",
        )

    async def _decide_pins(self, model: ScoringModel) -> Pins:
        # From the cache alone: nobody but this operator makes it, and most models of a new cluster have none yet.
        stored = self._cluster.get(Kinds.CONFIG_MAP, model.namespace, names.pins_name(model))
        if stored and not is_owned(stored, model):
            stored = None
        return derive_pins(
            model,
            self._settings,
            stored=(stored or {}).get("data") or {},
            pods=self._cluster.cached(Kinds.POD, model.key),
            replica_sets=self._cluster.cached(Kinds.REPLICA_SET, model.key),
        )

    def _observe_downloads(self, model: ScoringModel) -> dict[str, str]:
        answers: dict[str, str] = {}
        for pod in filter(is_fetching, self._cluster.cached(Kinds.POD, model.key)):
            found = self._cluster.progress(pod)
            text = describe_download(found.bytes_done, found.bytes_total) if found else ""
            answers[pod["metadata"]["name"]] = text
        return answers

    async def _build(
        self, model: ScoringModel, exposure: Exposure, tls: Tls, pins: Mapping[str, str]
    ) -> Children:
        keys: dict[str, str] = {}
        if model.auth.mode == "APIKey" and not model.auth.secret_name:
            keys = await self._decide_keys(model)
        controller = None
        if exposure.host and not exposure.gateway:
            controller = (
                self._cluster.ingress_controller(exposure.ingress_class)
                or self._settings.ingress_controller
            )
        wishes = Wishes(
            replicas=await self._decide_replicas(model),
            keys=keys,
            certificate=tls.pair,
            ingress_controller=controller,
            pins=pins,
            installed=await self._installed(controller),
            templates=self._recorded_templates(model),
            canary_serves=any(
                is_ready(pod)
                for pod in self._cluster.cached(Kinds.POD, model.key)
                if names.CANARY_LABEL in (pod["metadata"].get("labels") or {})
            ),
        )
        return build_children(model, self._settings, exposure, wishes)

    def _recorded_templates(self, model: ScoringModel) -> dict[str, str]:
        found = {}
        for name in (names.workload_name(model), names.workload_name(model, canary=True)):
            live = self._cluster.owned(Kinds.DEPLOYMENT, model, name)
            record = live and owned_annotation(live, names.MANAGER, names.TEMPLATE_ANNOTATION)
            if record:
                found[name] = record
        return found

    async def _installed(self, controller: str | None) -> frozenset[Kind]:
        """The kinds beside Kubernetes' own that this ingress controller's dialect asks for."""
        dialect = find_dialect(controller)
        kind = dialect.redirect_kind if dialect else None
        if kind and await self._cluster.is_available(kind):
            return frozenset((kind,))
        return frozenset()

    async def _observe_scaling(self, model: ScoringModel) -> dict[str, Any]:
        if model.autoscaling is None:
            return {}
        if model.autoscaling.autoscaler == "KEDA":
            return {
                "keda": await self._cluster.is_available(Kinds.SCALED_OBJECT),
                "scaled_object": _named(
                    self._cluster.cached(Kinds.SCALED_OBJECT, model.key), model.name
                ),
                "prometheus": self._settings.prometheus_url is not None,
            }
        if model.autoscaling.target_in_flight_requests:
            return {
                "custom_metrics": await self._cluster.discovery.serves_group(
                    "custom.metrics.k8s.io"
                )
            }
        return {}

    async def _decide_keys(self, model: ScoringModel) -> dict[str, str]:
        secret = self._cluster.owned(Kinds.SECRET, model, f"{model.name}-keys")
        keys = choose_keys(secret)
        if secret is not None and keys.rotated:
            # New keys and the end of the request for them in one write: a crash in between cannot rotate twice.
            annotations = {"annotations": {ROTATE_ANNOTATION: None}}
            patch = {
                "metadata": annotations,
                "stringData": {n: keys.values[n] for n in keys.rotated},
            }
            await self._cluster.merge(Kinds.SECRET, secret, patch)
            log.info("rotated API keys", extra={"model": str(model.key), "keys": keys.rotated})
        return keys.values

    async def _decide_replicas(self, model: ScoringModel) -> int | None:
        if model.autoscaling is None:
            return model.replicas
        live = self._cluster.owned(Kinds.DEPLOYMENT, model, model.name)
        minimum = model.autoscaling.min_replicas
        if live is None:
            # One is the default, so that nothing has to be handed over later.
            return minimum if minimum > 1 else None
        if owns_field(live, names.MANAGER, "spec", "replicas"):
            replicas = max(live["spec"].get("replicas", 1), minimum)
            # Of what we created we own the defaults, too, and nothing is lost when a field falls back to its default.
            if replicas != 1:
                await self._cluster.hand_over_replicas(live, replicas)
        return None

    async def _apply(self, children: Children, model: ScoringModel) -> tuple[int, Finding | None]:
        """Apply all children; one that is refused does not keep the others from being applied."""
        written = 0
        problem: Finding | None = None
        for manifest in children.manifests:
            kind = Kinds.of(manifest)
            if kind in Kinds.OPTIONAL_CHILDREN and not await self._cluster.is_available(kind):
                continue
            try:
                written += await self._cluster.apply(manifest, model)
            except (TransientError, ConflictError):
                raise
            except NamespaceTerminatingError as err:
                # The others would be refused, too: no call for each of them while everything goes.
                return written, finding_of(err, manifest)
            except ClusterError as err:
                problem = problem or finding_of(err, manifest)
        return written, problem

    async def _missing_kind(self, children: Children, status: Status) -> float | None:
        # What is installed later is found; kinds of others that do not exist cannot be watched.
        if Reason.METRICS_MISSING in {c.reason for c in status.conditions} or (
            children.redirect_kind and not children.proxy_redirects
        ):
            return _LOOK_AGAIN_SECONDS * 10
        for manifest in children.manifests:
            kind = Kinds.of(manifest)
            if kind in Kinds.OPTIONAL_CHILDREN and not await self._cluster.is_available(kind):
                return _LOOK_AGAIN_SECONDS * 2
        return None

    async def _observe(
        self,
        manifest: Manifest,
        model: ScoringModel,
        children: Children,
        exposure: Exposure,
        tls: Tls,
        problem: Finding | None,
    ) -> Observed:
        key, cluster = model.key, self._cluster
        stored = manifest.get("status") or {}
        same_revision = stored.get("revision") == children.revision
        deployments = cluster.cached(Kinds.DEPLOYMENT, key)
        return Observed(
            deployment=_named(deployments, model.name),
            replica_sets=tuple(cluster.cached(Kinds.REPLICA_SET, key)),
            pods=tuple(cluster.cached(Kinds.POD, key)),
            autoscaler=_named(cluster.cached(Kinds.AUTOSCALER, key), model.name),
            **await self._observe_scaling(model),
            ingress=_named(cluster.cached(Kinds.INGRESS, key), model.name),
            route=_named(cluster.cached(Kinds.HTTP_ROUTE, key), model.name),
            certificate=_named(cluster.cached(Kinds.CERTIFICATE, key), f"{model.name}-tls"),
            certificate_problem=tls.problem,
            certificate_expiry=rfc3339(tls.expires) if tls.expires else None,
            downloads=self._observe_downloads(model),
            known_digest=stored.get("modelDigest") if same_revision else None,
            problem=problem,
        )

    async def _write_failure(self, manifest: Manifest, finding: Finding) -> str:
        """Tell of a spec that cannot be used; what is known of the running pods stays."""
        stored = dict(manifest.get("status") or {})
        stored.pop("conditions", None)
        generation = manifest["metadata"].get("generation", 1)
        fields = {**stored, "observedGeneration": generation}
        ready = condition("Ready", False, finding.reason, finding.text())
        changed = await self._write_status(manifest, fields, (ready,), generation)
        return "changed" if changed else "unchanged"

    async def _write_status(
        self,
        manifest: Manifest,
        fields: Manifest,
        conditions: Sequence[Condition],
        generation: int,
    ) -> bool:
        stored = manifest.get("status") or {}
        before = stored.get("conditions") or []
        now = self._now()
        merged = merge_conditions(before, conditions, generation=generation, now=rfc3339(now))
        status = {**fields, "conditions": merged}
        if status == stored:
            return False
        try:
            await self._cluster.patch_status(manifest, status)
        except NotFoundError:
            return False  # deleted meanwhile
        await self._tell(manifest, before, merged, now)
        return True

    async def _tell(
        self, manifest: Manifest, before: list[Manifest], after: list[Manifest], now: datetime
    ) -> None:
        old = next((c for c in before if c["type"] == "Ready"), {})
        new = next(c for c in after if c["type"] == "Ready")
        if (old.get("status"), old.get("reason")) == (new["status"], new["reason"]):
            return
        if not old and new["reason"] == Reason.PROGRESSING:
            return  # a new model that is on its way is no news
        key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        log.info(
            "ready condition changed",
            extra={"model": str(key), "ready": new["status"], "reason": new["reason"]},
        )
        if not self._limiter.admit(key, new["reason"]):
            return
        try:
            await self._cluster.create_event(build_event(manifest, new, now=now))
        except ClusterError as err:
            # An event is a courtesy; the condition has been written.
            log.warning("event not posted: %s", err, extra={"model": str(key)})


def _named(manifests: Sequence[Manifest], name: str) -> Manifest | None:
    return next((m for m in manifests if m["metadata"]["name"] == name), None)


def _earliest(*seconds: float | None) -> float | None:
    return min((s for s in seconds if s is not None), default=None)
