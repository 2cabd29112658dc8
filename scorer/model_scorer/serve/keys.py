"""API keys: read from a folder with one file a key, read again when the folder changes, compared in constant time."""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

# A wrong key may be a key that was just added: look again, but not for every guess of an attacker.
RELOAD_ON_MISS_SECONDS = 0.2
MAX_KEY_BYTES = 4096


class KeyStore:
    """The keys that open the scoring port.

    Args:
        folder: one file a key; names that begin with a dot are skipped (the kubelet's own links).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys: tuple[bytes, ...] = ()
        self._stamp: tuple[object, ...] | None = None
        self._last_look = 0.0
        self.problem = ""
        # Told after the keys have changed.
        self.on_change: Callable[[], None] = lambda: None
        self.refresh()

    def refresh(self) -> None:
        """Read the keys again if anything in the folder changed."""
        self._last_look = time.monotonic()
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self._keys, self.problem = self._read()
        self.on_change()
        log.info("API keys read", extra={"count": len(self._keys), "problem": self.problem})

    def allows(self, key: bytes) -> bool:
        """Whether this is one of the keys; takes as long for a wrong key as for a right one."""
        if self._matches(key):
            return True
        if time.monotonic() - self._last_look >= RELOAD_ON_MISS_SECONDS:
            self.refresh()
            return self._matches(key)
        return False

    def _matches(self, key: bytes) -> bool:
        found = False
        for known in self._keys:
            found |= hmac.compare_digest(known, key)
        return found

    def _look(self) -> tuple[object, ...]:
        """What changes when a key does: the kubelet swaps the link `..data`, people edit files."""
        try:
            names = sorted(os.listdir(self._folder))
            stats = [os.stat(self._folder / n) for n in (*names, ".")]
        except OSError as err:
            return ("error", err.errno)
        return tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in stats) + tuple(names)

    def _read(self) -> tuple[tuple[bytes, ...], str]:
        keys = []
        try:
            for path in sorted(self._folder.iterdir()):
                if path.name.startswith(".") or not path.is_file():
                    continue
                with path.open("rb") as file:
                    key = file.read(MAX_KEY_BYTES).strip()
                if key:
                    keys.append(key)
        except OSError as err:
            return (), f"the keys folder {self._folder} cannot be read: {err.strerror}"
        if not keys:
            return (), f"the keys folder {self._folder} holds no key"
        return tuple(keys), ""


def presented_key(headers: dict[bytes, bytes]) -> bytes | None:
    """The key of a request: `Authorization: Bearer <key>`, `x-api-key` or `api-key`.

    Args:
        headers: by lower-case name.
    """
    value = headers.get(b"authorization")
    if value is not None:
        if value[:7].lower() == b"bearer ":
            return value[7:].strip()
        return None
    return headers.get(b"x-api-key") or headers.get(b"api-key")
