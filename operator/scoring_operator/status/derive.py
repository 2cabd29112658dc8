"""From observed children to the ScoringModel's status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scoring_operator.api import Manifest, ScoringModel
from scoring_operator.manifests import Children, Exposure, names
from scoring_operator.status import pods as pod_status
from scoring_operator.status.autoscaling import derive_autoscaling
from scoring_operator.status.conditions import Condition, condition
from scoring_operator.status.exposed import derive_certificate, derive_exposed, derive_redirect
from scoring_operator.status.observed import Observed
from scoring_operator.status.reasons import TERMINATION_REASONS, Reason
from scoring_operator.status.termination import Finding, digest_from_termination

__all__ = ["Observed", "Status", "derive_failure", "derive_status"]


@dataclass(frozen=True, slots=True)
class Status:
    """The derived status: the fields as stored, and the conditions before they have times."""

    fields: Manifest
    conditions: tuple[Condition, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _Pods:
    """The pods of a workload, sorted by whether they are of the wanted revision."""

    wanted: tuple[Manifest, ...]
    previous: tuple[Manifest, ...]

    @property
    def ready(self) -> int:
        return sum(map(pod_status.is_ready, self.wanted))

    @property
    def previous_ready(self) -> int:
        return sum(map(pod_status.is_ready, self.previous))


def derive_status(
    model: ScoringModel, children: Children, exposure: Exposure, observed: Observed
) -> Status:
    """Derive fields and conditions.

    `Ready` is about the wanted revision: it is False while a new revision starts or fails, even though the previous
    one serves on, which the message then says. `Available` is about whether anybody answers at all.

    Args:
        model: the ScoringModel.
        children: what was built for it.
        exposure: how it is reached.
        observed: what is stored of its children, and problems of applying them.
    """
    workload = _split(observed.pods, names.MODEL_LABEL, model, children.revision)
    serving = workload.ready + workload.previous_ready
    finding = observed.problem or _workload_finding(model, observed, workload, children.revision)
    exposed = derive_exposed(model, exposure, observed)
    certificate = derive_certificate(exposure, observed)
    conditions = [
        _ready(model, observed, workload, finding, exposed, certificate),
        _model_loaded(workload, finding),
        _available(serving, finding),
        exposed,
    ]
    conditions += [
        c
        for c in (
            certificate,
            derive_redirect(exposure, children),
            derive_autoscaling(model, observed),
            _canary(model, children, observed),
        )
        if c is not None
    ]
    fields = {
        "observedGeneration": model.generation,
        "auth": model.auth.mode,
        "replicas": (observed.deployment or {}).get("status", {}).get("replicas", 0),
        "readyReplicas": serving,
        "selector": f"{names.MODEL_LABEL}={model.name}",
        "revision": children.revision,
        "url": exposure.url,
        "keysSecretName": names.keys_secret_name(model),
        "modelDigest": _digest(workload.wanted) or observed.known_digest,
        "certificateExpiry": observed.certificate_expiry,
        "canary": _canary_fields(model, children, observed),
    }
    return Status({k: v for k, v in fields.items() if v is not None}, tuple(conditions))


def derive_failure(finding: Finding) -> tuple[Condition, ...]:
    """Conditions of a model whose spec cannot be turned into children at all."""
    text = finding.text()
    return (condition("Ready", False, finding.reason, text),)


def _split(pods: Sequence[Manifest], label: str, model: ScoringModel, revision: str) -> _Pods:
    ours = [p for p in pods if p["metadata"].get("labels", {}).get(label) == model.name]
    wanted: list[Manifest] = []
    previous: list[Manifest] = []
    for pod in ours:
        same = pod["metadata"]["labels"].get(names.REVISION_LABEL) == revision
        (wanted if same else previous).append(pod)
    return _Pods(tuple(wanted), tuple(previous))


def _workload_finding(
    model: ScoringModel, observed: Observed, pods: _Pods, revision: str
) -> Finding | None:
    """Why the wanted revision is not there yet; None when all its pods are ready."""
    finding = pod_status.derive_finding(pods.wanted, model, observed.downloads)
    rejected = _rejected(observed, revision)
    if rejected and (finding is None or not finding.failed):
        return rejected
    if finding is not None and finding.failed:
        return finding
    stuck = _stuck(observed)
    if stuck and not pods.ready:
        return stuck
    return finding


def _rejected(observed: Observed, revision: str) -> Finding | None:
    """Pods that could not be created: a full quota, a policy, an account that is not there."""
    # Old ReplicaSets and the canary's have troubles of their own.
    sources = [
        r
        for r in observed.replica_sets
        if (r["metadata"].get("labels") or {}).get(names.REVISION_LABEL) == revision
    ]
    for source in sources:
        for c in source.get("status", {}).get("conditions") or ():
            if c.get("type") != "ReplicaFailure" or c.get("status") != "True":
                continue
            message = c.get("message", "pods cannot be created")
            if "exceeded quota" in message:
                hint = "Lower spec.resources or spec.replicas, or ask for a larger ResourceQuota."
                return Finding(Reason.QUOTA_EXCEEDED, message, hint)
            hint = "Correct what the message names, or ask who set the policy."
            return Finding(Reason.POD_REJECTED, message, hint)
    return None


def _stuck(observed: Observed) -> Finding | None:
    for c in (observed.deployment or {}).get("status", {}).get("conditions") or ():
        if c.get("type") == "Progressing" and c.get("reason") == "ProgressDeadlineExceeded":
            return Finding(
                Reason.ROLLOUT_STUCK,
                c.get("message", "the rollout made no progress before its deadline"),
                "Correct the spec or apply the previous YAML; "
                "raise spec.rollout.progressDeadlineSeconds if the model only needs longer.",
            )
    return None


def _ready(
    model: ScoringModel,
    observed: Observed,
    pods: _Pods,
    finding: Finding | None,
    exposed: Condition,
    certificate: Condition | None,
) -> Condition:
    def not_ready(reason: Reason, message: str) -> Condition:
        if pods.previous_ready:
            message += f" The previous revision serves on with {pods.previous_ready} pod(s)."
        return condition("Ready", False, reason, message)

    wanted = _wanted_replicas(model, observed)
    if observed.problem:
        return not_ready(observed.problem.reason, observed.problem.text())
    if not model.autoscaling and model.replicas == 0:
        message = "spec.replicas is 0: nothing serves. Scale up to serve again."
        return not_ready(Reason.SCALED_TO_ZERO, message)
    if finding and finding.failed and (not pods.ready or pods.previous_ready):
        return not_ready(finding.reason, finding.text())
    if not pods.ready:
        text = finding.text() if finding else "waiting for the first pod."
        return not_ready(finding.reason if finding else Reason.PROGRESSING, text)
    if pods.previous_ready:
        message = f"{pods.ready} of {wanted} pods serve the new revision."
        return not_ready(Reason.PROGRESSING, message)
    for c in (exposed, certificate):
        if c is not None and c.status == "False" and c.reason != Reason.CLUSTER_INTERNAL:
            return not_ready(c.reason, c.message)
    message = f"{pods.ready} of {wanted} pods serve."
    if finding and finding.failed:
        message += f" {finding.text()}"
    return condition("Ready", True, Reason.READY, message)


def _wanted_replicas(model: ScoringModel, observed: Observed) -> int:
    if not model.autoscaling:
        return model.replicas
    spec = (observed.deployment or {}).get("spec", {})
    return int(spec.get("replicas", model.autoscaling.min_replicas))


# What a pod may end with between its start and its first answer, said by itself or by the kubelet.
_LOAD_REASONS = (TERMINATION_REASONS - {Reason.INVALID_SPEC}) | {
    Reason.PROBE_TIMEOUT,
    Reason.CRASH_LOOP,
}


def _model_loaded(pods: _Pods, finding: Finding | None) -> Condition:
    if any(map(pod_status.is_loaded, pods.wanted)):
        digest = _digest(pods.wanted)
        suffix = f" ({digest})" if digest else ""
        return condition("ModelLoaded", True, Reason.READY, f"The model is loaded{suffix}.")
    if finding is None:
        return condition("ModelLoaded", None, Reason.PROGRESSING, "No pod has started yet.")
    holds = False if finding.reason in _LOAD_REASONS else None
    return condition("ModelLoaded", holds, finding.reason, finding.text())


def _available(serving: int, finding: Finding | None) -> Condition:
    if serving:
        return condition("Available", True, Reason.READY, f"{serving} pod(s) answer.")
    if finding:
        return condition("Available", False, finding.reason, finding.text())
    return condition("Available", False, Reason.PROGRESSING, "No pod is ready yet.")


def _canary(model: ScoringModel, children: Children, observed: Observed) -> Condition | None:
    if model.canary is None or children.canary_revision is None:
        return None
    pods = _split(observed.pods, names.CANARY_LABEL, model, children.canary_revision)
    if not children.canary_routed:
        message = (
            "This way in cannot split traffic, so the canary gets none. "
            "Use spec.gateway, or an ingress controller with canary weights such as NGINX."
        )
        return condition("Canary", False, Reason.CANARY_UNSUPPORTED, message)
    if pods.ready:
        message = f"The canary serves {model.canary.weight} % with {pods.ready} pod(s)."
        return condition("Canary", True, Reason.READY, message)
    finding = pod_status.derive_finding(pods.wanted, model, observed.downloads)
    if finding:
        return condition("Canary", False, finding.reason, finding.text())
    return condition("Canary", False, Reason.PROGRESSING, "No pod of the canary is ready yet.")


def _canary_fields(model: ScoringModel, children: Children, observed: Observed) -> Manifest | None:
    if model.canary is None or children.canary_revision is None:
        return None
    pods = _split(observed.pods, names.CANARY_LABEL, model, children.canary_revision)
    fields: Manifest = {
        "weight": model.canary.weight if children.canary_routed and pods.ready else 0,
        "readyReplicas": pods.ready,
        "revision": children.canary_revision,
    }
    digest = _digest(pods.wanted)
    if digest:
        fields["modelDigest"] = digest
    return fields


def _digest(pods: Sequence[Manifest]) -> str | None:
    for pod in sorted(pods, key=lambda p: not pod_status.is_ready(p)):
        for container in pod.get("status", {}).get("initContainerStatuses") or ():
            ended = container.get("state", {}).get("terminated")
            if container.get("name") == "fetch" and ended and ended.get("exitCode") == 0:
                digest = digest_from_termination(ended.get("message") or "")
                if digest:
                    return digest
    return None
