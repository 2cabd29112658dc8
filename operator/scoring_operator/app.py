"""The process: watches put keys on the queue, workers take them off and reconcile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from scoring_operator.api import Key
from scoring_operator.cluster import Client, Cluster, ClusterError, TransientError, connect
from scoring_operator.metrics import Metrics
from scoring_operator.queue import KeyQueue
from scoring_operator.reconcile import Outcome, Reconciler
from scoring_operator.settings import Settings

log = logging.getLogger(__name__)

# Watches end and start again every five minutes, so silence for longer than this means that they hang.
_STUCK_SECONDS = 900.0
# A worker that has been at one key for this long hangs; calls time out after a minute and are repeated four times.
_WORKER_STUCK_SECONDS = 900.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Operator:
    """Everything that runs while this process leads.

    Args:
        settings: the operator's settings.
        kubeconfig: None: the pod's service account, or the default kubeconfig.
        namespace: the only namespace to look after; None for all.
        now: the time, with zone; for certificates and transition times.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        kubeconfig: Path | None = None,
        namespace: str | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.queue = KeyQueue()
        self._settings = settings
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._now = now
        self._client: Client | None = None
        self._cluster: Cluster | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._busy_since: dict[Key, float] = {}
        self.metrics = Metrics(
            lambda: len(self.queue), lambda: self._cluster.models() if self._cluster else ()
        )

    async def start(self) -> None:
        """Connect, fill the caches, and start the workers.

        Raises:
            ClusterError: the API server refuses, or the ScoringModel kind is not installed.
        """
        self._client = Client(await connect(self._kubeconfig), self.metrics.observe_call)
        cluster = Cluster(self._client, namespace=self._namespace, on_change=self.queue.add)
        try:
            await cluster.start()
        except BaseException:
            await cluster.stop()
            await self._client.close()
            raise
        self._cluster = cluster
        reconciler = Reconciler(cluster, self._settings, self._now)
        self._workers = [
            asyncio.create_task(self._work(reconciler.reconcile), name=f"worker {n}")
            for n in range(self._settings.workers)
        ]
        log.info("started", extra={"namespace": self._namespace or "all"})

    async def stop(self) -> None:
        """Let go of everything; what was half done is found and finished by the next start."""
        for task in self._workers:
            task.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []
        self.queue.close()
        if self._cluster:
            await self._cluster.stop()
        if self._client:
            await self._client.close()
        log.info("stopped")

    def liveness_problem(self) -> str | None:
        """Why this process should be restarted, or None."""
        if self._cluster is None:
            return None
        if self._cluster.stopped_watching() or any(w.done() for w in self._workers):
            return "a task that never ends has ended"
        silence = self._cluster.seconds_since_contact()
        if silence > _STUCK_SECONDS:
            return f"a watch has been silent for {silence:.0f} s"
        now = time.monotonic()
        for key, since in self._busy_since.items():
            if now - since > _WORKER_STUCK_SECONDS:
                return f"{key} has been worked on for {now - since:.0f} s"
        return None

    def readiness_problem(self) -> str | None:
        """Why nothing is reconciled yet, or None."""
        return None if self._workers else "the caches are being filled"

    async def _work(self, reconcile: Callable[[Key], Awaitable[Outcome]]) -> None:
        while True:
            key, waited = await self.queue.get()
            self.metrics.waited.observe(waited)
            self._busy_since[key] = time.monotonic()
            try:
                with self.metrics.duration.time():
                    result = await self._reconcile(reconcile, key)
                self.metrics.reconciles.labels(result).inc()
            finally:
                del self._busy_since[key]
                self.queue.done(key)

    async def _reconcile(self, reconcile: Callable[[Key], Awaitable[Outcome]], key: Key) -> str:
        """Reconcile one key, and decide when it is looked at again."""
        try:
            outcome = await reconcile(key)
        except TransientError as err:
            wait = self.queue.retry(key, err.retry_after_seconds or 0.0)
            log.warning("the API server is busy: %s", err, extra={"model": str(key), "wait": wait})
            return "retry"
        except ClusterError as err:
            wait = self.queue.retry(key)
            log.warning("reconcile failed: %s", err, extra={"model": str(key), "wait": wait})
            return "retry"
        except Exception:
            # The outermost edge of one model's work: a bug with one must not stop the others.
            wait = self.queue.retry(key)
            log.exception("reconcile failed", extra={"model": str(key), "wait": wait})
            return "error"
        self.queue.succeed(key)
        if outcome.look_again_seconds is not None:
            self.queue.add_after(key, outcome.look_again_seconds)
        return outcome.result
