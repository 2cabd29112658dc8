"""Being the one operator that works: wait for the Lease, keep it, stop everything when it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from scoring_operator.cluster import Client, connect
from scoring_operator.cluster.lease import Lease, Timing

log = logging.getLogger(__name__)

LEASE_NAME = "scoring-operator"


class Leadership:
    """Holds the Lease while the operator works.

    Args:
        kubeconfig: as for the operator.
        namespace: of the Lease.
        identity: of this process.
        on_lost: called when the Lease is lost; must stop the process.
        timing: how fast leadership changes hands.
    """

    def __init__(
        self,
        *,
        kubeconfig: Path | None,
        namespace: str,
        identity: str,
        on_lost: Callable[[], None],
        timing: Timing | None = None,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._identity = identity
        self._on_lost = on_lost
        self._timing = timing
        self._client: Client | None = None
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process holds the Lease."""
        return self._task is not None

    async def begin(self) -> None:
        """Wait for the Lease and go on renewing it; does nothing when it is held already."""
        if self._task is not None:
            return
        if self._client is None:
            self._client = Client(await connect(self._kubeconfig))
        self._lease = Lease(
            self._client,
            namespace=self._namespace,
            name=LEASE_NAME,
            identity=self._identity,
            timing=self._timing,
        )
        await self._lease.acquire()
        self._task = asyncio.create_task(self._keep(self._lease), name="lease")

    async def end(self) -> None:
        """Give the Lease back."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            if self._lease:
                await self._lease.release()
        if self._client:
            await self._client.close()
            self._client = None

    async def _keep(self, lease: Lease) -> None:
        await lease.keep()
        self._on_lost()
