"""What containers use: CPU and memory of their process trees, memory limits, metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from local_cluster.client import NODEMETRICS, PODMETRICS, ApiError, Client, Manifest, Resource
from local_cluster.node.pod_status import format_time
from local_cluster.node.pod_worker import PodWorker
from local_cluster.quantities import parse_quantity

_LIMIT_CHECK_SECONDS = 0.5
_METRICS_SECONDS = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """What a process and its descendants use.

    Args:
        cpu_seconds: processor time so far, of the living and of the children they waited for.
        rss_bytes: resident memory, shared pages counted in each process.
        pids: the processes.
    """

    cpu_seconds: float
    rss_bytes: int
    pids: tuple[int, ...]


def read_children() -> dict[int, list[int]]:
    """Process ids by parent, of the whole machine."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    return children


def measure_tree(root: int, children: dict[int, list[int]]) -> TreeUsage:
    """Add up what a process and its descendants use."""
    cpu, rss, pids, waiting = 0.0, 0, [], [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        pids.append(pid)
        # utime, stime and those of children waited for; see proc_pid_stat(5)
        cpu += sum(int(value) for value in fields[11:15]) / _TICKS
        rss += int(fields[21]) * _PAGE_BYTES
    return TreeUsage(cpu, rss, tuple(pids))


def measure_proportional(pids: Iterable[int]) -> int:
    """Memory with shared pages counted once: what a limit is compared with, in bytes."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
                for line in rollup:
                    if line.startswith(b"Pss:"):
                        total += int(line.split()[1]) * 1024
                        break
        except OSError:
            continue
    return total


def memory_limit(container: Manifest) -> int | None:
    """The memory limit in bytes, None without one."""
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return int(parse_quantity(limit)) if limit is not None else None


class UsageMonitor:
    """Kills what exceeds its memory limit, and publishes metrics.

    Args:
        client: an open client.
        node_name: the node's name.
        list_pods: the pods that run now.
    """

    def __init__(
        self, client: Client, node_name: str, list_pods: Callable[[], list[PodWorker]]
    ) -> None:
        self._client = client
        self._node_name = node_name
        self._list_pods = list_pods
        self._cpu: dict[tuple[str, str, int], tuple[float, float]] = {}
        self._published: dict[tuple[str, str], str] = {}
        self._supported = True

    async def run(self) -> None:
        """Watch until cancelled."""
        await asyncio.gather(self._watch_limits(), self._publish_metrics())

    async def _watch_limits(self) -> None:
        while True:
            await asyncio.sleep(_LIMIT_CHECK_SECONDS)
            try:
                self._check_limits()
            except Exception:
                log.exception("memory limits not checked")

    def _check_limits(self) -> None:
        children: dict[int, list[int]] | None = None
        for pod in self._list_pods():
            for runner in pod.runners.values():
                limit = memory_limit(runner.record.spec)
                attempt = runner.running_attempt
                run = attempt.read_run() if attempt and limit is not None else None
                if run is None or limit is None:
                    continue
                if children is None:
                    children = read_children()
                usage = measure_tree(run["pid"], children)
                # Forked workers share pages, which a cgroup would count once.
                if usage.rss_bytes > limit and measure_proportional(usage.pids) > limit:
                    runner.kill(reason="OOMKilled")

    async def _publish_metrics(self) -> None:
        while True:
            await asyncio.sleep(_METRICS_SECONDS if self._supported else 60.0)
            try:
                await self._publish()
                self._supported = True
            except ApiError as err:
                if self._supported and err.status != 0:
                    log.info("the server takes no metrics: %s", err)
                    self._supported = False
            except Exception:
                log.exception("metrics not published")

    async def _publish(self) -> None:
        children = read_children()
        stamp = format_time(time.time_ns())
        current: dict[tuple[str, str], str] = {}
        measured: dict[tuple[str, str, int], tuple[float, float]] = {}
        for pod in self._list_pods():
            metadata = pod.manifest["metadata"]
            containers = []
            for name, runner in pod.runners.items():
                attempt = runner.running_attempt
                run = attempt.read_run() if attempt else None
                if run is None:
                    continue
                usage = measure_tree(run["pid"], children)
                now = time.monotonic()
                key = (pod.uid, name, run["pid"])
                # A new container's first value is its average since it began.
                age = max(0.0, time.time() - run["startedAt"] / 1e9)
                before = self._cpu.get(key, (now - age, 0.0))
                measured[key] = (now, usage.cpu_seconds)
                cores = max(0.0, usage.cpu_seconds - before[1]) / max(0.001, now - before[0])
                containers.append({"name": name, "usage": _usage(cores, usage.rss_bytes)})
            if containers:
                current[metadata["namespace"], metadata["name"]] = pod.uid
                await self._put(
                    PODMETRICS,
                    metadata["name"],
                    metadata["namespace"],
                    {
                        "metadata": {
                            "name": metadata["name"],
                            "namespace": metadata["namespace"],
                            "labels": metadata.get("labels") or {},
                        },
                        "timestamp": stamp,
                        "window": f"{_METRICS_SECONDS:g}s",
                        "containers": containers,
                    },
                )
        self._cpu = measured
        for namespace, name in set(self._published) - set(current):
            try:
                await self._client.delete(PODMETRICS, name, namespace)
            except ApiError as err:
                if not err.is_not_found:
                    raise
        self._published = current
        memory = psutil.virtual_memory()
        cores = psutil.cpu_percent() / 100 * (os.cpu_count() or 1)
        await self._put(
            NODEMETRICS,
            self._node_name,
            None,
            {
                "metadata": {"name": self._node_name},
                "timestamp": stamp,
                "window": f"{_METRICS_SECONDS:g}s",
                "usage": _usage(cores, memory.total - memory.available),
            },
        )

    async def _put(
        self, resource: Resource, name: str, namespace: str | None, body: Manifest
    ) -> None:
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        try:
            await self._client.patch(resource, name, namespace, body)
        except ApiError as err:
            if not err.is_not_found:
                raise
            await self._client.create(resource, body, namespace)


def _usage(cores: float, memory_bytes: int) -> dict[str, str]:
    return {"cpu": f"{round(cores * 1e9)}n", "memory": f"{memory_bytes // 1024}Ki"}
