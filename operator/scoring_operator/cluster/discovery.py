"""What this cluster has: kinds of others, API groups, its version. Answers are kept for a while."""

from __future__ import annotations

import time

from scoring_operator.api import Kind
from scoring_operator.cluster.client import Client
from scoring_operator.cluster.errors import ForbiddenError, NotFoundError

# How long the answer holds that something is not installed.
_ABSENCE_SECONDS = 60.0
_VERSION_SECONDS = 3600.0


class Discovery:
    """Asks the API server what it serves; everybody may.

    Args:
        client: to the API server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._absent: dict[Kind, float] = {}
        self._groups: dict[str, tuple[bool, float]] = {}
        self._version = (0, 0.0)

    async def serves(self, kind: Kind) -> bool:
        """Whether a kind is installed; that it is not holds for a minute."""
        if time.monotonic() - self._absent.get(kind, -_ABSENCE_SECONDS) < _ABSENCE_SECONDS:
            return False
        try:
            resources = await self._client.call("GET", kind.root)
        except (NotFoundError, ForbiddenError):
            resources = {}
        served = any(r.get("name") == kind.plural for r in resources.get("resources") or ())
        if not served:
            self._absent[kind] = time.monotonic()
        return served

    async def serves_group(self, group: str) -> bool:
        """Whether the cluster has an API group; the answer holds for a minute.

        Args:
            group: such as `custom.metrics.k8s.io`.
        """
        known, since = self._groups.get(group, (False, 0.0))
        if since and time.monotonic() - since < _ABSENCE_SECONDS:
            return known
        try:
            await self._client.call("GET", f"/apis/{group}")
            served = True
        except (NotFoundError, ForbiddenError):
            served = False
        self._groups[group] = (served, time.monotonic())
        return served

    async def minor_version(self) -> int:
        """The cluster's version after `1.`; it is asked for once an hour."""
        known, since = self._version
        if not since or time.monotonic() - since > _VERSION_SECONDS:
            answer = await self._client.call("GET", "/version")
            known = int("".join(c for c in str(answer.get("minor", "")) if c.isdigit()) or 0)
            self._version = (known, time.monotonic())
        return known
