"""Tokens of pods' service accounts, asked for again before they expire."""

from __future__ import annotations

import asyncio

from local_cluster.client import Manifest
from local_cluster.node.context import NodeContext

# The kubelet's rule: renew after 80 % of the lifetime, and after a day at the latest.
_RENEW_AT = 0.8
_MAX_AGE_SECONDS = 24 * 3600.0


class TokenCache:
    """The tokens of one pod by audience.

    Args:
        node: where tokens come from.
    """

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._tokens: dict[tuple[str | None, int], tuple[str, float]] = {}

    async def get(self, pod: Manifest, audience: str | None, lifetime_seconds: int) -> str:
        """A token that is good for a while.

        Raises:
            VolumeError: the server gave none.
        """
        now = asyncio.get_running_loop().time()
        known = self._tokens.get((audience, lifetime_seconds))
        if known is not None and now < known[1]:
            return known[0]
        token = await self._node.request_token(pod, audience, lifetime_seconds)
        renew_at = now + min(lifetime_seconds * _RENEW_AT, _MAX_AGE_SECONDS)
        self._tokens[audience, lifetime_seconds] = (token, renew_at)
        return token
