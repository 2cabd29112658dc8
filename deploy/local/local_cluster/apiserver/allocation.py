"""Service addresses: cluster IPs from 10.96.0.0/16 and node ports, taken and kept as the real server does."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

from local_cluster.apiserver.errors import invalid_field
from local_cluster.apiserver.resources import Manifest, Resource
from local_cluster.apiserver.storage import Store

NETWORK = ipaddress.ip_network("10.96.0.0/16")
NODE_PORTS = range(30000, 32768)
_KEY = "/services"


def _taken_addresses(store: Store, uid: str) -> set[str]:
    taken: set[str] = set()
    for entry in store.entries(_KEY):
        if entry.uid != uid:
            taken.update(entry.obj["spec"].get("clusterIPs") or ())
    return taken


def _taken_ports(store: Store, uid: str) -> set[int]:
    return {
        port["nodePort"]
        for entry in store.entries(_KEY)
        if entry.uid != uid
        for port in entry.obj["spec"].get("ports") or ()
        if port.get("nodePort")
    }


def _choose_address(taken: set[str]) -> str:
    # The first 256 addresses are left to services that ask for one, as in the real allocator.
    while True:
        address = str(NETWORK[random.randrange(257, NETWORK.num_addresses - 1)])
        if address not in taken:
            return address


def allocate_service(
    service: Manifest, old: Manifest | None, resource: Resource, store: Store
) -> Manifest:
    """Fill in the addresses and node ports of a service.

    Args:
        service: the new object, defaults applied.
        old: the stored object on an update; what it has is kept where the new one does not say otherwise.
        resource: the type, for messages.
        store: where other services are.

    Returns:
        The service with ``clusterIP``, ``clusterIPs``, families and node ports set.

    Raises:
        ApiError: 422, an address or port that is taken, out of range, or changed.
    """
    spec: Manifest = dict(service.get("spec") or {})
    name = service["metadata"].get("name", "")
    uid = service["metadata"].get("uid", "")
    before: Manifest = (old or {}).get("spec") or {}
    kind = spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if kind == "ExternalName":
        for field in (
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ):
            spec.pop(field, None)
        return {**service, "spec": spec}
    spec.setdefault("internalTrafficPolicy", "Cluster")
    _allocate_address(spec, before, resource, name, store, uid)
    if kind in {"NodePort", "LoadBalancer"}:
        spec.setdefault("externalTrafficPolicy", "Cluster")
        if kind == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)
        _allocate_ports(spec, before, resource, name, store, uid)
    else:
        if before.get("type") in {"NodePort", "LoadBalancer"}:
            _release_ports(spec, before)
        spec.pop("externalTrafficPolicy", None)
        spec.pop("allocateLoadBalancerNodePorts", None)
    return {**service, "spec": spec}


def _allocate_address(
    spec: Manifest, before: Manifest, resource: Resource, name: str, store: Store, uid: str
) -> None:
    kept = before.get("clusterIP")
    wanted = spec.get("clusterIP") or (spec.get("clusterIPs") or [None])[0]
    if kept and not wanted:
        wanted = kept
        spec["clusterIPs"] = before.get("clusterIPs", [kept])
    if kept and before.get("type") != "ExternalName" and wanted != kept:
        shown = f'["{wanted}"]'
        message = f"Invalid value: {shown}: may not change once set"
        raise invalid_field(resource, name, "spec.clusterIPs[0]", message)
    if not wanted:
        wanted = _choose_address(_taken_addresses(store, uid))
    elif wanted not in {"None", kept}:
        _check_address(wanted, resource, name, _taken_addresses(store, uid))
    spec["clusterIP"] = wanted
    spec["clusterIPs"] = [wanted]
    dual = wanted == "None" and not spec.get("selector")
    spec.setdefault("ipFamilies", ["IPv4", "IPv6"] if dual else ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "RequireDualStack" if dual else "SingleStack")


def _check_address(wanted: str, resource: Resource, name: str, taken: set[str]) -> None:
    shown = f'["{wanted}"]'
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError:
        message = f'Invalid value: "{wanted}": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'
        raise invalid_field(resource, name, "spec.clusterIPs[0]", message) from None
    if address not in NETWORK:
        message = (
            f"Invalid value: {shown}: failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid "
            f"range. The range of valid IPs is {NETWORK}"
        )
        raise invalid_field(resource, name, "spec.clusterIPs", message)
    if wanted in taken:
        message = f"Invalid value: {shown}: failed to allocate IP {wanted}: provided IP is already allocated"
        raise invalid_field(resource, name, "spec.clusterIPs", message)


def _allocate_ports(
    spec: Manifest, before: Manifest, resource: Resource, name: str, store: Store, uid: str
) -> None:
    taken = _taken_ports(store, uid)
    kept = {
        (p.get("protocol", "TCP"), p.get("port")): p["nodePort"]
        for p in before.get("ports") or ()
        if p.get("nodePort")
    }
    ports: list[Any] = []
    for i, port in enumerate(spec.get("ports") or ()):
        port = dict(port)
        wanted = port.get("nodePort") or kept.get((port.get("protocol", "TCP"), port.get("port")))
        if wanted and wanted not in kept.values():
            field = f"spec.ports[{i}].nodePort"
            if wanted not in NODE_PORTS:
                text = f"Invalid value: {wanted}: provided port is not in the valid range. The range of valid ports is 30000-32767"
                raise invalid_field(resource, name, field, text)
            if wanted in taken:
                text = f"Invalid value: {wanted}: provided port is already allocated"
                raise invalid_field(resource, name, field, text)
        if not wanted:
            free = [p for p in NODE_PORTS if p not in taken]
            if not free:
                text = "Invalid value: 0: failed to allocate a nodePort: range is full"
                raise invalid_field(resource, name, f"spec.ports[{i}].nodePort", text)
            wanted = random.choice(free)
        taken.add(wanted)
        port["nodePort"] = wanted
        ports.append(port)
    spec["ports"] = ports


def _release_ports(spec: Manifest, before: Manifest) -> None:
    old = {p.get("nodePort") for p in before.get("ports") or ()}
    spec["ports"] = [
        {k: v for k, v in port.items() if k != "nodePort" or v not in old}
        for port in spec.get("ports") or ()
    ]
