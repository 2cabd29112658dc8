"""Jobs: pods that run to completion, with parallelism and a limit of failures."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

from local_cluster.client import (
    JOBS,
    PODS,
    ApiError,
    Client,
    EventRecorder,
    Key,
    Manifest,
    WorkQueue,
)
from local_cluster.controllers.caches import Caches
from local_cluster.controllers.conditions import find_condition, is_true
from local_cluster.controllers.expectations import Expectations
from local_cluster.controllers.owners import controller_of
from local_cluster.controllers.pods import is_ready, is_terminal, is_terminating
from local_cluster.controllers.replicaset import build_pod, slow_start
from local_cluster.controllers.times import format_time, now, seconds_since


def derive_job_status(job: Manifest, pods: list[Manifest], at: datetime) -> dict[str, Any]:
    """The status of a Job from its pods; once finished it stays as it is."""
    spec, before = job["spec"], job.get("status") or {}
    if is_finished(before):
        return dict(before)
    succeeded = sum(pod["status"].get("phase") == "Succeeded" for pod in pods)
    failed = sum(pod["status"].get("phase") == "Failed" for pod in pods)
    active = [pod for pod in pods if not is_terminal(pod) and not is_terminating(pod)]
    status: dict[str, Any] = {
        "active": len(active),
        "ready": sum(is_ready(pod) for pod in active),
        "succeeded": succeeded,
        "failed": failed,
    }
    status = {name: value for name, value in status.items() if value or name == "ready"}
    if not spec.get("suspend"):
        status["startTime"] = before.get("startTime") or format_time(at)
    elif before.get("startTime"):
        status["startTime"] = before["startTime"]
    if before.get("conditions"):
        status["conditions"] = list(before["conditions"])
    limit = spec.get("backoffLimit")
    deadline = spec.get("activeDeadlineSeconds")
    completions = spec.get("completions")
    done = succeeded >= completions if completions is not None else succeeded > 0 and not active
    if failed > (6 if limit is None else limit):
        _finish(
            status,
            "Failed",
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
            at,
        )
    elif (
        deadline is not None
        and status.get("startTime")
        and not done
        and (seconds_since(status["startTime"], at) >= deadline)
    ):
        _finish(
            status,
            "Failed",
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
            at,
        )
    elif done:
        _finish(
            status,
            "Complete",
            "CompletionsReached",
            "Reached expected number of succeeded pods",
            at,
        )
        status["completionTime"] = format_time(at)
    return status


def is_finished(status: dict[str, Any]) -> bool:
    """Whether a Job has completed or failed."""
    return is_true(status, "Complete") or is_true(status, "Failed")


def _finish(status: dict[str, Any], type_: str, reason: str, message: str, at: datetime) -> None:
    status.pop("active", None)
    status["ready"] = 0
    before = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[type_]
    status["conditions"] = list(status.get("conditions") or []) + [
        {
            "type": name,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastProbeTime": format_time(at),
            "lastTransitionTime": format_time(at),
        }
        for name in (before, type_)
    ]


class JobController:
    """Runs Jobs.

    Args:
        client: an open client.
        caches: the shared local copies.
        recorder: for events.
    """

    def __init__(self, client: Client, caches: Caches, recorder: EventRecorder) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._expectations = Expectations()
        self.queue: WorkQueue[Key] = WorkQueue("job")
        caches.jobs.on_change(lambda key, old, new: self.queue.add(key))
        caches.pods.on_change(self._on_pod)

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.run(self.reconcile, workers=2)

    def _on_pod(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        pod = new or old
        owner = controller_of(pod) if pod else None
        if owner is not None and owner.get("kind") == "Job":
            if old is None:
                self._expectations.creation_seen((key[0], owner["name"]))
            self.queue.add((key[0], owner["name"]))

    async def reconcile(self, key: Key) -> float | None:
        """Start or stop pods of one Job and write its status."""
        job = self._caches.jobs.get(*key)
        if job is None:
            self._expectations.forget(key)
            return None
        before = job.get("status") or {}
        if is_finished(before):
            return await self._expire(job)
        if job["metadata"].get("deletionTimestamp"):
            return None
        pods = self._caches.pods_by_controller.get(job["metadata"]["uid"])
        status = derive_job_status(job, pods, now())
        active = [pod for pod in pods if not is_terminal(pod) and not is_terminating(pod)]
        if is_finished(status) or job["spec"].get("suspend"):
            await self._stop(active)
        elif self._expectations.satisfied(key):
            missing = self._missing(job, status, len(active))
            if missing > 0:
                await self._start(key, job, missing)
        if status != before:
            await self._client.replace(JOBS, {**job, "status": status}, subresource="status")
            finished = find_condition(status.get("conditions"), "Failed")
            if is_finished(status) and finished is not None:
                self._recorder.warning(job, finished["reason"], finished["message"])
            elif is_finished(status):
                self._recorder.normal(job, "Completed", "Job completed")
        deadline = job["spec"].get("activeDeadlineSeconds")
        return float(deadline) if deadline is not None and not is_finished(status) else None

    @staticmethod
    def _missing(job: Manifest, status: dict[str, Any], active: int) -> int:
        spec = job["spec"]
        parallelism = int(spec.get("parallelism", 1))
        succeeded = status.get("succeeded", 0)
        completions = spec.get("completions")
        if completions is None:
            wanted = 0 if succeeded else parallelism
        else:
            wanted = min(parallelism, int(completions) - succeeded)
        return wanted - active

    async def _start(self, key: Key, job: Manifest, count: int) -> None:
        self._expectations.expect_creations(key, count)
        body = copy.deepcopy(build_pod(job, JOBS))

        async def create_one() -> None:
            try:
                pod = await self._client.create(PODS, body, key[0])
            except ApiError as err:
                self._recorder.warning(job, "FailedCreate", f"Error creating: {err.message}")
                raise
            self._recorder.normal(
                job, "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}"
            )

        done, failure = await slow_start(count, create_one)
        for _ in range(count - done):
            self._expectations.creation_seen(key)
        if failure is not None:
            raise failure

    async def _stop(self, active: list[Manifest]) -> None:
        for pod in active:
            metadata = pod["metadata"]
            try:
                await self._client.delete(PODS, metadata["name"], metadata["namespace"])
            except ApiError as err:
                if not err.is_not_found:
                    raise

    async def _expire(self, job: Manifest) -> float | None:
        """Delete a finished Job whose time to live is over."""
        lifetime = job["spec"].get("ttlSecondsAfterFinished")
        if lifetime is None or job["metadata"].get("deletionTimestamp"):
            return None
        conditions = (job.get("status") or {}).get("conditions") or []
        ended = max(
            item["lastTransitionTime"]
            for item in conditions
            if item["type"] in ("Complete", "Failed")
        )
        left = float(lifetime) - seconds_since(ended, now())
        if left > 0:
            return left + 0.5
        metadata = job["metadata"]
        await self._client.delete(
            JOBS, metadata["name"], metadata["namespace"], propagation="Background"
        )
        return None
