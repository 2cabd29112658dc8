"""Which network addresses a model may come from, and where a redirect may lead."""

import enum
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass

# Instance metadata and the platform's own endpoints hand out the node's credentials to whoever asks from there:
# Azure's wire server, AWS and Alibaba metadata that are not link-local.
_PLATFORM = frozenset(
    ipaddress.ip_address(address)
    for address in ("168.63.129.16", "fd00:ec2::254", "100.100.100.200")
)


class Zone(enum.Enum):
    """How far an address reaches."""

    PUBLIC = "public"
    PRIVATE = "private"
    FORBIDDEN = "forbidden"


def zone_of(address: str) -> Zone:
    """Classify an IP address: reachable by all, of the cluster or this machine, or never to be asked (link-local)."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is not None:
            return zone_of(str(inner))
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _PLATFORM:
        return Zone.FORBIDDEN
    return Zone.PUBLIC if ip.is_global else Zone.PRIVATE


def is_address(host: str) -> bool:
    """Whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host name, in the resolver's order.

    Raises:
        socket.gaierror: the name has none.
    """
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


@dataclass(frozen=True, slots=True)
class Network:
    """The seams to the network's names and addresses, so that tests can lay out a network of their own."""

    resolve: Callable[[str, int], list[str]] = resolve_host
    zone_of: Callable[[str], Zone] = zone_of
