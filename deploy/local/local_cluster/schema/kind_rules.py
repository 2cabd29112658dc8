"""Validation of the built-in kinds that users of the local cluster write, beyond what their schemas say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from local_cluster.schema import names, workloads
from local_cluster.schema.errors import FieldError, forbidden, invalid, required, unsupported
from local_cluster.schema.network_rules import validate_ingress, validate_service

Manifest = dict[str, Any]
MAX_WINDOW_SECONDS = 3600  # of autoscaling/v2
MAX_PERIOD_SECONDS = 1800
_METRIC_TYPES = ("ContainerResource", "External", "Object", "Pods", "Resource")
_NOT_BELOW_ZERO = "must be greater than or equal to zero"
KindRule = Callable[[Manifest, Manifest | None], list[FieldError]]


def validate_kind(obj: Manifest, group: str, kind: str, old: Manifest | None) -> list[FieldError]:
    """Check an object against the rules of its kind.

    Args:
        obj: the defaulted object.
        group: API group, empty for the core.
        kind: the kind; unknown kinds have no rules.
        old: the stored object, None for a create.
    """
    rule = _RULES.get((group, kind))
    return rule(obj, old) if rule is not None else []


def _autoscaler(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    low, high = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if low is not None and low < 1:
        errors.append(invalid("spec.minReplicas", low, "must be greater than or equal to 1"))
    if high < 1:
        errors.append(required("spec.maxReplicas", "must be set and greater than 0"))
    if low is not None and high < low:
        errors.append(
            invalid("spec.maxReplicas", high, "must be greater than or equal to `minReplicas`")
        )
    reference = spec.get("scaleTargetRef") or {}
    for field in ("kind", "name"):
        if not reference.get(field):
            errors.append(required(f"spec.scaleTargetRef.{field}"))
    if not reference.get("apiVersion"):
        text = "apiVersion must specify API group"
        errors.append(invalid("spec.scaleTargetRef.apiVersion", "", text))
    for position, metric in enumerate(spec.get("metrics") or ()):
        path = f"spec.metrics[{position}]"
        kind = metric.get("type") or ""
        source = metric.get(kind[:1].lower() + kind[1:])
        if kind not in _METRIC_TYPES:
            errors.append(unsupported(f"{path}.type", kind, _METRIC_TYPES))
        elif source is None:
            field = kind[:1].lower() + kind[1:]
            text = "must populate information for the given metric source"
            errors.append(required(f"{path}.{field}", text))
        elif source is not None:
            target = source.get("target") or {}
            if not target.get("type"):
                errors.append(
                    required(
                        f"{path}.{kind[:1].lower() + kind[1:]}.target.type",
                        "must specify a metric target type",
                    )
                )
            share = target.get("averageUtilization")
            if share is not None and share < 1:
                errors.append(
                    invalid(f"{path}.resource.target.averageUtilization", share, names.POSITIVE)
                )
            if kind == "Resource" and share is None and target.get("averageValue") is None:
                text = "must set either a target raw value or a target utilization"
                errors.append(required(f"{path}.resource.target.averageUtilization", text))
    if low == 0 and not any(
        m.get("type") in ("Object", "External") for m in spec.get("metrics") or ()
    ):
        text = "must specify at least one Object or External metric to support scaling to zero replicas"
        errors.append(forbidden("spec.metrics", text))
    for field in ("scaleUp", "scaleDown"):
        rules = (spec.get("behavior") or {}).get(field)
        if rules is not None:
            errors.extend(_scaling_rules(rules, f"spec.behavior.{field}"))
    return errors


def _scaling_rules(rules: Manifest, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    window = rules.get("stabilizationWindowSeconds")
    if window is not None and window < 0:
        errors.append(invalid(f"{path}.stabilizationWindowSeconds", window, _NOT_BELOW_ZERO))
    if window is not None and window > MAX_WINDOW_SECONDS:
        text = f"must be less than or equal to {MAX_WINDOW_SECONDS}"
        errors.append(invalid(f"{path}.stabilizationWindowSeconds", window, text))
    if rules.get("selectPolicy") not in (None, "Max", "Min", "Disabled"):
        known = ("Disabled", "Max", "Min")
        errors.append(unsupported(f"{path}.selectPolicy", rules["selectPolicy"], known))
    for position, policy in enumerate(rules.get("policies") or ()):
        where = f"{path}.policies[{position}]"
        if policy.get("type") not in ("Percent", "Pods"):
            errors.append(
                unsupported(f"{where}.type", policy.get("type") or "", ("Percent", "Pods"))
            )
        value, period = policy.get("value") or 0, policy.get("periodSeconds") or 0
        if value <= 0:
            errors.append(invalid(f"{where}.value", value, "must be greater than zero"))
        if period <= 0:
            errors.append(invalid(f"{where}.periodSeconds", period, "must be greater than zero"))
        if period > MAX_PERIOD_SECONDS:
            text = f"must be less than or equal to {MAX_PERIOD_SECONDS}"
            errors.append(invalid(f"{where}.periodSeconds", period, text))
    return errors


def _disruption_budget(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        errors.append(invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set"))
    for field in ("minAvailable", "maxUnavailable"):
        problems = workloads.int_or_percent(spec.get(field), f"spec.{field}")
        errors.extend(problems or workloads.over_all(spec.get(field), f"spec.{field}"))
    if spec.get("selector"):
        errors.extend(workloads.validate_selector(spec["selector"], "spec.selector"))
    return errors


def _keyed(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    errors: list[FieldError] = []
    size = 0
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    for field, values in (("data", data), ("binaryData", binary)):
        for key, value in values.items():
            size += len(value or "")
            errors.extend(invalid(f"{field}[{key}]", key, text) for text in names.config_key(key))
            if field == "binaryData" and key in data:
                errors.append(
                    invalid(f"binaryData[{key}]", key, "duplicate of key present in data")
                )
    if size > 1024 * 1024 * (4 / 3 if "type" in obj else 1):
        errors.append(
            FieldError("data", "FieldValueTooLong", "Too long: may not be more than 1048576 bytes")
        )
    if old is not None and old.get("immutable"):
        text = "field is immutable when `immutable` is set"
        if not obj.get("immutable"):
            errors.append(forbidden("immutable", text))
        errors.extend(
            forbidden(field, text)
            for field in ("data", "binaryData")
            if (obj.get(field) or {}) != (old.get(field) or {})
        )
    return errors


def _secret(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    errors = _keyed(obj, old)
    kind, data = obj.get("type"), obj.get("data") or {}
    needed = {
        "kubernetes.io/tls": ("tls.crt", "tls.key"),
        "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
        "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    }
    errors.extend(required(f"data[{key}]") for key in needed.get(str(kind), ()) if key not in data)
    if old is not None and old.get("type") != kind:
        errors.append(invalid("type", kind, names.IMMUTABLE))
    return errors


def _role_binding(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    errors: list[FieldError] = []
    reference = obj.get("roleRef") or {}
    if reference.get("kind") not in ("Role", "ClusterRole"):
        errors.append(
            unsupported("roleRef.kind", reference.get("kind") or "", ("ClusterRole", "Role"))
        )
    if not reference.get("name"):
        errors.append(required("roleRef.name"))
    for position, subject in enumerate(obj.get("subjects") or ()):
        path = f"subjects[{position}]"
        if not subject.get("name"):
            errors.append(required(f"{path}.name"))
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            errors.append(required(f"{path}.namespace"))
    if old is not None and old.get("roleRef") != obj.get("roleRef"):
        errors.append(invalid("roleRef", reference, "cannot change roleRef"))
    return errors


def _lease(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    duration = spec.get("leaseDurationSeconds")
    if duration is not None and duration <= 0:
        errors.append(invalid("spec.leaseDurationSeconds", duration, names.POSITIVE))
    transitions = spec.get("leaseTransitions")
    if transitions is not None and transitions < 0:
        errors.append(invalid("spec.leaseTransitions", transitions, names.NOT_NEGATIVE))
    return errors


def _endpoint_slice(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    errors: list[FieldError] = []
    kind = obj.get("addressType")
    if not kind:
        errors.append(required("addressType"))
    elif kind not in ("IPv4", "IPv6", "FQDN"):
        errors.append(unsupported("addressType", kind, ("FQDN", "IPv4", "IPv6")))
    for position, endpoint in enumerate(obj.get("endpoints") or ()):
        if not endpoint.get("addresses"):
            errors.append(
                required(f"endpoints[{position}].addresses", "must contain at least 1 address")
            )
    if old is not None and old.get("addressType") != kind:
        errors.append(invalid("addressType", kind, names.IMMUTABLE))
    return errors


def _quota(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in (obj.get("spec") or {}).get("hard") or {}:
        errors.extend(
            invalid(f"spec.hard[{name}]", name, text) for text in names.qualified_name(name)
        )
    return errors


def _crd(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    from local_cluster.schema.definition import validate_crd, validate_crd_update

    errors = validate_crd(obj)
    return errors + (validate_crd_update(obj, old) if old is not None else [])


_RULES: dict[tuple[str, str], KindRule] = {
    ("apps", "Deployment"): workloads.validate_deployment,
    ("apps", "ReplicaSet"): workloads.validate_replica_set,
    ("apps", "DaemonSet"): workloads.validate_daemon_set,
    ("apps", "StatefulSet"): workloads.validate_stateful_set,
    ("batch", "Job"): workloads.validate_job,
    ("batch", "CronJob"): workloads.validate_cron_job,
    ("", "Pod"): workloads.validate_pod,
    ("", "Service"): validate_service,
    ("", "Secret"): _secret,
    ("", "ConfigMap"): _keyed,
    ("", "ResourceQuota"): _quota,
    ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
    ("networking.k8s.io", "Ingress"): validate_ingress,
    ("policy", "PodDisruptionBudget"): _disruption_budget,
    ("rbac.authorization.k8s.io", "RoleBinding"): _role_binding,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): _role_binding,
    ("coordination.k8s.io", "Lease"): _lease,
    ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _crd,
}
