"""Loopback addresses for pods: one each, free on this machine, never 127.0.0.x."""

from __future__ import annotations

import fcntl
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

_LOCK_FOLDER = "local-cluster-networks"


class NoAddressError(Exception):
    """All addresses of the node's network are taken."""


class PodNetwork:
    """A /24 of the loopback range that no other node agent on this machine uses.

    A lock file in the system's temporary folder reserves it as long as this process lives; binding
    a socket shows whether the machine accepts addresses from it at all.

    Args:
        preferred: the prefix used before, for example ``127.93.12``, kept if still free.
    """

    def __init__(self, preferred: str | None = None) -> None:
        self._lock: IO[str] | None = None
        self._taken: set[int] = set()
        self._next = 2
        self.prefix = self._reserve(preferred)

    def _reserve(self, preferred: str | None) -> str:
        folder = Path(tempfile.gettempdir()) / _LOCK_FOLDER
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o1777)  # other users of this machine keep their locks here too
        for attempt in range(200):
            prefix = preferred if preferred and attempt == 0 else _random_prefix()
            try:
                lock = (folder / prefix).open("a", encoding="ascii")
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            if _can_bind(f"{prefix}.1"):
                self._lock = lock
                return prefix
            lock.close()
        raise NoAddressError("found no free 127.a.b.0/24 network on this machine")

    def allocate(self) -> str:
        """Take the next free address.

        Raises:
            NoAddressError: 253 pods have one already.
        """
        for _ in range(254):
            number = self._next
            # The next one in turn, so that a client of a deleted pod does not meet its successor.
            self._next = number + 1 if number < 254 else 2
            if number not in self._taken and _can_bind(f"{self.prefix}.{number}"):
                self._taken.add(number)
                return f"{self.prefix}.{number}"
        raise NoAddressError(f"no address left in {self.prefix}.0/24")

    def claim(self, address: str) -> bool:
        """Take a certain address, for a pod that had it before a restart.

        Returns:
            False when it is not of this network or taken.
        """
        prefix, _, last = address.rpartition(".")
        if prefix != self.prefix or int(last) in self._taken:
            return False
        self._taken.add(int(last))
        self._next = max(self._next, int(last) + 1) if int(last) < 254 else 2
        return True

    def release(self, address: str) -> None:
        """Give an address back."""
        prefix, _, last = address.rpartition(".")
        if prefix == self.prefix:
            self._taken.discard(int(last))

    def close(self) -> None:
        """Give the whole network back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _random_prefix() -> str:
    return f"127.{random.randint(16, 250)}.{random.randint(1, 250)}"


def _can_bind(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
