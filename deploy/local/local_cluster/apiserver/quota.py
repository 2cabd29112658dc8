"""ResourceQuotas: what a namespace uses, and whether a write would use too much.

Counts objects and the requests and limits of pods (https://kubernetes.io/docs/concepts/policy/resource-quotas/).
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.errors import forbidden
from local_cluster.apiserver.resources import Manifest, Resource
from local_cluster.quantities import format_quantity, parse_quantity

QUOTA_KEY = "/resourcequotas"
Usage = dict[str, Decimal]

_COUNTED = frozenset(
    {
        "configmaps",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "services",
    }
)
_COMPUTE = ("cpu", "memory", "ephemeral-storage")


def _container_sum(pod: Manifest, kind: str) -> Usage:
    total: Usage = {}
    spec = pod.get("spec") or {}
    for container in spec.get("containers") or ():
        for name, value in ((container.get("resources") or {}).get(kind) or {}).items():
            total[name] = total.get(name, Decimal(0)) + parse_quantity(value)
    for container in spec.get("initContainers") or ():
        for name, value in ((container.get("resources") or {}).get(kind) or {}).items():
            total[name] = max(total.get(name, Decimal(0)), parse_quantity(value))
    return total


def measure(obj: Manifest, resource: Resource) -> Usage:
    """Measure what one object counts for."""
    usage: Usage = {f"count/{resource.qualified}": Decimal(1)}
    if resource.group == "" and resource.plural in _COUNTED:
        usage[resource.plural] = Decimal(1)
    if resource.storage_key == "/services":
        kind = (obj.get("spec") or {}).get("type")
        ports = sum(1 for p in (obj.get("spec") or {}).get("ports") or () if p.get("nodePort"))
        usage["services.nodeports"] = Decimal(ports)
        usage["services.loadbalancers"] = Decimal(1 if kind == "LoadBalancer" else 0)
    elif resource.storage_key == "/persistentvolumeclaims":
        requests = ((obj.get("spec") or {}).get("resources") or {}).get("requests") or {}
        usage["requests.storage"] = parse_quantity(requests.get("storage", "0"))
    elif resource.storage_key == "/pods":
        if (obj.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
            return {f"count/{resource.qualified}": Decimal(1)}
        for kind in ("requests", "limits"):
            for name, value in _container_sum(obj, kind).items():
                usage[f"{kind}.{name}"] = value
                if kind == "requests" and name in _COMPUTE:
                    usage[name] = value
    return usage


def _selects(quota: Manifest, obj: Manifest, resource: Resource) -> bool:
    spec = quota.get("spec") or {}
    scopes = list(spec.get("scopes") or ())
    expressions = ((spec.get("scopeSelector") or {}).get("matchExpressions")) or ()
    if not scopes and not expressions:
        return True
    if resource.storage_key != "/pods":
        return False
    pod = obj.get("spec") or {}
    best_effort = (obj.get("status") or {}).get("qosClass") == "BestEffort"
    holds: dict[str, Callable[[], bool]] = {
        "BestEffort": lambda: best_effort,
        "NotBestEffort": lambda: not best_effort,
        "Terminating": lambda: pod.get("activeDeadlineSeconds") is not None,
        "NotTerminating": lambda: pod.get("activeDeadlineSeconds") is None,
        "PriorityClass": lambda: bool(pod.get("priorityClassName")),
    }
    if not all(holds.get(scope, lambda: False)() for scope in scopes):
        return False
    for expression in expressions:
        scope, operator = expression.get("scopeName"), expression.get("operator")
        values = expression.get("values") or ()
        if scope == "PriorityClass" and operator in {"In", "NotIn"}:
            if (pod.get("priorityClassName") in values) is not (operator == "In"):
                return False
        elif holds.get(str(scope), lambda: False)() is (operator == "DoesNotExist"):
            return False
    return True


def derive_usage(quota: Manifest, cluster: Cluster) -> Usage:
    """Add up what a namespace uses of what a quota limits."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    used: Usage = {name: Decimal(0) for name in hard}
    for resource in cluster.registry.stored():
        if not resource.namespaced or not _may_count(resource, hard):
            continue
        for entry in cluster.store.entries(resource.storage_key, quota["metadata"]["namespace"]):
            if _selects(quota, entry.obj, resource):
                for name, value in measure(entry.obj, resource).items():
                    if name in used:
                        used[name] += value
    return used


def _may_count(resource: Resource, hard: Manifest) -> bool:
    if resource.storage_key in {"/pods", "/services", "/persistentvolumeclaims"}:
        return True
    return f"count/{resource.qualified}" in hard or (
        resource.group == "" and resource.plural in hard
    )


def format_usage(name: str, value: Decimal) -> str:
    """Format an amount in the unit that people write it in."""
    if name.rpartition(".")[2] in {"memory", "storage", "ephemeral-storage"} or "hugepages" in name:
        for suffix, size in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
            if value and value % size == 0:
                return format_quantity(f"{int(value // size)}{suffix}")
    millis = value * 1000
    if millis == millis.to_integral_value():
        return format_quantity(f"{int(millis)}m")
    return format_quantity(str(value))


def check_quotas(obj: Manifest, resource: Resource, cluster: Cluster, old: Manifest | None) -> None:
    """Refuse a write that would exceed a quota of its namespace.

    Args:
        obj: the object to be stored.
        resource: its type.
        cluster: where quotas and other objects are.
        old: what it replaces, None for a new object.

    Raises:
        ApiError: 403, a quota would be exceeded, or limits something that the object does not state.
    """
    quotas = cluster.store.entries(QUOTA_KEY, obj["metadata"].get("namespace", ""))
    if not quotas:
        return
    usage = measure(obj, resource)
    before = measure(old, resource) if old is not None else {}
    added = {name: value - before.get(name, Decimal(0)) for name, value in usage.items()}
    name = obj["metadata"]["name"]
    for entry in quotas:
        quota = entry.obj
        hard = (quota.get("spec") or {}).get("hard") or {}
        if not _selects(quota, obj, resource):
            continue
        if resource.storage_key == "/pods" and old is None:
            missing = _missing(obj, hard)
            if missing:
                raise forbidden(
                    resource, name, f"failed quota: {entry.name}: must specify {missing}"
                )
        touched = {k: v for k, v in added.items() if k in hard and v > 0}
        if not touched:
            continue
        used = derive_usage(quota, cluster)
        over = sorted(k for k, v in touched.items() if used[k] + v > parse_quantity(hard[k]))
        if over:
            parts = (
                ("requested", touched),
                ("used", used),
            )
            texts = [
                f"{label}: " + ",".join(f"{k}={format_usage(k, v[k])}" for k in over)
                for label, v in parts
            ]
            texts.append("limited: " + ",".join(f"{k}={hard[k]}" for k in over))
            raise forbidden(resource, name, f"exceeded quota: {entry.name}, {', '.join(texts)}")


def _missing(pod: Manifest, hard: Manifest) -> str:
    """Name the containers that do not state what a quota limits, as ``limits.cpu for: a,b; …``."""
    texts = []
    for limited in sorted(hard):
        kind, _, name = limited.rpartition(".")
        if not kind and limited in {"cpu", "memory"}:
            kind, name = "requests", limited
        if kind not in {"requests", "limits"} or name not in _COMPUTE:
            continue
        lacking = [
            c["name"]
            for c in (pod.get("spec") or {}).get("containers") or ()
            if name not in ((c.get("resources") or {}).get(kind) or {})
        ]
        if lacking:
            texts.append(f"{limited} for: {','.join(sorted(lacking))}")
    return "; ".join(texts)
