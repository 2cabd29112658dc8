"""Listening sockets, bound early so that a taken port is an error at once, not after the model was loaded."""

from __future__ import annotations

import contextlib
import resource
import socket

from model_scorer.errors import InvalidSpec

BACKLOG = 2048


def bind(address: str, port: int) -> socket.socket:
    """A bound TCP socket that does not listen yet.

    Raises:
        InvalidSpec: the address is not of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((address, port))
    except OSError as err:
        server.close()
        raise InvalidSpec(
            f"cannot listen on {address} port {port}: {err.strerror}", "choose another port"
        ) from err
    server.setblocking(False)
    return server


def raise_descriptor_limit() -> None:
    """Allow as many open connections as the hard limit does."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = hard if hard != resource.RLIM_INFINITY else 1_048_576
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, 1_048_576), hard))
