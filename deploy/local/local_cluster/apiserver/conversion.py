"""Versions: an object from its storage version to the version that was asked for, and back.

Only two built-in types are served in two versions from one store: autoscalers and events. Custom resources change
nothing but their apiVersion (conversion strategy None).
"""

from __future__ import annotations

import orjson

from local_cluster.apiserver.resources import Manifest, Resource

_V1_EXTRAS = "autoscaling.alpha.kubernetes.io/"

_EVENT_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
_CORE_EVENT_NAMES = {new: old for old, new in _EVENT_NAMES.items()}


def from_storage(obj: Manifest, resource: Resource) -> Manifest:
    """Convert a stored object to the version of `resource`; returns it unchanged where they are the same."""
    if obj.get("apiVersion") == resource.api_version:
        return obj
    converted = {**obj, "apiVersion": resource.api_version}
    if resource.group == "events.k8s.io":
        return _rename(converted, _EVENT_NAMES)
    if resource.storage_key == "autoscaling/horizontalpodautoscalers":
        return _autoscaler_to_v1(converted)
    return converted


def to_storage(obj: Manifest, resource: Resource) -> Manifest:
    """Convert an object from the version of `resource` to its storage version."""
    if resource.api_version == resource.storage_api_version:
        return obj
    converted = {**obj, "apiVersion": resource.storage_api_version}
    if resource.group == "events.k8s.io":
        return _rename(converted, _CORE_EVENT_NAMES)
    if resource.storage_key == "autoscaling/horizontalpodautoscalers":
        return _autoscaler_to_v2(converted)
    return converted


def _rename(obj: Manifest, names: dict[str, str]) -> Manifest:
    return {names.get(key, key): value for key, value in obj.items()}


def _is_plain_cpu(metric: Manifest, value: str) -> bool:
    target = metric.get("resource", {}).get(value, {})
    return (
        metric.get("type") == "Resource"
        and metric["resource"].get("name") == "cpu"
        and "averageUtilization" in target
    )


def _autoscaler_to_v1(obj: Manifest) -> Manifest:
    spec, status = dict(obj.get("spec", {})), dict(obj.get("status", {}))
    annotations = dict(obj["metadata"].get("annotations") or {})
    metrics = list(spec.pop("metrics", None) or ())
    for metric in metrics:
        if _is_plain_cpu(metric, "target"):
            spec["targetCPUUtilizationPercentage"] = metric["resource"]["target"][
                "averageUtilization"
            ]
            metrics.remove(metric)
            break
    if metrics:
        annotations[_V1_EXTRAS + "metrics"] = orjson.dumps(metrics).decode()
    behavior = spec.pop("behavior", None)
    if behavior:
        annotations[_V1_EXTRAS + "behavior"] = orjson.dumps(behavior).decode()
    current = list(status.pop("currentMetrics", None) or ())
    for metric in current:
        if _is_plain_cpu(metric, "current"):
            status["currentCPUUtilizationPercentage"] = metric["resource"]["current"][
                "averageUtilization"
            ]
    if current:
        annotations[_V1_EXTRAS + "current-metrics"] = orjson.dumps(current).decode()
    conditions = status.pop("conditions", None)
    if conditions:
        annotations[_V1_EXTRAS + "conditions"] = orjson.dumps(conditions).decode()
    status.setdefault("currentReplicas", 0)
    status.setdefault("desiredReplicas", 0)
    metadata = {**obj["metadata"]}
    if annotations:
        metadata["annotations"] = annotations
    return {**obj, "metadata": metadata, "spec": spec, "status": status}


def _autoscaler_to_v2(obj: Manifest) -> Manifest:
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    annotations = dict(obj["metadata"].get("annotations") or {})
    percentage = spec.pop("targetCPUUtilizationPercentage", None)
    metrics = _load(annotations.pop(_V1_EXTRAS + "metrics", "")) or []
    if percentage is not None:
        target = {"type": "Utilization", "averageUtilization": percentage}
        metrics = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}, *metrics]
    if metrics:
        spec["metrics"] = metrics
    if behavior := _load(annotations.pop(_V1_EXTRAS + "behavior", "")):
        spec["behavior"] = behavior
    status.pop("currentCPUUtilizationPercentage", None)
    if current := _load(annotations.pop(_V1_EXTRAS + "current-metrics", "")):
        status["currentMetrics"] = current
    if conditions := _load(annotations.pop(_V1_EXTRAS + "conditions", "")):
        status["conditions"] = conditions
    metadata = {k: v for k, v in obj["metadata"].items() if k != "annotations"}
    if annotations:
        metadata["annotations"] = annotations
    return {**obj, "metadata": metadata, "spec": spec, "status": status}


def _load(text: str) -> list[Manifest]:
    try:
        value = orjson.loads(text) if text else []
    except orjson.JSONDecodeError:
        return []
    return value
