"""A pod's status from the states of its containers, by the kubelet's rules. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from local_cluster.client import Manifest
from local_cluster.node.runtime import Exit
from local_cluster.quantities import parse_quantity


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container that does not run (yet, or again)."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """A container that runs since a moment, in nanoseconds since the epoch."""

    started_ns: int


ContainerState = Waiting | Running | Exit


@dataclass(slots=True)
class ContainerRecord:
    """What is known of one container.

    Args:
        spec: the container's spec.
        is_init: it is one of the init containers.
    """

    spec: Manifest
    is_init: bool = False
    state: ContainerState = field(default_factory=lambda: Waiting("ContainerCreating"))
    last_exit: Exit | None = None
    last_container_id: str = ""
    restart_count: int = 0
    ready: bool = False
    started: bool = False
    image: str = ""
    image_id: str = ""
    container_id: str = ""

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.spec["name"])

    @property
    def is_sidecar(self) -> bool:
        """An init container that runs beside the others."""
        return self.is_init and self.spec.get("restartPolicy") == "Always"

    @property
    def is_initialized(self) -> bool:
        """For an init container: whether the next one may start."""
        if self.is_sidecar:
            return self.started
        return isinstance(self.state, Exit) and self.state.exit_code == 0


def format_time(nanoseconds: int) -> str:
    """RFC 3339 in whole seconds, as the API has times."""
    return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def derive_qos_class(pod: Manifest) -> str:
    """The quality-of-service class of a pod.

    See https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/
    """
    spec = pod["spec"]
    any_set, guaranteed = False, True
    for container in [*spec["containers"], *(spec.get("initContainers") or ())]:
        resources = container.get("resources") or {}
        limits = resources.get("limits") or {}
        requests = {**limits, **(resources.get("requests") or {})}
        for name in ("cpu", "memory"):
            limit = parse_quantity(limits.get(name, "0"))
            request = parse_quantity(requests.get(name, "0"))
            any_set = any_set or bool(limit) or bool(request)
            guaranteed = guaranteed and bool(limit) and limit == request
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def derive_phase(pod: Manifest, records: Sequence[ContainerRecord]) -> str:
    """The pod's phase: Pending, Running, Succeeded or Failed."""
    policy = pod["spec"].get("restartPolicy", "Always")
    for record in records:
        if record.is_init and not record.is_initialized:
            last = record.state if isinstance(record.state, Exit) else record.last_exit
            if not record.is_sidecar and policy == "Never" and last and last.exit_code:
                return "Failed"
            if not (record.is_sidecar and record.last_exit):
                return "Pending"
    mains = [record for record in records if not record.is_init]
    if any(isinstance(r.state, Waiting) and r.last_exit is None for r in mains):
        return "Pending"
    if any(isinstance(r.state, Running) for r in mains):
        return "Running"
    exits = [r.state for r in mains if isinstance(r.state, Exit)]
    if policy == "Always" or len(exits) < len(mains):
        return "Running"
    if all(end.exit_code == 0 for end in exits):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def build_state(state: ContainerState, container_id: str) -> Manifest:
    """One container state as the API shows it."""
    if isinstance(state, Waiting):
        return {"waiting": _drop_empty({"reason": state.reason, "message": state.message})}
    if isinstance(state, Running):
        return {"running": {"startedAt": format_time(state.started_ns)}}
    return {
        "terminated": _drop_empty(
            {
                "exitCode": state.exit_code,
                "reason": state.reason,
                "message": state.message,
                "startedAt": format_time(state.started_ns),
                "finishedAt": format_time(state.finished_ns),
                "containerID": container_id,
            }
        )
    }


def _drop_empty(entries: Manifest) -> Manifest:
    return {
        key: value
        for key, value in entries.items()
        if value not in ("", None) and (value or key == "exitCode")
    }


def build_container_status(record: ContainerRecord) -> Manifest:
    """The ``containerStatuses`` entry of one container."""
    status: Manifest = {
        "name": record.name,
        "image": record.image or record.spec.get("image", ""),
        "imageID": record.image_id,
        "lastState": (
            build_state(record.last_exit, record.last_container_id) if record.last_exit else {}
        ),
        "state": build_state(record.state, record.container_id),
        "ready": record.ready,
        "restartCount": record.restart_count,
        "started": record.started,
    }
    if record.container_id:
        status["containerID"] = record.container_id
    if record.spec.get("resources"):
        status["resources"] = record.spec["resources"]
    if record.spec.get("volumeMounts"):
        status["volumeMounts"] = [
            {
                "name": mount["name"],
                "mountPath": mount["mountPath"],
                **(
                    {"readOnly": True, "recursiveReadOnly": "Disabled"}
                    if mount.get("readOnly")
                    else {}
                ),
            }
            for mount in record.spec["volumeMounts"]
        ]
    return status


def _condition(kind: str, ok: bool, reason: str = "", message: str = "") -> Manifest:
    condition = {"type": kind, "status": "True" if ok else "False", "lastProbeTime": None}
    if not ok:
        condition |= _drop_empty({"reason": reason, "message": message})
    return condition


def derive_conditions(
    pod: Manifest,
    records: Sequence[ContainerRecord],
    phase: str,
    *,
    sandbox_ready: bool,
    now: str,
) -> list[Manifest]:
    """The pod's conditions; those of other writers are kept, transition times where nothing changed."""
    pending = [r.name for r in records if r.is_init and not r.is_initialized]
    unready = [r.name for r in records if (not r.is_init or r.is_sidecar) and not r.ready]
    ended = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase)
    incomplete = f"containers with incomplete status: [{' '.join(pending)}]"
    not_ready = f"containers with unready status: [{' '.join(unready)}]"
    initialized = _condition("Initialized", not pending, "ContainersNotInitialized", incomplete)
    if phase == "Succeeded":
        initialized = _condition("Initialized", True) | {"reason": "PodCompleted"}
    if ended:
        containers_ready = _condition("ContainersReady", False, ended)
        ready = _condition("Ready", False, ended)
    else:
        reason = "ContainersNotReady"
        containers_ready = _condition("ContainersReady", not unready, reason, not_ready)
        ready = _condition("Ready", not unready, reason, not_ready)
        if not unready:
            ready = _check_gates(pod) or ready
    known = {item["type"]: item for item in (pod.get("status") or {}).get("conditions") or []}
    own = [
        _condition("PodReadyToStartContainers", sandbox_ready),
        initialized,
        ready,
        containers_ready,
        _condition("PodScheduled", True),
    ]
    generation = pod["metadata"].get("generation")
    for condition in own:
        before = known.pop(condition["type"], None)
        unchanged = before is not None and before.get("status") == condition["status"]
        condition["lastTransitionTime"] = (
            before["lastTransitionTime"]
            if unchanged and before and before.get("lastTransitionTime")
            else now
        )
        if generation:
            condition["observedGeneration"] = generation
    return [*own, *known.values()]


def _check_gates(pod: Manifest) -> Manifest | None:
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    known = {item["type"]: item for item in (pod.get("status") or {}).get("conditions") or []}
    problems = []
    for gate in gates:
        if gate not in known:
            problems.append(
                f'corresponding condition of pod readiness gate "{gate}" does not exist.'
            )
        elif known[gate].get("status") != "True":
            problems.append(
                f'the status of pod readiness gate "{gate}" is not "True", '
                f"but {known[gate].get('status')}"
            )
    if not problems:
        return None
    return _condition("Ready", False, "ReadinessGatesNotReady", ", ".join(problems))


def derive_pod_status(
    pod: Manifest,
    records: Sequence[ContainerRecord],
    *,
    pod_ip: str | None,
    host_ip: str,
    start_time: str,
    sandbox_ready: bool,
    now: str,
    failure: tuple[str, str] | None = None,
) -> Manifest:
    """The whole status of a pod.

    Args:
        pod: the pod, with the status last seen.
        records: its containers in the order of the spec, init containers first.
        pod_ip: its address, None before it has one.
        host_ip: the node's address.
        start_time: when the agent first saw it.
        sandbox_ready: whether address and volumes are there.
        now: the time, for conditions that changed.
        failure: reason and message of a pod that failed as a whole (deadline, eviction).

    Returns:
        The status; a field that must go is None, as merge patches have it.
    """
    phase = "Failed" if failure else derive_phase(pod, records)
    status: Manifest = {
        "phase": phase,
        "conditions": derive_conditions(pod, records, phase, sandbox_ready=sandbox_ready, now=now),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": start_time,
        "qosClass": derive_qos_class(pod),
        "containerStatuses": [build_container_status(r) for r in records if not r.is_init],
        "reason": failure[0] if failure else None,
        "message": failure[1] if failure else None,
    }
    if pod["metadata"].get("generation"):
        status["observedGeneration"] = pod["metadata"]["generation"]
    if pod_ip:
        status |= {"podIP": pod_ip, "podIPs": [{"ip": pod_ip}]}
    inits = [build_container_status(r) for r in records if r.is_init]
    if inits:
        status["initContainerStatuses"] = inits
    return status
