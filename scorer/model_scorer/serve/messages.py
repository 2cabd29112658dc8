"""What supervisor, loader and workers tell one another: one JSON object a packet, sockets beside it where needed."""

from __future__ import annotations

import json
import socket
from typing import Any

from model_scorer.errors import LoadFailed, ScorerError

# Far above any message; a packet that is longer is cut by the kernel.
MAX_PACKET = 64 * 1024


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a channel that keeps packets whole and tells when the other side is gone."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: dict[str, Any], *sockets: socket.socket) -> None:
    """Send one message, with the descriptors of sockets beside it.

    Raises:
        OSError: the other side is gone, or does not read (BlockingIOError).
    """
    data = json.dumps(message).encode()
    if sockets:
        socket.send_fds(channel, [data], [s.fileno() for s in sockets])
    else:
        channel.send(data)


def send_with(channel: socket.socket, message: dict[str, Any], *descriptors: int) -> None:
    """Send one message with descriptors that are no sockets.

    Raises:
        OSError: as `send`.
    """
    socket.send_fds(channel, [json.dumps(message).encode()], descriptors)


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors; None when the other side is gone.

    Raises:
        BlockingIOError: nothing is there, on a channel that does not block.
    """
    try:
        data, descriptors, _, _ = socket.recv_fds(channel, MAX_PACKET, 8)
    except ConnectionError:
        return None
    if not data:
        return None
    return json.loads(data), descriptors


def describe_error(error: ScorerError) -> dict[str, Any]:
    """An error as a message."""
    return {
        "kind": "failed",
        "reason": error.reason,
        "message": error.message,
        "hint": error.hint,
    }


def error_of(message: dict[str, Any]) -> ScorerError:
    """The error that a message describes, of its own class."""
    for kind in ScorerError.__subclasses__():
        if kind.reason == message["reason"]:
            return kind(message["message"], message["hint"])
    return LoadFailed(message["message"], message["hint"])
