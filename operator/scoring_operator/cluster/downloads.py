"""How far a pod's download is: asked of the pod itself, seldom, and done without where it cannot be reached."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

import aiohttp

from scoring_operator.api import Manifest

# A pod is asked at most this often, and one that cannot be reached (a network policy, an operator outside the cluster)
# less and less.
_PERIOD_SECONDS = 2.0
_LONGEST_SECONDS = 60.0
_MAX_IN_FLIGHT = 50
_TIMEOUT = aiohttp.ClientTimeout(total=1.0)
# Answers are two numbers; anything longer comes from somebody else.
_MAX_BYTES = 1024
_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Download:
    """What a fetching pod says.

    Args:
        bytes_done: fetched by now.
        bytes_total: to fetch; 0 while that is not known.
    """

    bytes_done: int
    bytes_total: int


@dataclass(slots=True)
class _Pod:
    asked_at: float = float("-inf")
    is_asked: bool = False
    failures: int = 0
    download: Download | None = None


class Downloads:
    """Asks pods for the progress of their downloads, in the background: nobody waits for a pod that does not answer.

    Args:
        port: of the pods' probes.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pods: dict[str, _Pod] = {}

    def known(self, pod: Manifest) -> Download | None:
        """How far a pod was when it was last asked; has it asked again when that is long ago.

        Args:
            pod: as stored.

        Returns:
            None while it has not answered.
        """
        address = pod.get("status", {}).get("podIP")
        if not address:
            return None
        if len(self._pods) >= _MAX_REMEMBERED:
            self._pods.clear()
        known = self._pods.setdefault(pod["metadata"].get("uid", ""), _Pod())
        patience = min(_PERIOD_SECONDS * float(1 << min(known.failures, 8)), _LONGEST_SECONDS)
        now = time.monotonic()
        due = now - known.asked_at >= patience
        if due and not known.is_asked and len(self._tasks) < _MAX_IN_FLIGHT:
            known.asked_at = now
            known.is_asked = True
            host = f"[{address}]" if ":" in address else address
            task = asyncio.create_task(self._ask(host, known), name="ask for progress")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return known.download

    async def close(self) -> None:
        """Stop asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session:
            await self._session.close()
            self._session = None

    async def _ask(self, host: str, known: _Pod) -> None:
        try:
            found = await self._get(host)
        finally:
            known.is_asked = False
        known.failures = 0 if found else known.failures + 1
        known.download = found or known.download

    async def _get(self, host: str) -> Download | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False)
        url = f"http://{host}:{self._port}/progress"
        try:
            async with self._session.get(url, allow_redirects=False) as answer:
                data = await answer.content.read(_MAX_BYTES)
                value = json.loads(data) if answer.status == 200 else {}
                return Download(int(value["bytes"]), int(value["totalBytes"]))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
            return None
