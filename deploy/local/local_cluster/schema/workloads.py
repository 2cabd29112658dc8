"""Validation of pods and of what runs them: Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs, CronJobs."""

from __future__ import annotations

from typing import Any

from local_cluster.schema import names
from local_cluster.schema.errors import FieldError, forbidden, invalid, required, unsupported
from local_cluster.schema.metadata import validate_labels
from local_cluster.schema.pod_rules import validate_pod_spec

Manifest = dict[str, Any]

# What may change in a pod after it was created.
_POD_MUTABLE = (
    "activeDeadlineSeconds",
    "tolerations",
    "terminationGracePeriodSeconds",
    "schedulingGates",
)
_STATEFUL_MUTABLE = frozenset(
    {
        "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
    }
)  # fmt: skip


def validate_selector(selector: Manifest, path: str) -> list[FieldError]:
    """Check a label selector."""
    errors = validate_labels(selector.get("matchLabels"), f"{path}.matchLabels")
    for position, expression in enumerate(selector.get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{position}]"
        operator, values = expression.get("operator"), expression.get("values")
        if operator in ("In", "NotIn"):
            if not values:
                errors.append(
                    required(
                        f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'"
                    )
                )
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                errors.append(forbidden(f"{where}.values", text))
        else:
            errors.append(
                invalid(f"{where}.operator", operator or "", "not a valid selector operator")
            )
        key = expression.get("key") or ""
        errors.extend(invalid(f"{where}.key", key, text) for text in names.qualified_name(key))
    return errors


def selects(selector: Manifest, labels: Manifest) -> bool:
    """Tell whether a label selector matches labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or ():
        key, operator, values = (
            expression.get("key"),
            expression.get("operator"),
            expression.get("values") or (),
        )
        if operator == "In" and labels.get(key) not in values:
            return False
        if operator == "NotIn" and key in labels and labels[key] in values:
            return False
        if operator == "Exists" and key not in labels:
            return False
        if operator == "DoesNotExist" and key in labels:
            return False
    return True


def _not_negative(spec: Manifest, fields: tuple[str, ...], errors: list[FieldError]) -> None:
    for field in fields:
        value = spec.get(field)
        if isinstance(value, int) and value < 0:
            errors.append(invalid(f"spec.{field}", value, names.NOT_NEGATIVE))


def _workload(obj: Manifest, old: Manifest | None, kind: str) -> list[FieldError]:
    """Check what Deployments, ReplicaSets, DaemonSets and StatefulSets have in common."""
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    selector = spec.get("selector")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    mismatch = "`selector` does not match template `labels`"
    if selector is None:
        errors.append(required("spec.selector"))
        errors.append(invalid("spec.template.metadata.labels", labels or None, mismatch))
    else:
        errors.extend(validate_selector(selector, "spec.selector"))
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            errors.append(
                invalid("spec.selector", selector, f"empty selector is invalid for {kind}")
            )
        elif not selects(selector, labels):
            errors.append(invalid("spec.template.metadata.labels", labels or None, mismatch))
    errors.extend(validate_labels(labels, "spec.template.labels"))
    pod = template.get("spec") or {}
    errors.extend(validate_pod_spec(pod, "spec.template.spec"))
    if pod.get("restartPolicy", "Always") != "Always":
        errors.append(
            unsupported("spec.template.spec.restartPolicy", pod["restartPolicy"], ("Always",))
        )
    _not_negative(spec, ("replicas", "minReadySeconds", "revisionHistoryLimit"), errors)
    if (
        old is not None
        and selector is not None
        and (old.get("spec") or {}).get("selector") not in (None, selector)
    ):
        errors.append(invalid("spec.selector", selector, names.IMMUTABLE))
    return errors


def validate_deployment(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    """Check a Deployment."""
    errors = _workload(obj, old, "deployment")
    spec = obj.get("spec") or {}
    strategy = spec.get("strategy") or {}
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    if kind == "Recreate":
        if rolling is not None:
            text = "may not be specified when strategy `type` is 'Recreate'"
            errors.append(forbidden("spec.strategy.rollingUpdate", text))
    elif kind == "RollingUpdate" and rolling is not None:
        errors.extend(_rolling_update(rolling, "spec.strategy.rollingUpdate"))
    deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds") or 0
    if deadline is not None:
        if deadline < 0:
            errors.append(invalid("spec.progressDeadlineSeconds", deadline, names.NOT_NEGATIVE))
        if deadline <= ready:
            errors.append(
                invalid(
                    "spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds"
                )
            )
    return errors


def _rolling_update(rolling: Manifest, path: str) -> list[FieldError]:
    unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    errors = int_or_percent(unavailable, f"{path}.maxUnavailable") + int_or_percent(
        surge, f"{path}.maxSurge"
    )
    if not errors and _is_zero(unavailable) and _is_zero(surge):
        errors.append(
            invalid(f"{path}.maxUnavailable", unavailable, "may not be 0 when `maxSurge` is 0")
        )
    return errors + over_all(unavailable, f"{path}.maxUnavailable")


def over_all(value: Any, path: str) -> list[FieldError]:
    """Check that a percentage is not of more than there is."""
    if isinstance(value, str) and not names.percent(value) and int(value[:-1]) > 100:
        return [invalid(path, value, "must not be greater than 100%")]
    return []


def _is_zero(value: Any) -> bool:
    return value in (None, 0, "0%")


def int_or_percent(value: Any, path: str) -> list[FieldError]:
    """Check a count that may be a percentage."""
    if isinstance(value, str):
        return [invalid(path, value, text) for text in names.percent(value)]
    if isinstance(value, int) and value < 0:
        return [invalid(path, value, names.NOT_NEGATIVE)]
    return []


def validate_replica_set(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    """Check a ReplicaSet."""
    return _workload(obj, old, "replica set")


def validate_daemon_set(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    """Check a DaemonSet."""
    return _workload(obj, old, "daemonset")


def validate_stateful_set(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    """Check a StatefulSet."""
    errors = _workload(obj, None, "statefulset")
    if old is not None:
        before, after = old.get("spec") or {}, obj.get("spec") or {}
        if any(before.get(f) != after.get(f) for f in {*before, *after} - _STATEFUL_MUTABLE):
            text = (
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
                "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
            )
            errors.append(forbidden("spec", text))
    return errors


def validate_job(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    """Check a Job."""
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    _not_negative(
        spec,
        (
            "parallelism",
            "completions",
            "backoffLimit",
            "activeDeadlineSeconds",
            "ttlSecondsAfterFinished",
        ),
        errors,
    )
    pod = (spec.get("template") or {}).get("spec") or {}
    errors.extend(validate_pod_spec(pod, "spec.template.spec"))
    if pod.get("restartPolicy") == "Always":
        text = 'Required value: valid values: "OnFailure", "Never"'
        errors.append(FieldError("spec.template.spec.restartPolicy", "FieldValueRequired", text))
    if old is not None:
        for field in ("completions", "selector", "template"):
            before = (old.get("spec") or {}).get(field)
            if before is not None and before != spec.get(field):
                errors.append(invalid(f"spec.{field}", spec.get(field), names.IMMUTABLE))
    return errors


def validate_cron_job(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    """Check a CronJob."""
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    schedule = spec.get("schedule") or ""
    if schedule and not schedule.startswith("@") and len(schedule.split()) != 5:
        text = f"expected exactly 5 fields, found {len(schedule.split())}: [{' '.join(schedule.split())}]"
        errors.append(invalid("spec.schedule", schedule, text))
    if len(obj.get("metadata", {}).get("name", "")) > 52:
        errors.append(
            invalid("metadata.name", obj["metadata"]["name"], "must be no more than 52 characters")
        )
    pod = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template", {}).get("spec") or {}
    return errors + validate_pod_spec(pod, "spec.jobTemplate.spec.template.spec")


def validate_pod(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    """Check a Pod."""
    spec = obj.get("spec") or {}
    errors = validate_pod_spec(spec, "spec")
    if old is not None:
        before = old.get("spec") or {}
        if not before.get("nodeName") and spec.get("nodeName"):
            before = {**before, "nodeName": spec["nodeName"]}  # what binding a pod does
        if _pod_core(before) != _pod_core(spec):
            text = (
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
                "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
                "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
            )
            errors.append(forbidden("spec", text))
    return errors


def _pod_core(spec: Manifest) -> Manifest:
    core = {key: value for key, value in spec.items() if key not in _POD_MUTABLE}
    for field in ("containers", "initContainers"):
        if field in core:
            core[field] = [
                {k: v for k, v in c.items() if k not in ("image", "resources")} for c in core[field]
            ]
    return core
