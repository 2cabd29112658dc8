"""The addresses behind a Service: EndpointSlices and Endpoints from its pods. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from local_cluster.client import SERVICES, Manifest
from local_cluster.controllers.caches import SERVICE_NAME_LABEL
from local_cluster.controllers.owners import build_controller_reference
from local_cluster.controllers.pods import is_ready, is_terminal, is_terminating

MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGED_BY = "endpointslice-controller.k8s.io"
MAX_ENDPOINTS = 100  # kube-controller-manager's --max-endpoints-per-slice
IPV4, FQDN = "IPv4", "FQDN"


def resolve_ports(service: Manifest, pod: Manifest) -> list[dict[str, Any]]:
    """The ports of a Service on one pod; a port name the pod lacks is left out."""
    ports = []
    for port in service["spec"].get("ports") or []:
        target = port.get("targetPort", port["port"])
        protocol = port.get("protocol", "TCP")
        number = target if isinstance(target, int) else _named_port(pod, str(target), protocol)
        if number:
            resolved = {"name": port.get("name", ""), "port": number, "protocol": protocol}
            if port.get("appProtocol"):
                resolved["appProtocol"] = port["appProtocol"]
            ports.append(resolved)
    return ports


def _named_port(pod: Manifest, name: str, protocol: str) -> int | None:
    spec = pod["spec"]
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        for port in container.get("ports") or []:
            if port.get("name") == name and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return int(name) if name.isdigit() else None


def build_endpoint(service: Manifest, pod: Manifest) -> dict[str, Any]:
    """One endpoint with its three conditions (ready is never true for a terminating pod)."""
    serving = is_ready(pod)
    terminating = is_terminating(pod)
    always = bool(service["spec"].get("publishNotReadyAddresses"))
    endpoint: dict[str, Any] = {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {
            "ready": always or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": {
            "kind": "Pod",
            "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
        },
    }
    if pod["spec"].get("nodeName"):
        endpoint["nodeName"] = pod["spec"]["nodeName"]
    return endpoint


def build_slices(
    service: Manifest, pods: Iterable[Manifest], address_type: str = IPV4
) -> list[Manifest]:
    """All EndpointSlices of a Service, pods with equal port numbers together.

    A Service without any address has one slice without endpoints and ports, as in a real cluster.

    Args:
        service: the Service.
        pods: those it selects.
        address_type: `IPV4`, or `FQDN` where the API server takes no loopback addresses.
    """
    groups: dict[tuple[tuple[str, int, str], ...], tuple[list[Any], list[Any]]] = {}
    for pod in sorted(pods, key=lambda item: str(item["metadata"]["name"])):
        if is_terminal(pod) or not pod.get("status", {}).get("podIP"):
            continue
        ports = resolve_ports(service, pod)
        shape = tuple((port["name"], port["port"], port["protocol"]) for port in ports)
        groups.setdefault(shape, (ports, []))[1].append(build_endpoint(service, pod))
    if not groups:
        groups[()] = ([], [])
    slices: list[Manifest] = []
    for ports, endpoints in (groups[shape] for shape in sorted(groups)):
        for start in range(0, max(1, len(endpoints)), MAX_ENDPOINTS):
            part = endpoints[start : start + MAX_ENDPOINTS]
            slices.append(_build_slice(service, len(slices), ports, part, address_type))
    return slices


def _build_slice(
    service: Manifest,
    number: int,
    ports: list[dict[str, Any]],
    endpoints: list[dict[str, Any]],
    address_type: str,
) -> Manifest:
    metadata = service["metadata"]
    # A name that follows from the Service: a slice not seen yet cannot be made twice. An address type is immutable,
    # so slices of another type have other names.
    kind = "" if address_type == IPV4 else f"/{address_type}"
    digest = hashlib.sha256(f"{metadata['uid']}/{number}{kind}".encode()).hexdigest()[:5]
    labels = {
        **(metadata.get("labels") or {}),
        SERVICE_NAME_LABEL: metadata["name"],
        MANAGED_BY_LABEL: MANAGED_BY,
    }
    if service["spec"].get("clusterIP") == "None":
        labels["service.kubernetes.io/headless"] = ""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{metadata['name']}-{digest}",
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [build_controller_reference(service, SERVICES)],
        },
        "addressType": address_type,
        "endpoints": endpoints,
        "ports": ports,
    }


def build_endpoints(service: Manifest, slices: Iterable[Manifest]) -> Manifest:
    """The Endpoints object of older clients, from the same addresses."""
    subsets = []
    for item in slices:
        if not item["endpoints"] or not item["ports"]:
            continue
        ready: list[Any] = []
        not_ready: list[Any] = []
        for endpoint in item["endpoints"]:
            if endpoint["conditions"]["terminating"] and not endpoint["conditions"]["ready"]:
                continue
            address = {"ip": endpoint["addresses"][0], "targetRef": endpoint["targetRef"]}
            if endpoint.get("nodeName"):
                address["nodeName"] = endpoint["nodeName"]
            (ready if endpoint["conditions"]["ready"] else not_ready).append(address)
        subset: dict[str, Any] = {}
        if ready:
            subset["addresses"] = ready
        if not_ready:
            subset["notReadyAddresses"] = not_ready
        if subset:
            ports = [{k: v for k, v in port.items() if v != ""} for port in item["ports"]]
            subsets.append({**subset, "ports": ports})
    body: Manifest = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": service["metadata"]["name"],
            "namespace": service["metadata"]["namespace"],
            "labels": {
                **(service["metadata"].get("labels") or {}),
                "endpoints.kubernetes.io/managed-by": "endpoint-controller",
            },
        },
    }
    if subsets:
        body["subsets"] = subsets
    return body
