"""Work sharing: a worker that is busy passes a request, with its connection, to one that is idle.

Connections are spread evenly, but the requests on them are not: of two clients one may ask ten times as often. What is
passed on is the connection itself; the supervisor holds a descriptor of it anyway and hands that to the other worker,
with the request that was already read. Costs about a quarter of a millisecond, so only slow models share.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.serve.shared import EXPECTED, IN_FLIGHT, STATE, STATE_READY, WorkerSlot

# Below this a request is answered sooner than passed on.
MIN_CALL_SECONDS = 0.003
# How long a passed request may not yet show in the other's numbers.
SETTLING_SECONDS = 0.02
# Of hop-by-hop meaning, or already obeyed when the request was read.
_DROPPED = frozenset({b"content-length", b"transfer-encoding", b"expect", b"connection"})

Pass = Callable[[dict[str, Any], int], bool]


class WorkSharing:
    """Decides who takes a request.

    Args:
        slot: of this worker.
        slots: of all workers.
        tell: sends a message with a descriptor to the supervisor; False if that cannot be done now.
    """

    def __init__(self, slot: int, slots: Sequence[WorkerSlot], tell: Pass) -> None:
        self._slot = slot
        self._others = [(i, s) for i, s in enumerate(slots) if i != slot]
        self._tell = tell
        self._passed: dict[int, list[float]] = {i: [] for i, _ in self._others}

    def find_taker(self, own: int) -> int | None:
        """The worker that should take the next request, None when it is this one.

        Args:
            own: requests that this worker has already, and is about to get.
        """
        if not own:
            return None
        now = monotonic()
        best, least = None, own
        for index, slot in self._others:
            if slot.ints[STATE] != STATE_READY:
                continue
            recent = self._passed[index]
            while recent and now - recent[0] > SETTLING_SECONDS:
                recent.pop(0)
            load = slot.ints[IN_FLIGHT] + slot.ints[EXPECTED] + len(recent)
            if load < least:
                best, least = index, load
        # Only to an idle one, or where the difference is worth the move.
        return best if best is not None and (least == 0 or own - least >= 2) else None

    def pass_on(self, number: int, taker: int, request: HttpRequest) -> bool:
        """Give a connection and its request away.

        Returns:
            Whether the supervisor was told; if not, it stays here.
        """
        descriptor = os.memfd_create("request", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(render_request(request))
            told = self._tell({"kind": "pass", "number": number, "to": taker}, descriptor)
        finally:
            os.close(descriptor)
        if told:
            self._passed[taker].append(monotonic())
        return told


def render_request(request: HttpRequest) -> bytes:
    """A request as the bytes of HTTP/1.1 that mean the same."""
    target = f"{request.path}?{request.query}" if request.query else request.path
    lines = [f"{request.method} {target} HTTP/1.1\r\n".encode("latin-1")]
    lines += [b"%b: %b\r\n" % item for item in request.headers.items() if item[0] not in _DROPPED]
    lines.append(b"content-length: %d\r\n\r\n" % len(request.buffer))
    return b"".join((*lines, request.buffer))


def read_passed(descriptor: int) -> bytes:
    """The bytes of a request that was passed on; closes the descriptor."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()
