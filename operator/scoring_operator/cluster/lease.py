"""Leader election by a Lease: of several operators one works, the others wait.

The holder renews its Lease; who sees it unchanged for the Lease's duration, by its own clock, takes it over. The holder stops
before that time when it cannot renew, so that there are never two writers
(https://kubernetes.io/docs/concepts/architecture/leases/).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from scoring_operator.api import Kind, Manifest
from scoring_operator.cluster.client import Client
from scoring_operator.cluster.errors import ClusterError, ConflictError, NotFoundError

log = logging.getLogger(__name__)

LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast leadership changes hands; the defaults are those of Kubernetes' own controllers.

    Args:
        duration_seconds: a Lease that was not renewed for this long is free.
        renew_seconds: between two renewals.
        give_up_seconds: without a renewal for this long the holder stops; shorter than the duration.
        retry_seconds: between two looks of those who wait.
    """

    duration_seconds: float = 15.0
    renew_seconds: float = 5.0
    give_up_seconds: float = 10.0
    retry_seconds: float = 2.0


class Lease:
    """One candidate for leadership.

    Args:
        client: to the API server.
        namespace: of the Lease.
        name: of the Lease.
        identity: of this process; a restarted container of the same pod may have the same.
        timing: how fast leadership changes hands.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._timing = timing or Timing()
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)
        self._renewed_at = 0.0

    async def acquire(self) -> None:
        """Wait until this process holds the Lease."""
        waiting_for = ""
        while True:
            holder = await self._try()
            if holder == self._identity:
                log.info("leading", extra={"identity": self._identity})
                return
            if holder != waiting_for:
                waiting_for = holder
                log.info("waiting for the lease", extra={"holder": holder})
            await asyncio.sleep(self._timing.retry_seconds)

    async def keep(self) -> None:
        """Renew the Lease; returns when it is lost."""
        while True:
            await asyncio.sleep(self._timing.renew_seconds)
            left = self._renewed_at + self._timing.give_up_seconds - self._clock()
            try:
                async with asyncio.timeout(max(left, 0.0)):
                    holder = await self._try()
            except TimeoutError:
                log.error("the lease could not be renewed in time")
                return
            if holder and holder != self._identity:
                log.error("the lease was taken over", extra={"holder": holder})
                return

    async def release(self) -> None:
        """Give the Lease back, so that the next one need not wait."""
        try:
            live = await self._client.call("GET", LEASE.path(self._namespace, self._name))
            if live["spec"].get("holderIdentity") == self._identity:
                await self._write({**live, "spec": {**live["spec"], "holderIdentity": ""}})
        except ClusterError as err:
            log.warning("the lease could not be released: %s", err)

    async def _try(self) -> str:
        """Take or renew the Lease if it is free or ours.

        Returns:
            Who holds it now; empty when that is unknown.
        """
        started = self._clock()
        try:
            live = await self._client.call("GET", LEASE.path(self._namespace, self._name))
        except NotFoundError:
            live = None
        except ClusterError as err:
            log.warning("the lease cannot be read: %s", err)
            return ""
        spec = (live or {}).get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        if holder and holder != self._identity and not self._is_expired(live or {}):
            return holder
        try:
            await self._write(self._claim(live, taken_over=holder != self._identity))
        except ConflictError:
            return ""  # somebody was faster; look again
        except ClusterError as err:
            log.warning("the lease cannot be written: %s", err)
            return ""
        self._renewed_at = started
        return self._identity

    def _is_expired(self, live: Manifest) -> bool:
        """Whether the holder has been silent for the Lease's duration, by our own clock."""
        version = live["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, self._clock())
            return False
        return self._clock() - self._seen[1] > self._timing.duration_seconds

    def _claim(self, live: Manifest | None, *, taken_over: bool) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict((live or {}).get("spec") or {})
        spec["leaseDurationSeconds"] = max(1, round(self._timing.duration_seconds))
        spec["renewTime"] = now
        if taken_over:
            spec["holderIdentity"] = self._identity
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (live is not None)
        if live is not None:
            return {**live, "spec": spec}
        metadata = {"name": self._name, "namespace": self._namespace}
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": metadata,
            "spec": spec,
        }

    async def _write(self, manifest: Manifest) -> None:
        # Updates carry the resource version that was read: of two that try, one gets a conflict.
        if manifest["metadata"].get("resourceVersion"):
            path = LEASE.path(self._namespace, self._name)
            await self._client.call("PUT", path, body=manifest)
        else:
            await self._client.call("POST", LEASE.path(self._namespace), body=manifest)
