"""The Node object and its Lease: registration and heartbeat."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil

from local_cluster.client import LEASES, NODES, ApiError, Client, Manifest
from local_cluster.node.context import HOST_IP
from local_cluster.node.pod_status import format_time

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
_RENEW_SECONDS = 10.0
_STATUS_SECONDS = 300.0
# The version whose behaviour the agent follows.
KUBELET_VERSION = "v1.36.0"

log = logging.getLogger(__name__)


def measure_capacity(extra: Mapping[str, str], pods: int = 110) -> dict[str, str]:
    """What this machine has, and what it is said to have (``nvidia.com/gpu``)."""
    disk = psutil.disk_usage("/").total
    return {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{psutil.virtual_memory().total // 1024}Ki",
        "ephemeral-storage": f"{disk // 1024}Ki",
        "pods": str(pods),
    } | dict(extra)


def build_node(
    name: str, capacity: Mapping[str, str], *, port: int, now: str, ready_since: str
) -> Manifest:
    """The Node with its status."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    conditions = [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": machine,
                "beta.kubernetes.io/os": "linux",
                "beta.kubernetes.io/arch": machine,
            },
        },
        "status": {
            "capacity": dict(capacity),
            "allocatable": dict(capacity),
            "addresses": [
                {"type": "InternalIP", "address": HOST_IP},
                {"type": "Hostname", "address": name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "reason": reason,
                    "message": message,
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": ready_since,
                }
                for kind, status, reason, message in conditions
            ],
            "nodeInfo": {
                "architecture": machine,
                "bootID": _read("/proc/sys/kernel/random/boot_id"),
                "containerRuntimeVersion": "process://0.1.0",
                "kernelVersion": platform.release(),
                "kubeProxyVersion": "",
                "kubeletVersion": KUBELET_VERSION,
                "machineID": _read("/etc/machine-id"),
                "operatingSystem": "linux",
                "osImage": _os_name(),
                "systemUUID": _read("/etc/machine-id"),
            },
        },
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


class NodeHeartbeat:
    """Registers the node and keeps its Lease renewed.

    Args:
        client: an open client.
        name: the node's name.
        capacity: the node's capacity.
        port: where logs are served.
    """

    def __init__(
        self, client: Client, name: str, capacity: Mapping[str, str], *, port: int
    ) -> None:
        self._client = client
        self._name = name
        self._capacity = capacity
        self._port = port
        self._ready_since = format_time(time.time_ns())
        self.uid = ""

    async def register(self) -> None:
        """Create the Node, or bring the one that is there up to date."""
        node = self._build()
        labels = node["metadata"]["labels"]
        try:
            answer = await self._client.create(NODES, node)
        except ApiError as err:
            if not err.already_exists:
                raise
            answer = await self._client.patch(
                NODES, self._name, None, {"metadata": {"labels": labels}}
            )
        self.uid = answer["metadata"].get("uid", "")
        await self._write_status()
        await self._renew()

    async def run(self) -> None:
        """Renew Lease and status until cancelled."""
        next_status = time.monotonic() + _STATUS_SECONDS
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            try:
                if time.monotonic() >= next_status:
                    await self._write_status()
                    next_status = time.monotonic() + _STATUS_SECONDS
                await self._renew()
            except ApiError as err:
                if err.is_not_found:
                    log.warning("the node is gone from the API: registering again")
                    try:
                        await self.register()
                    except ApiError as again:
                        log.warning("not registered: %s", again)
                else:
                    log.warning("heartbeat: %s", err)

    def _build(self) -> Manifest:
        return build_node(
            self._name,
            self._capacity,
            port=self._port,
            now=format_time(time.time_ns()),
            ready_since=self._ready_since,
        )

    async def _write_status(self) -> None:
        body = {"status": self._build()["status"]}
        await self._client.patch(NODES, self._name, None, body, subresource="status")

    async def _renew(self) -> None:
        spec = {
            "holderIdentity": self._name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        try:
            await self._client.patch(LEASES, self._name, LEASE_NAMESPACE, {"spec": spec})
        except ApiError as err:
            if not err.is_not_found:
                raise
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": self.uid}
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {
                    "name": self._name,
                    "namespace": LEASE_NAMESPACE,
                    "ownerReferences": [owner],
                },
                "spec": spec,
            }
            await self._client.create(LEASES, lease, LEASE_NAMESPACE)
