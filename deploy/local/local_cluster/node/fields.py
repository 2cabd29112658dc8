"""The downward API: fields and resources of a pod as text. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from local_cluster.client import Manifest
from local_cluster.quantities import parse_quantity

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class FieldError(Exception):
    """A fieldRef or resourceFieldRef that names nothing; the message is the kubelet's."""


def read_field(pod: Manifest, path: str, *, addresses: Mapping[str, str]) -> str:
    """The value of a ``fieldRef``.

    Args:
        pod: the pod.
        path: for example ``metadata.name`` or ``metadata.labels['app']``.
        addresses: ``podIP`` and ``hostIP``, which the agent knows before the API does.

    Raises:
        FieldError: the path is not supported.
    """
    metadata: dict[str, Any] = pod["metadata"]
    match = _SUBSCRIPT.fullmatch(path)
    if match is not None:
        return str((metadata.get(match[1]) or {}).get(match[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = metadata.get(path.partition(".")[2]) or {}
        return "\n".join(f"{key}={_quote(value)}" for key, value in sorted(entries.items()))
    if path in ("metadata.name", "metadata.namespace", "metadata.uid"):
        return str(metadata.get(path.partition(".")[2], ""))
    if path == "spec.nodeName":
        return str(pod["spec"].get("nodeName", ""))
    if path == "spec.serviceAccountName":
        return str(pod["spec"].get("serviceAccountName", "default"))
    if path in ("status.podIP", "status.podIPs"):
        return addresses["podIP"]
    if path in ("status.hostIP", "status.hostIPs"):
        return addresses["hostIP"]
    raise FieldError(f"unsupported fieldPath: {path}")


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def read_resource(
    pod: Manifest, container_name: str, selector: Manifest, allocatable: Mapping[str, str]
) -> str:
    """The value of a ``resourceFieldRef``; without a limit it is what the node can give.

    Args:
        pod: the pod.
        container_name: the container that asks, unless the selector names another.
        selector: the ``resourceFieldRef``: resource, optional containerName and divisor.
        allocatable: the node's allocatable resources.

    Raises:
        FieldError: no such container or resource.
    """
    name = selector.get("containerName") or container_name
    spec = pod["spec"]
    containers = [*spec["containers"], *(spec.get("initContainers") or ())]
    container = next((item for item in containers if item["name"] == name), None)
    if container is None:
        raise FieldError(f"container {name} not found")
    kind, _, resource = str(selector["resource"]).partition(".")
    if kind not in ("limits", "requests") or not resource:
        raise FieldError(f"Unsupported container resource : {selector['resource']}")
    resources = container.get("resources") or {}
    value = (resources.get(kind) or {}).get(resource)
    if value is None and kind == "limits":
        value = allocatable.get(resource)
    amount = parse_quantity(value) if value is not None else Decimal(0)
    divisor = parse_quantity(selector.get("divisor") or "1")
    return str(_divide_up(amount, divisor if divisor else Decimal(1)))


def cpu_limit_cores(container: Manifest, allocatable: Mapping[str, str]) -> int:
    """The container's CPU limit in whole cores, at least 1; the node's without a limit."""
    limits = (container.get("resources") or {}).get("limits") or {}
    return max(
        1, _divide_up(parse_quantity(limits.get("cpu", allocatable.get("cpu", "1"))), Decimal(1))
    )


def _divide_up(value: Decimal, divisor: Decimal) -> int:
    return int((value / divisor).to_integral_value(ROUND_CEILING))
