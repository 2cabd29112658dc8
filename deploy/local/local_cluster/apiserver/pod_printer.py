"""The row of a pod: its readiness, its restarts, and the STATUS that people read first."""

from __future__ import annotations

from typing import Any

from local_cluster.apiserver.clock import format_age, parse_time
from local_cluster.apiserver.resources import Manifest

NONE = "<none>"


def _terminated_reason(state: Manifest) -> str:
    if state.get("reason"):
        return str(state["reason"])
    if state.get("signal"):
        return f"Signal:{state['signal']}"
    return f"ExitCode:{state.get('exitCode', 0)}"


def _is_restartable(container: Manifest) -> bool:
    return container.get("restartPolicy") == "Always"


def _init_reason(pod: Manifest) -> str:
    """Give the ``Init:`` status while init containers are at work, or an empty string after them."""
    spec, status = pod.get("spec", {}), pod.get("status", {})
    containers = {c["name"]: c for c in spec.get("initContainers") or ()}
    for i, state in enumerate(status.get("initContainerStatuses") or ()):
        now = state.get("state") or {}
        terminated, waiting = now.get("terminated"), now.get("waiting") or {}
        if terminated is not None and terminated.get("exitCode", 0) == 0:
            continue
        if _is_restartable(containers.get(state["name"], {})) and state.get("started"):
            continue
        if terminated is not None:
            return "Init:" + _terminated_reason(terminated)
        if waiting.get("reason") and waiting["reason"] != "PodInitializing":
            return f"Init:{waiting['reason']}"
        return f"Init:{i}/{len(containers)}"
    return ""


def _status(pod: Manifest) -> str:
    status, metadata = pod.get("status", {}), pod["metadata"]
    conditions = status.get("conditions") or ()
    reason = status.get("reason") or status.get("phase", "")
    for condition in conditions:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    initializing = _init_reason(pod)
    if initializing:
        reason = initializing
    else:
        running = False
        for state in reversed(status.get("containerStatuses") or ()):
            now = state.get("state") or {}
            terminated = now.get("terminated")
            if (now.get("waiting") or {}).get("reason"):
                reason = now["waiting"]["reason"]
            elif terminated is not None:
                reason = _terminated_reason(terminated)
            elif state.get("ready") and now.get("running") is not None:
                running = True
        if reason == "Completed" and running:
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
            reason = "Running" if ready else "NotReady"
    if metadata.get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in {"Succeeded", "Failed"}:
            return "Terminating"
    return str(reason)


def _restarts(statuses: list[Manifest]) -> str:
    total = sum(state.get("restartCount", 0) for state in statuses)
    ends = [
        (state.get("lastState") or {}).get("terminated", {}).get("finishedAt") for state in statuses
    ]
    last = max((end for end in ends if end and parse_time(end)), default=None)
    return f"{total} ({format_age(last)} ago)" if total and last else str(total)


def print_pod(pod: Manifest) -> list[Any]:
    """Give the cells of a pod's row."""
    spec, status = pod.get("spec", {}), pod.get("status", {})
    sidecars = {c["name"] for c in spec.get("initContainers") or () if _is_restartable(c)}
    inits = [s for s in status.get("initContainerStatuses") or ()]
    states = list(status.get("containerStatuses") or ())
    counted = states + [s for s in inits if s["name"] in sidecars]
    ready = sum(1 for s in counted if s.get("ready"))
    total = len(spec.get("containers") or ()) + len(sidecars)
    shown = inits if _init_reason(pod) else counted
    gates = spec.get("readinessGates") or ()
    holding = {c["type"] for c in status.get("conditions") or () if c.get("status") == "True"}
    passed = sum(1 for gate in gates if gate["conditionType"] in holding)
    return [
        pod["metadata"]["name"],
        f"{ready}/{total}",
        _status(pod),
        _restarts(shown),
        format_age(pod["metadata"].get("creationTimestamp")),
        status.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        f"{passed}/{len(gates)}" if gates else NONE,
    ]
