"""Backends: the ready pods of a Service port, their connections, and which pod is next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from local_cluster.ingress.upstream import UpstreamConnection

Address = tuple[str, int]
Manifest = dict[str, Any]

CONNECT_TIMEOUT_SECONDS = 3.0
_MAX_IDLE = 64
# Shorter than what common servers keep idle connections for: they must not close first.
_MAX_IDLE_SECONDS = 4.0
_PENALTY_SECONDS = 1.0


class Endpoint:
    """One pod's port.

    Args:
        address: IP address and port.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.in_flight = 0
        self.draining = False
        self.avoid_until = 0.0
        self._idle: list[UpstreamConnection] = []

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """An open connection, an idle one if there is one.

        Args:
            fresh: open a new one in any case.

        Raises:
            OSError: the pod takes no connection.
        """
        loop = asyncio.get_running_loop()
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if loop.time() - connection.last_used > _MAX_IDLE_SECONDS:
                connection.close()
                continue
            return connection
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                _, connection = await loop.create_connection(UpstreamConnection, *self.address)
        except OSError:
            self.avoid_until = loop.time() + _PENALTY_SECONDS
            raise
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Give a connection back after an exchange."""
        if (
            connection.closed
            or not connection.reusable
            or self.draining
            or len(self._idle) >= _MAX_IDLE
        ):
            connection.close()
            return
        connection.last_used = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def drain(self) -> None:
        """Send nothing new there; what is under way may end."""
        self.draining = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def revive(self) -> None:
        """The pod is wanted again."""
        self.draining = False


class Backend:
    """All pods of one Service port."""

    def __init__(self) -> None:
        self._endpoints: dict[Address, Endpoint] = {}
        self._ready: list[Endpoint] = []
        self._turn = 0

    @property
    def has_ready(self) -> bool:
        """Whether any pod takes requests."""
        return bool(self._ready)

    def update(self, ready: Iterable[Address], terminating: Iterable[Address] = ()) -> None:
        """Set the pods.

        Args:
            ready: pods that take requests.
            terminating: pods that are going but still serve; used only when none is ready.
        """
        wanted = list(dict.fromkeys(ready)) or list(dict.fromkeys(terminating))
        for address in [item for item in self._endpoints if item not in wanted]:
            self._endpoints.pop(address).drain()
        for address in wanted:
            self._endpoints.setdefault(address, Endpoint(address)).revive()
        self._ready = [self._endpoints[address] for address in wanted]

    def choose(self, tried: Iterable[Endpoint] = ()) -> Endpoint | None:
        """The pod with the fewest requests under way, preferably one not tried yet."""
        if not self._ready:
            return None
        if len(self._ready) == 1:
            return self._ready[0]
        now = asyncio.get_running_loop().time()
        avoided = set(map(id, tried))
        self._turn += 1
        count = len(self._ready)
        best: Endpoint | None = None
        best_rank: tuple[bool, bool, int] | None = None
        for offset in range(count):
            endpoint = self._ready[(self._turn + offset) % count]
            rank = (id(endpoint) in avoided, endpoint.avoid_until > now, endpoint.in_flight)
            if best_rank is None or rank < best_rank:
                best, best_rank = endpoint, rank
        return best

    def close(self) -> None:
        """Close idle connections."""
        for endpoint in self._endpoints.values():
            endpoint.drain()


def service_port_name(service: Manifest, port: int | str) -> str | None:
    """The name (perhaps empty) of a Service port given by number or name; None: no such port."""
    for item in service["spec"].get("ports") or []:
        if port in (item["port"], item.get("name")):
            return str(item.get("name") or "")
    return None


def derive_addresses(
    slices: Iterable[Mapping[str, Any]], port_name: str
) -> tuple[list[Address], list[Address]]:
    """The addresses of a port: those ready, and those terminating but still serving."""
    ready: list[Address] = []
    leaving: list[Address] = []
    for item in slices:
        number = next(
            (
                port["port"]
                for port in item.get("ports") or []
                if (port.get("name") or "") == port_name and port.get("port")
            ),
            None,
        )
        if number is None:
            continue
        for endpoint in item.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            target = (
                ready
                if conditions.get("ready", True)
                else leaving
                if conditions.get("serving") and conditions.get("terminating")
                else None
            )
            if target is not None:
                with contextlib.suppress(IndexError):
                    target.append((endpoint["addresses"][0], int(number)))
    return ready, leaving
