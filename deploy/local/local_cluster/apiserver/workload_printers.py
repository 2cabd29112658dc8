"""Rows of workloads and of what scales and guards them."""

from __future__ import annotations

from local_cluster.apiserver.clock import format_age, format_duration, parse_time
from local_cluster.apiserver.resources import Manifest
from local_cluster.apiserver.row_parts import (
    NONE,
    Cells,
    Printer,
    join_containers,
    join_labels,
    read_name,
    show_age,
)
from local_cluster.apiserver.selectors import format_label_selector


def _deployment(obj: Manifest) -> Cells:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    ready = f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}"
    return [
        read_name(obj), ready, status.get("updatedReplicas", 0), status.get("availableReplicas", 0), show_age(obj),
        *join_containers(spec.get("template")), format_label_selector(spec.get("selector")),
    ]  # fmt: skip


def _replica_set(obj: Manifest) -> Cells:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    return [
        read_name(obj), spec.get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0), show_age(obj),
        *join_containers(spec.get("template")), format_label_selector(spec.get("selector")),
    ]  # fmt: skip


def _replication_controller(obj: Manifest) -> Cells:
    spec = obj.get("spec", {})
    return [
        *_replica_set({**obj, "spec": {**spec, "selector": {}}})[:-1],
        join_labels(spec.get("selector")),
    ]


def _stateful_set(obj: Manifest) -> Cells:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    ready = f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}"
    return [read_name(obj), ready, show_age(obj), *join_containers(spec.get("template"))]


def _daemon_set(obj: Manifest) -> Cells:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    node_selector = (spec.get("template", {}).get("spec") or {}).get("nodeSelector")
    return [
        read_name(obj), status.get("desiredNumberScheduled", 0), status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0), status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0),
        join_labels(node_selector), show_age(obj),
        *join_containers(spec.get("template")), format_label_selector(spec.get("selector")),
    ]  # fmt: skip


def _job(obj: Manifest) -> Cells:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    done, wanted = status.get("succeeded", 0), spec.get("completions")
    parallelism = spec.get("parallelism", 1)
    if wanted is not None:
        completions = f"{done}/{wanted}"
    else:
        completions = f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"
    start, end = (
        parse_time(status.get("startTime", "")),
        parse_time(status.get("completionTime", "")),
    )
    if start is None:
        duration = ""
    elif end is None:
        duration = format_age(status["startTime"])
    else:
        duration = format_duration(end - start)
    holding = {c["type"] for c in status.get("conditions") or () if c.get("status") == "True"}
    state = "Running"
    if "Complete" in holding:
        state = "Complete"
    elif "Failed" in holding:
        state = "Failed"
    elif obj["metadata"].get("deletionTimestamp"):
        state = "Terminating"
    elif "Suspended" in holding:
        state = "Suspended"
    elif "FailureTarget" in holding:
        state = "FailureTarget"
    elif "SuccessCriteriaMet" in holding:
        state = "SuccessCriteriaMet"
    return [
        read_name(obj), state, completions, duration, show_age(obj),
        *join_containers(spec.get("template")), format_label_selector(spec.get("selector")),
    ]  # fmt: skip


def _cron_job(obj: Manifest) -> Cells:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    last = status.get("lastScheduleTime")
    job = spec.get("jobTemplate", {}).get("spec", {})
    return [
        read_name(obj), spec.get("schedule", ""), spec.get("timeZone", NONE), bool(spec.get("suspend")),
        len(status.get("active") or ()), format_age(last) if last else NONE, show_age(obj),
        *join_containers(job.get("template")), format_label_selector(job.get("selector")),
    ]  # fmt: skip


def _metric(spec: Manifest, statuses: list[Manifest], index: int) -> str:
    kind = spec.get("type", "")
    field = {
        "ContainerResource": "containerResource",
        "Resource": "resource",
        "Pods": "pods",
        "Object": "object",
        "External": "external",
    }.get(kind, "")
    source = spec.get(field, {})
    target = source.get("target", {})
    current = (statuses[index].get(field) or {}).get("current", {}) if index < len(statuses) else {}
    if "averageUtilization" in target:
        value = current.get("averageUtilization")
        shown = f"{value}%" if value is not None else "<unknown>"
        text = f"{shown}/{target['averageUtilization']}%"
    elif "averageValue" in target:
        average = " (avg)" if field in {"object", "external"} else ""
        text = f"{current.get('averageValue', '<unknown>')}/{target['averageValue']}{average}"
    else:
        text = f"{current.get('value', '<unknown>')}/{target.get('value', '<auto>')}"
    return f"{source['name']}: {text}" if "name" in source else text


def _autoscaler(obj: Manifest) -> Cells:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    reference = spec.get("scaleTargetRef", {})
    if "metrics" not in spec and obj.get("apiVersion") == "autoscaling/v1":
        wanted = spec.get("targetCPUUtilizationPercentage")
        value = status.get("currentCPUUtilizationPercentage")
        shown = f"{value}%" if value is not None else "<unknown>"
        targets = f"cpu: {shown}/{wanted}%" if wanted is not None else NONE
    else:
        metrics = spec.get("metrics") or []
        statuses = status.get("currentMetrics") or []
        texts = [_metric(metric, statuses, i) for i, metric in enumerate(metrics)]
        targets = ", ".join(texts[:2]) + (f" + {len(texts) - 2} more..." if len(texts) > 2 else "")
    minimum = spec.get("minReplicas")
    return [
        read_name(obj), f"{reference.get('kind', '')}/{reference.get('name', '')}", targets or NONE,
        str(minimum) if minimum is not None else "<unset>", spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0), show_age(obj),
    ]  # fmt: skip


def _disruption_budget(obj: Manifest) -> Cells:
    spec = obj.get("spec", {})
    return [
        read_name(obj), str(spec.get("minAvailable", "N/A")), str(spec.get("maxUnavailable", "N/A")),
        obj.get("status", {}).get("disruptionsAllowed", 0), show_age(obj),
    ]  # fmt: skip


def _controller_revision(obj: Manifest) -> Cells:
    owner = next(
        (o for o in obj["metadata"].get("ownerReferences") or () if o.get("controller")), None
    )
    group, _, _ = (owner or {}).get("apiVersion", "").rpartition("/")
    shown = NONE
    if owner:
        kind = owner["kind"].lower()
        shown = f"{kind}.{group}/{owner['name']}" if group else f"{kind}/{owner['name']}"
    return [read_name(obj), shown, obj.get("revision", 0), show_age(obj)]


def _pod_template(obj: Manifest) -> Cells:
    template = obj.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels")
    return [read_name(obj), *join_containers(template), join_labels(labels)]


WORKLOAD_PRINTERS: dict[str, Printer] = {
    "/podtemplates": _pod_template,
    "/replicationcontrollers": _replication_controller,
    "apps/controllerrevisions": _controller_revision,
    "apps/daemonsets": _daemon_set,
    "apps/deployments": _deployment,
    "apps/replicasets": _replica_set,
    "apps/statefulsets": _stateful_set,
    "autoscaling/horizontalpodautoscalers": _autoscaler,
    "batch/cronjobs": _cron_job,
    "batch/jobs": _job,
    "policy/poddisruptionbudgets": _disruption_budget,
}
"""Printers by storage key."""
