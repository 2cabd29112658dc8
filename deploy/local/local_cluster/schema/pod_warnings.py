"""What is allowed in a pod spec and yet most likely a mistake: the API server's warnings about it."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]

_TEMPLATED = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job"})


def warn_pods(obj: Manifest, kind: str) -> list[str]:
    """List the warnings about the pods that an object is or makes.

    Args:
        obj: a valid object.
        kind: its kind; kinds without pods get no warnings.
    """
    spec = obj.get("spec") or {}
    if kind == "Pod":
        return warn_pod_spec(spec, "spec")
    if kind in _TEMPLATED:
        return warn_pod_spec((spec.get("template") or {}).get("spec") or {}, "spec.template.spec")
    return []


def warn_pod_spec(spec: Manifest, path: str) -> list[str]:
    """List the warnings about a pod spec: environment variables and ports that are set twice."""
    warnings: list[str] = []
    containers = [
        (f"{path}.{field}[{position}]", container)
        for field in ("initContainers", "containers")
        for position, container in enumerate(spec.get(field) or ())
    ]
    for where, container in containers:
        seen: set[str] = set()
        for position, variable in enumerate(container.get("env") or ()):
            name, value = variable["name"], variable.get("value") or ""
            reference = f"$({name})"
            # X="$(X):more" builds on the earlier definition and hides nothing.
            if name in seen and (value == reference or reference not in value):
                warnings.append(
                    f'{where}.env[{position}]: hides previous definition of "{name}", '
                    "which may be dropped when using apply"
                )
            seen.add(name)
    ports: dict[tuple[Any, ...], str] = {}
    names: dict[str, str] = {}
    doubled: list[str] = []
    for where, container in containers:
        for position, port in enumerate(container.get("ports") or ()):
            place = f"{where}.ports[{position}]"
            key = tuple(port.get(f) for f in ("containerPort", "protocol", "hostIP", "hostPort"))
            if key in ports:
                warnings.append(f"{place}: duplicate port definition with {ports[key]}")
            ports.setdefault(key, place)
            name = port.get("name")
            if name and name in names:
                doubled.append(
                    f'{place}: duplicate port name "{name}" with {names[name]}, services and probes that select '
                    f"ports by name will use {names[name]}"
                )
            elif name:
                names[name] = place
    return warnings + doubled
