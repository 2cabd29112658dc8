"""What a controller has asked for and not yet seen, so that it asks for nothing twice."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from local_cluster.client import Key

# After this the controller looks anew, in case an event got lost (client-go's value).
_TIMEOUT_SECONDS = 300.0


@dataclass(slots=True)
class _Expected:
    creations: int = 0
    deletions: set[str] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)


class Expectations:
    """Creations and deletions in flight, by the key of the object that wants them."""

    def __init__(self) -> None:
        self._expected: dict[Key, _Expected] = {}

    def satisfied(self, key: Key) -> bool:
        """Whether everything asked for has been seen, or the wait has been too long."""
        expected = self._expected.get(key)
        if expected is None:
            return True
        if expected.creations <= 0 and not expected.deletions:
            return True
        return time.monotonic() - expected.since > _TIMEOUT_SECONDS

    def expect_creations(self, key: Key, count: int) -> None:
        """Wait for so many new objects before acting again."""
        self._expected[key] = _Expected(creations=count)

    def expect_deletions(self, key: Key, uids: Iterable[str]) -> None:
        """Wait for these objects to go before acting again."""
        self._expected[key] = _Expected(deletions=set(uids))

    def creation_seen(self, key: Key) -> None:
        """A new object appeared, or its creation failed."""
        expected = self._expected.get(key)
        if expected is not None and expected.creations > 0:
            expected.creations -= 1

    def deletion_seen(self, key: Key, uid: str) -> None:
        """An object went, or its deletion failed."""
        expected = self._expected.get(key)
        if expected is not None:
            expected.deletions.discard(uid)

    def forget(self, key: Key) -> None:
        """The object that wanted all this is gone."""
        self._expected.pop(key, None)
