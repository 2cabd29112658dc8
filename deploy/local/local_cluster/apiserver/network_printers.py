"""Rows of services, ingresses and endpoints."""

from __future__ import annotations

from local_cluster.apiserver.resources import Manifest
from local_cluster.apiserver.row_parts import (
    NONE,
    Cells,
    Printer,
    join_labels,
    read_name,
    show_age,
)
from local_cluster.apiserver.selectors import format_label_selector


def _external_ip(obj: Manifest) -> str:
    spec = obj.get("spec", {})
    external = spec.get("externalIPs") or []
    match spec.get("type"):
        case "ExternalName":
            return str(spec.get("externalName", ""))
        case "LoadBalancer":
            balancers = (obj.get("status", {}).get("loadBalancer") or {}).get("ingress") or ()
            found = [b.get("ip") or b.get("hostname", "") for b in balancers]
            return ",".join([*found, *external]) or "<pending>"
        case _:
            return ",".join(external) or NONE


def _service(obj: Manifest) -> Cells:
    spec = obj.get("spec", {})
    ports = []
    for port in spec.get("ports") or ():
        middle = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port['port']}{middle}/{port.get('protocol', 'TCP')}")
    return [
        read_name(obj), spec.get("type", ""), spec.get("clusterIP") or NONE, _external_ip(obj),
        ",".join(ports) or NONE, show_age(obj), join_labels(spec.get("selector")),
    ]  # fmt: skip


def _ingress(obj: Manifest) -> Cells:
    spec = obj.get("spec", {})
    hosts = [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
    shown = ",".join(hosts[:3]) + (f" + {len(hosts) - 3} more..." if len(hosts) > 3 else "")
    balancers = (obj.get("status", {}).get("loadBalancer") or {}).get("ingress") or ()
    address = ",".join(b.get("ip") or b.get("hostname", "") for b in balancers)
    ports = "80, 443" if spec.get("tls") else "80"
    return [
        read_name(obj),
        spec.get("ingressClassName", NONE),
        shown or "*",
        address,
        ports,
        show_age(obj),
    ]


def _ingress_class(obj: Manifest) -> Cells:
    spec = obj.get("spec", {})
    parameters = spec.get("parameters")
    shown = NONE
    if parameters:
        kind = parameters.get("kind", "")
        group = parameters.get("apiGroup")
        shown = (
            f"{kind}.{group}/{parameters.get('name')}"
            if group
            else f"{kind}/{parameters.get('name')}"
        )
    return [read_name(obj), spec.get("controller", ""), shown, show_age(obj)]


def _limited(items: list[str], limit: int = 3) -> str:
    if not items:
        return NONE
    more = len(items) - limit
    return ",".join(items[:limit]) + (f" + {more} more..." if more > 0 else "")


def _endpoint_slice(obj: Manifest) -> Cells:
    ports = [str(p.get("port", "*")) for p in obj.get("ports") or ()]
    addresses = [a for e in obj.get("endpoints") or () for a in e.get("addresses") or ()]
    return [
        read_name(obj), obj.get("addressType", ""), _limited(ports) if ports else "<unset>",
        _limited(addresses) if addresses else "<unset>", show_age(obj),
    ]  # fmt: skip


def _endpoints(obj: Manifest) -> Cells:
    shown: list[str] = []
    for subset in obj.get("subsets") or ():
        for address in subset.get("addresses") or ():
            ports = subset.get("ports") or [{}]
            shown.extend(
                f"{address['ip']}:{p['port']}" if "port" in p else address["ip"] for p in ports
            )
    return [read_name(obj), _limited(shown), show_age(obj)]


def _network_policy(obj: Manifest) -> Cells:
    return [
        read_name(obj),
        format_label_selector(obj.get("spec", {}).get("podSelector")),
        show_age(obj),
    ]


NETWORK_PRINTERS: dict[str, Printer] = {
    "/endpoints": _endpoints,
    "/services": _service,
    "discovery.k8s.io/endpointslices": _endpoint_slice,
    "networking.k8s.io/ingressclasses": _ingress_class,
    "networking.k8s.io/ingresses": _ingress,
    "networking.k8s.io/networkpolicies": _network_policy,
}
"""Printers by storage key."""
