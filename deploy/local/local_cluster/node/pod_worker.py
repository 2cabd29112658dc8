"""One pod on this node: set up, init containers, containers, status, end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from local_cluster.client import PODS, ApiError, Manifest
from local_cluster.node.addresses import NoAddressError
from local_cluster.node.container_runner import ContainerRunner
from local_cluster.node.context import HOST_IP, NodeContext, build_kubeconfig
from local_cluster.node.image_map import Image
from local_cluster.node.launch import Launch, PodPlace, build_launch
from local_cluster.node.pod_status import ContainerRecord, Waiting, derive_pod_status, format_time
from local_cluster.node.runtime import Attempt, Exit, write_json
from local_cluster.node.tokens import TokenCache
from local_cluster.node.volume_files import FileSources, VolumeError
from local_cluster.node.volumes import (
    SERVICE_ACCOUNT_PATH,
    PodVolumes,
    all_containers,
    inject_service_account,
    references,
)

_RETRY_SECONDS = 0.5
_MAX_RETRY_SECONDS = 10.0
# Of a namespace, a name and a uid only the uid is short; file names end at 255 bytes.
_MAX_FOLDER_NAME = 220

log = logging.getLogger(__name__)


def pod_folder_name(pod: Manifest) -> str:
    """The name of a pod's folder: namespace, name and uid."""
    metadata = pod["metadata"]
    uid = str(metadata["uid"])
    return f"{metadata['namespace']}_{metadata['name']}"[: _MAX_FOLDER_NAME - len(uid)] + f"_{uid}"


class PodWorker:
    """Runs one pod until it is deleted.

    Args:
        node: what the pod shares with others.
        pod: the pod as first seen.
    """

    def __init__(self, node: NodeContext, pod: Manifest) -> None:
        self.node = node
        self.address = ""
        self.folder = node.pods_folder / pod_folder_name(pod)
        self._pod = pod
        self._seen = pod
        self._effective: Manifest | None = None
        self._dirty = asyncio.Event()
        self._deleting = asyncio.Event()
        self._gone = False
        self._retry = asyncio.Event()
        self._progress = asyncio.Event()
        self._stopping = False
        self._failure: tuple[str, str] | None = None
        self._sandbox_ready = False
        self._written: Manifest | None = None
        self._tokens = TokenCache(node)
        self._volumes = PodVolumes(self._place.volumes, node.find_claim)
        start = (pod.get("status") or {}).get("startTime")
        self._start_time: str = start or format_time(time.time_ns())
        waiting = "PodInitializing" if pod["spec"].get("initContainers") else "ContainerCreating"
        init_names = {item["name"] for item in pod["spec"].get("initContainers") or []}
        self.runners: dict[str, ContainerRunner] = {}
        known = _known_restarts(pod)
        for spec in all_containers(pod):
            record = ContainerRecord(
                spec,
                is_init=spec["name"] in init_names,
                state=Waiting(waiting),
                restart_count=known.get(spec["name"], 0),
            )
            folder = self._place.container(spec["name"])
            self.runners[spec["name"]] = ContainerRunner(self, record, folder)

    # What containers and the agent use.

    @property
    def manifest(self) -> Manifest:
        """The pod as last seen, with the service account volume."""
        return self._effective or self._pod

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return str(self._pod["metadata"]["uid"])

    @property
    def records(self) -> list[ContainerRecord]:
        """The state of all containers, init containers first."""
        return [runner.record for runner in self.runners.values()]

    @property
    def is_finished(self) -> bool:
        """Whether all containers ended for good."""
        return all(isinstance(r.state, Exit) for r in self.records if not r.is_init)

    @property
    def _place(self) -> PodPlace:
        return PodPlace(self.folder, self.address)

    def changed(self) -> None:
        """A container's state changed: the status must be written."""
        self._dirty.set()
        self._progress.set()

    def update(self, pod: Manifest) -> None:
        """Take a newer version of the pod."""
        if _version(pod) < _version(self._pod):
            return
        before, self._pod, self._seen = self._seen, pod, pod
        if self._effective is not None:
            self._effective = {**self._effective, "metadata": pod["metadata"]}
        if pod["metadata"].get("deletionTimestamp"):
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            old = before["metadata"].get("deletionGracePeriodSeconds")
            if self._deleting.is_set() and old is not None and grace < old:
                self._cut_short(grace)
            self._deleting.set()
        if pod["metadata"].get("labels") != before["metadata"].get("labels") or pod["metadata"].get(
            "annotations"
        ) != before["metadata"].get("annotations"):
            self._refresh_soon()
        self._dirty.set()

    def removed(self) -> None:
        """The pod is gone from the API, without waiting for this node."""
        self._gone = True
        if self._deleting.is_set():
            self._cut_short(1.0)
        self._deleting.set()

    def object_changed(self, kind: str, name: str) -> None:
        """A Secret or ConfigMap of the pod's namespace changed."""
        self._retry.set()
        for runner in self.runners.values():
            runner.poke()
        if (kind, name) in references(self.manifest):
            self._refresh_soon()

    async def prepare(self, container: Manifest, image: Image, attempt: Attempt) -> Launch:
        """Put together what a container's process needs."""
        current = next(c for c in all_containers(self.manifest) if c["name"] == container["name"])
        return await build_launch(
            self.node,
            self.manifest,
            current,
            image,
            place=self._place,
            volumes=self._volumes,
            termination=attempt.termination,
        )

    def restore(self) -> bool:
        """Take over containers that run already; returns whether there are any."""
        with contextlib.suppress(OSError, ValueError):
            kept = json.loads((self.folder / ".pod.json").read_text(encoding="utf-8"))
            address = kept.get("address", "")
            if address and (address == HOST_IP or self.node.network.claim(address)):
                self.address = address
            self._start_time = kept.get("startTime", self._start_time)
        known = _known_statuses(self._pod)
        alive = [runner.restore(known.get(name)) for name, runner in self.runners.items()]
        return any(alive)

    # The pod's life.

    async def run(self) -> None:
        """Run the pod until it is deleted from the API and everything of it is gone here."""
        alive = self._sandbox_ready = self.restore()
        if (self._pod.get("status") or {}).get("phase") in ("Succeeded", "Failed") and not alive:
            # What has ended for good is never started again, only cleaned up.
            if not self._pod["metadata"].get("deletionTimestamp"):
                await self._deleting.wait()
            await self._delete()
            await self._clean_up()
            return
        writer = asyncio.create_task(self._write_statuses())
        life = asyncio.create_task(self._live(alive))
        deleting = asyncio.create_task(self._deleting.wait())
        deadline = asyncio.create_task(self._watch_deadline())
        refresh = asyncio.create_task(self._refresh_periodically())
        helpers = [writer, deleting, deadline, refresh]
        try:
            if self._pod["metadata"].get("deletionTimestamp"):
                self._deleting.set()
            await asyncio.wait({life, deleting}, return_when=asyncio.FIRST_COMPLETED)
            if life.done() and not life.cancelled() and life.exception() is not None:
                log.error("pod %s failed", self.folder.name, exc_info=life.exception())
                self.node.events.warning(
                    self._pod, "FailedSync", f"error syncing pod: {life.exception()}"
                )
            await deleting
            await self._terminate(life, self._grace())
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await self._write_last_status()
            await self._delete()
        finally:
            for task in [*helpers, life]:
                task.cancel()
            await asyncio.gather(*helpers, life, return_exceptions=True)
        await self._clean_up()

    async def stop(self, grace_seconds: float) -> None:
        """End all containers because the node agent ends; the pod stays in the API."""
        self._stopping = True
        self._retry.set()
        self._progress.set()
        await self._stop_containers(min(self._grace(), grace_seconds))

    def _grace(self) -> float:
        metadata, spec = self._pod["metadata"], self._pod["spec"]
        grace = metadata.get("deletionGracePeriodSeconds")
        if grace is None:
            grace = spec.get("terminationGracePeriodSeconds")
        return max(1.0, float(30 if grace is None else grace))

    async def _live(self, alive: bool) -> None:
        await self._set_up()
        if self._stopping:
            return
        sidecars: list[asyncio.Task[None]] = []
        mains = [r for r in self.runners.values() if not r.record.is_init]
        inits = [r for r in self.runners.values() if r.record.is_init]
        if not alive and not all(isinstance(r.record.state, Exit) for r in mains):
            for runner in inits:
                # Nothing of the pod runs any more, as after a reboot: start over.
                runner.forget_success()
        try:
            for runner in inits:
                if runner.record.is_sidecar:
                    sidecars.append(asyncio.create_task(runner.run()))
                    await self._wait_started(runner)
                elif not runner.record.is_initialized:
                    await runner.run()
                    if not runner.record.is_initialized or self._stopping:
                        return
            if self._stopping:
                return
            await asyncio.gather(*(runner.run() for runner in mains))
        finally:
            for runner in reversed([r for r in inits if r.record.is_sidecar]):
                await runner.stop(self._grace())
            await asyncio.gather(*sidecars, return_exceptions=True)
            self.changed()

    async def _wait_started(self, runner: ContainerRunner) -> None:
        while not runner.record.started and not self._stopping:
            self._progress.clear()
            await self._progress.wait()

    async def _set_up(self) -> None:
        delay = _RETRY_SECONDS
        last = ""
        while not self._stopping:
            self._retry.clear()
            try:
                await self._make_sandbox()
            except (VolumeError, NoAddressError, ApiError) as err:
                message = str(err)
                reason = "FailedMount" if isinstance(err, VolumeError) else "FailedCreatePodSandBox"
                if message != last:
                    log.info("%s: %s", self.folder.name, message)
                last = message
                self.node.events.warning(self._pod, reason, message)
                self.changed()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._retry.wait(), delay)
                delay = min(_MAX_RETRY_SECONDS, delay * 2)
                continue
            self._sandbox_ready = True
            self.changed()
            return

    async def _make_sandbox(self) -> None:
        pod = self._pod
        if not self.address:
            host_network = pod["spec"].get("hostNetwork")
            self.address = HOST_IP if host_network else self.node.network.allocate()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(
            str(self.folder / ".pod.json"),
            {
                "address": self.address,
                "startTime": self._start_time,
                "pod": pod["metadata"]["name"],
            },
        )
        account = pod["spec"].get("serviceAccountName") or "default"
        namespace = pod["metadata"]["namespace"]
        automount = await self.node.allows_automount(namespace, account)
        self._effective = inject_service_account(pod, automount=automount)
        await self._fill_volumes()

    async def _fill_volumes(self) -> None:
        pod = self.manifest
        sources = FileSources(
            read_object=self.node.read_object,
            request_token=lambda audience, seconds: self._tokens.get(pod, audience, seconds),
            cluster_ca=self.node.server.ca,
            addresses={"podIP": self.address, "hostIP": HOST_IP},
            allocatable=self.node.allocatable,
        )
        await self._volumes.set_up(pod, sources)
        if any(
            mount["mountPath"].rstrip("/") == SERVICE_ACCOUNT_PATH
            for container in all_containers(pod)
            for mount in container.get("volumeMounts") or []
        ):
            token = await self._tokens.get(pod, None, 3607)
            text = build_kubeconfig(self.node.server, token, pod["metadata"]["namespace"])
            _write_private(self._place.kubeconfig, text)

    def _refresh_soon(self) -> None:
        if self._sandbox_ready and not self._deleting.is_set():
            self._refresh_task = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            await self._fill_volumes()
        except (VolumeError, ApiError) as err:
            # As in a real cluster: what was mounted stays until there is something newer.
            log.info("%s: %s", self.folder.name, err)

    async def _refresh_periodically(self) -> None:
        while True:
            await asyncio.sleep(60)
            if self._sandbox_ready:
                await self._refresh()

    async def _watch_deadline(self) -> None:
        seconds = self._pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return
        await asyncio.sleep(float(seconds))
        if self._deleting.is_set() or self.is_finished:
            return
        message = "Pod was active on the node longer than the specified deadline"
        self._stopping = True
        self.node.events.normal(self._pod, "DeadlineExceeded", message)
        await self._stop_containers(self._grace())
        self._failure = ("DeadlineExceeded", message)
        self.changed()

    # The end.

    async def _stop_containers(self, grace_seconds: float) -> None:
        mains = [r for r in self.runners.values() if not r.record.is_sidecar]
        sidecars = [r for r in self.runners.values() if r.record.is_sidecar]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        await asyncio.gather(*(runner.stop(grace_seconds) for runner in mains))
        for runner in reversed(sidecars):
            await runner.stop(max(0.0, deadline - loop.time()))

    def _cut_short(self, grace_seconds: float) -> None:
        def kill() -> None:
            for runner in self.runners.values():
                runner.kill()

        asyncio.get_running_loop().call_later(max(grace_seconds, 1.0), kill)

    async def _terminate(self, life: asyncio.Task[None], grace_seconds: float) -> None:
        self._stopping = True
        self._retry.set()
        self._progress.set()
        await self._stop_containers(grace_seconds)
        await asyncio.wait({life})
        self.changed()

    async def _write_last_status(self) -> None:
        try:
            await self._write_status()
        except ApiError as err:
            log.warning("%s: last status not written: %s", self.folder.name, err)

    async def _delete(self) -> None:
        metadata = self._pod["metadata"]
        while not self._gone:
            try:
                await self.node.client.delete(
                    PODS,
                    metadata["name"],
                    metadata["namespace"],
                    grace_seconds=0,
                    uid=metadata["uid"],
                )
                return
            except ApiError as err:
                if err.status in (404, 409):
                    return
                log.warning("%s: cannot be deleted: %s", self.folder.name, err)
                await asyncio.sleep(1)

    async def _clean_up(self) -> None:
        for runner in self.runners.values():
            attempt = runner.latest_attempt()
            if attempt is not None and attempt.is_alive():
                attempt.kill()
                await attempt.wait_ended()
        if self.address:
            self.node.network.release(self.address)
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    # Status.

    async def _write_statuses(self) -> None:
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._write_status()
            except ApiError as err:
                log.warning("%s: status not written: %s", self.folder.name, err)
                await asyncio.sleep(1)
                self._dirty.set()

    async def _write_status(self) -> None:
        if self._gone:
            return
        status = derive_pod_status(
            self._pod,
            self.records,
            pod_ip=self.address or None,
            host_ip=HOST_IP,
            start_time=self._start_time,
            sandbox_ready=self._sandbox_ready and not self._is_over(),
            now=format_time(time.time_ns()),
            failure=self._failure,
        )
        if status == self._written:
            return
        metadata = self._pod["metadata"]
        body: dict[str, Any] = {"metadata": {"uid": metadata["uid"]}, "status": status}
        try:
            answer = await self.node.client.patch(
                PODS, metadata["name"], metadata["namespace"], body, subresource="status"
            )
        except ApiError as err:
            if err.is_not_found or (err.status in (409, 422) and "uid" in err.message.lower()):
                return  # deleted, perhaps replaced by another pod of that name
            raise
        self._written = status
        if answer["metadata"].get("uid") == metadata["uid"] and _version(answer) >= _version(
            self._pod
        ):
            self._pod = {"apiVersion": "v1", "kind": "Pod", **answer}

    def _is_over(self) -> bool:
        return self._stopping and all(isinstance(r.state, Exit | Waiting) for r in self.records)


def _known_restarts(pod: Manifest) -> dict[str, int]:
    """Restart counts that the API knows; the node's own files may be gone."""
    return {
        name: int(item.get("restartCount") or 0) + (1 if item.get("containerID") else 0)
        for name, item in _known_statuses(pod).items()
    }


def _known_statuses(pod: Manifest) -> dict[str, Manifest]:
    status = pod.get("status") or {}
    entries = [
        *(status.get("containerStatuses") or ()),
        *(status.get("initContainerStatuses") or ()),
    ]
    return {item["name"]: item for item in entries}


def _version(pod: Manifest) -> int:
    text = str(pod["metadata"].get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0


def _write_private(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)
