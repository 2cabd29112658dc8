"""Why a pod is not ready: found in its conditions, container states and last words, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from scoring_operator.api import Manifest, ScoringModel
from scoring_operator.status.conditions import shorten
from scoring_operator.status.reasons import Reason
from scoring_operator.status.termination import Finding, finding_from_termination

_IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
# Signals that the kubelet stops a container with: SIGTERM, then SIGKILL.
_STOPPED_BY_SIGNAL = {137, 143}

#: What is worth telling first when pods fail for different reasons: the most specific.
_PRIORITY = (
    Reason.INVALID_SPEC,
    Reason.DIGEST_MISMATCH,
    Reason.SIGNATURE_INVALID,
    Reason.UNSAFE_PICKLE,
    Reason.VERSION_MISMATCH,
    Reason.MISSING_DEPENDENCY,
    Reason.SCRIPT_FAILED,
    Reason.SAMPLE_FAILED,
    Reason.LOAD_FAILED,
    Reason.MODEL_NOT_FOUND,
    Reason.MODEL_FORBIDDEN,
    Reason.MODEL_UNREACHABLE,
    Reason.DISK_FULL,
    Reason.OUT_OF_MEMORY,
    Reason.IMAGE_PULL,
    Reason.CONFIG_MISSING,
    Reason.NO_GPU,
    Reason.UNSCHEDULABLE,
    Reason.EVICTED,
    Reason.PROBE_TIMEOUT,
    Reason.CRASH_LOOP,
    Reason.MODEL_LOADING,
    Reason.MODEL_DOWNLOADING,
    Reason.PROGRESSING,
)


def is_ready(pod: Manifest) -> bool:
    """Whether the pod gets traffic."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return not is_leaving(pod) and any(
        c["type"] == "Ready" and c["status"] == "True" for c in conditions
    )


def is_leaving(pod: Manifest) -> bool:
    """Whether the pod is being deleted."""
    return pod["metadata"].get("deletionTimestamp") is not None


def is_loaded(pod: Manifest) -> bool:
    """Whether the scorer has loaded its model and answered the sample request."""
    return any(
        c.get("name") == "scorer" and c.get("started") and "running" in c.get("state", {})
        for c in pod.get("status", {}).get("containerStatuses") or ()
    )


def is_fetching(pod: Manifest) -> bool:
    """Whether the pod is downloading its model."""
    return not is_leaving(pod) and any(
        c.get("name") == "fetch" and "running" in c.get("state", {})
        for c in pod.get("status", {}).get("initContainerStatuses") or ()
    )


def describe_download(bytes_done: int, bytes_total: int) -> str:
    """Progress in MiB and percent, in whole steps, so that status is written a hundred times per download at most.

    Args:
        bytes_done: fetched by now.
        bytes_total: to fetch; 0 while that is not known.
    """
    mib = 1 << 20
    if bytes_total > 0:
        percent = min(100, 100 * bytes_done // bytes_total)
        done = bytes_total * percent // 100 / mib
        return f"{done:.0f} of {bytes_total / mib:.0f} MiB ({percent} %)"
    # Without an end the steps grow with what is there: 64 MiB, 128 MiB, 256 MiB.
    done = 64 * mib
    if bytes_done < done:
        return "it has begun"
    while done * 2 <= bytes_done:
        done *= 2
    return f"more than {done / mib:.0f} MiB"


def derive_finding(
    pods: Iterable[Manifest], model: ScoringModel, downloads: Mapping[str, str] | None = None
) -> Finding | None:
    """The most telling reason why these pods are not ready.

    Args:
        pods: pods of one revision.
        model: whose resources and limits the hints name.
        downloads: how far the fetching pods are, by name.

    Returns:
        None when every pod is ready or there are none.
    """
    findings = [
        derive_pod_finding(pod, model, (downloads or {}).get(pod["metadata"]["name"], ""))
        for pod in pods
        if not is_ready(pod) and not is_leaving(pod)
    ]
    return min(findings, key=lambda f: _PRIORITY.index(f.reason), default=None)


def derive_pod_finding(pod: Manifest, model: ScoringModel, download: str = "") -> Finding:
    """Why this pod is not ready.

    Args:
        pod: as stored.
        model: whose resources and limits the hints name.
        download: how far its download is; empty when that is not known.
    """
    name = pod["metadata"]["name"]
    status = pod.get("status", {})
    finding = _evicted(status)
    for container in status.get("initContainerStatuses") or ():
        finding = (
            finding or _volume_finding(container, model) or _container_finding(container, model)
        )
    for container in status.get("containerStatuses") or ():
        finding = finding or _container_finding(container, model)
    finding = finding or _unschedulable(status, model)
    if finding is None:
        return _on_its_way(pod, download)
    return Finding(
        finding.reason, f"pod {name}: {finding.message}", finding.hint, failed=finding.failed
    )


def _on_its_way(pod: Manifest, download: str) -> Finding:
    name = pod["metadata"]["name"]
    status = pod.get("status", {})
    if is_fetching(pod):
        message = f"pod {name} is fetching the model" + (f": {download}" if download else "")
        return Finding(Reason.MODEL_DOWNLOADING, message, failed=False)
    for container in status.get("containerStatuses") or ():
        if container.get("name") == "scorer" and "running" in container.get("state", {}):
            if container.get("started"):
                message = f"pod {name} has loaded the model and does not answer its readiness probe"
                return Finding(Reason.PROGRESSING, message, failed=False)
            message = f"pod {name} is loading the model"
            return Finding(Reason.MODEL_LOADING, message, failed=False)
    return Finding(Reason.PROGRESSING, f"pod {name} is starting", failed=False)


def _evicted(status: Manifest) -> Finding | None:
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    message = f"{status['reason']}: {status.get('message', '')}".strip(": ")
    lower = message.lower()
    if "ephemeral" in lower or "emptydir" in lower or "disk" in lower:
        return Finding(Reason.DISK_FULL, message, _DISK_HINT)
    if "memory" in lower:
        return Finding(Reason.OUT_OF_MEMORY, message, "Raise spec.resources.requests.memory.")
    return Finding(Reason.EVICTED, message, "The pod is replaced by itself; look at the node.")


_DISK_HINT = (
    "Raise spec.storage.sizeLimit, or spec.resources.requests[ephemeral-storage] for a larger node."
)


def _unschedulable(status: Manifest, model: ScoringModel) -> Finding | None:
    for c in status.get("conditions") or ():
        if c["type"] != "PodScheduled" or c["status"] != "False":
            continue
        message = c.get("message") or "the scheduler found no node"
        if model.device == "gpu" and f"Insufficient {model.gpu_resource_name}" in message:
            hint = (
                f"No node has a free {model.gpu_resource_name}: add GPU nodes or raise the pool's maximum, "
                "or set spec.rollout.strategy to InPlace, which needs no spare GPU."
            )
            return Finding(Reason.NO_GPU, message, hint)
        return Finding(Reason.UNSCHEDULABLE, message, _scheduling_hint(message))
    return None


def _scheduling_hint(message: str) -> str:
    short = sorted(set(re.findall(r"Insufficient ([\w./-]+)", message)))
    if short:
        names = ", ".join(n.rstrip(".,") for n in short)
        return f"Lower spec.resources.requests for {names}, or add nodes."
    taints = sorted(set(re.findall(r"untolerated taint(?:\(s\))? \{([^}]*)\}", message)))
    if taints:
        return f"Add spec.tolerations for {', '.join(taints)}, or use nodes without the taint."
    if "affinity" in message or "selector" in message:
        return "No node matches spec.nodeSelector and spec.affinity; correct them or label a node."
    return "Add nodes, or lower what the pod asks for."


def _volume_finding(container: Manifest, model: ScoringModel) -> Finding | None:
    """An image that an `oci:` URI names and that cannot be pulled or mounted.

    The kubelet says it of the container that mounts the image, with the same reasons as for the container's own.
    """
    waiting = container.get("state", {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    uris = [model.model_uri, *([model.canary.model_uri] if model.canary else [])]
    images = [uri.removeprefix("oci://") for uri in uris if uri.startswith("oci://")]
    for reference in images:
        if reason in _IMAGE_REASONS and reference in message:
            return Finding(
                Reason.IMAGE_PULL,
                f"the model's image {reference} cannot be pulled: {message}",
                "Check the image that spec.modelURI names, and spec.imagePullSecrets for a private registry; "
                "or publish the model at another kind of URI.",
            )
    if images and reason in {"CreateContainerError", "RunContainerError"}:
        return Finding(
            Reason.IMAGE_PULL,
            f"container {container['name']} cannot start with the model's image "
            f"{images[0]}: {message or reason}",
            "Nodes need a container runtime with image volumes (containerd 2.1 or CRI-O 1.33, or newer), and "
            "spec.modelURI an image with files; or publish the model at another kind of URI.",
        )
    return None


def _container_finding(container: Manifest, model: ScoringModel) -> Finding | None:
    state = container.get("state", {})
    waiting = state.get("waiting")
    terminated = state.get("terminated")
    if waiting:
        reason = waiting.get("reason", "")
        message = waiting.get("message", "")
        if reason in _IMAGE_REASONS:
            return Finding(
                Reason.IMAGE_PULL,
                f"image {container.get('image', '?')} cannot be pulled: {message or reason}",
                "Check the image's name and tag, and spec.imagePullSecrets for a private registry.",
            )
        if reason == "CreateContainerConfigError":
            return Finding(
                Reason.CONFIG_MISSING,
                f"container {container['name']} cannot start: {message or reason}",
                "Create the named Secret or ConfigMap, or correct the spec that names it.",
            )
        if reason in {"CreateContainerError", "RunContainerError", "StartError"}:
            return Finding(
                Reason.CRASH_LOOP,
                f"container {container['name']} cannot start: {message or reason}",
                "Check that spec.image is a scorer image.",
            )
        terminated = container.get("lastState", {}).get("terminated")
    if terminated is None and "running" in state and not container.get("started", True):
        # It runs again after a crash; what it died of says more than that it is loading.
        terminated = container.get("lastState", {}).get("terminated")
    if terminated is None or terminated.get("exitCode", 0) == 0:
        return None
    return _terminated_finding(container, terminated, model)


def _terminated_finding(container: Manifest, ended: Manifest, model: ScoringModel) -> Finding:
    name = container["name"]
    said = finding_from_termination(ended.get("message") or "")
    if ended.get("reason") == "OOMKilled":
        limit = model.resource_limits.get("memory")
        return Finding(
            Reason.OUT_OF_MEMORY,
            f"container {name} was killed at its memory limit{f' of {limit}' if limit else ''}",
            "Raise spec.resources.limits.memory; twice the size of the model is a good first guess.",
        )
    if said:
        return said
    words = shorten((ended.get("message") or "").strip(), 600)
    code = ended.get("exitCode")
    if name == "scorer" and code in _STOPPED_BY_SIGNAL and not container.get("started"):
        return Finding(
            Reason.PROBE_TIMEOUT,
            f"the scorer was stopped with exit code {code} before it was ready, "
            f"as the kubelet does after spec.probes.startupSeconds ({model.startup_seconds} s)",
            "Raise spec.probes.startupSeconds if the model needs longer to load.",
        )
    return Finding(
        Reason.CRASH_LOOP,
        f"container {name} ended with exit code {code}"
        + (f"; last words: {words}" if words else ""),
        f"See kubectl logs --previous -c {name} for the pod.",
    )
