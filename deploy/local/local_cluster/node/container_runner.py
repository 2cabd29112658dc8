"""One container of a pod from its first start to its last end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from local_cluster.client import ApiError, Manifest
from local_cluster.node.backoff import RestartBackoff
from local_cluster.node.container_health import ContainerHealth
from local_cluster.node.context import NodeContext
from local_cluster.node.environment import ConfigError
from local_cluster.node.image_map import Image, InvalidImageNameError, normalize_reference
from local_cluster.node.launch import Launch
from local_cluster.node.pod_status import ContainerRecord, Running, Waiting
from local_cluster.node.runtime import Attempt, Exit, find_attempts, remove_old_attempts
from local_cluster.node.volume_files import VolumeError
from local_cluster.node.volumes import mounted_images

# What a container gets after its preStop hook even when the grace period is used up.
_MINIMUM_GRACE_SECONDS = 2.0
_CONFIG_RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)


def _find_no_files(name: str) -> None:
    """Look for an image that could be mounted."""
    normalize_reference(name)


class PodHandle(Protocol):
    """What a container needs of its pod."""

    node: NodeContext
    address: str

    @property
    def manifest(self) -> Manifest:
        """The pod as last seen."""

    def changed(self) -> None:
        """A container's state changed: the status must be written."""

    async def prepare(self, container: Manifest, image: Image, attempt: Attempt) -> Launch:
        """Put together what the container's process needs."""


class ContainerRunner:
    """Starts, probes, restarts and stops one container.

    Args:
        pod: the pod.
        record: the container's state, kept current here.
        folder: where its logs and records lie.
    """

    def __init__(self, pod: PodHandle, record: ContainerRecord, folder: Path) -> None:
        self.record = record
        self._pod = pod
        self._folder = folder
        self._backoff = RestartBackoff(pod.node.restart_backoff_seconds)
        self._stopping = asyncio.Event()
        self._poked = asyncio.Event()
        self._attempt: Attempt | None = None
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()
        self._stopping_attempt: Attempt | None = None
        self._launch: Launch | None = None

    # What others may ask.

    @property
    def running_attempt(self) -> Attempt | None:
        """The attempt that runs now."""
        return self._attempt if isinstance(self.record.state, Running) else None

    def latest_attempt(self) -> Attempt | None:
        """The newest attempt on disk: what logs are read from."""
        attempts = find_attempts(self._folder) if self._folder.exists() else []
        return attempts[-1] if attempts else None

    def restore(self, known: Manifest | None = None) -> bool:
        """Take over what an earlier node agent left.

        Args:
            known: the container's status in the API. A container that was ready stays ready until
                a probe says otherwise, so that a restart of the agent costs no request.

        Returns:
            Whether the container still runs.
        """
        attempts = find_attempts(self._folder) if self._folder.exists() else []
        if not attempts:
            return False
        latest = attempts[-1]
        self._identify(latest)
        self.record.restart_count = latest.number
        if len(attempts) > 1:
            self.record.last_exit = attempts[-2].read_exit()
            self.record.last_container_id = self._container_id(attempts[-2])
        run = latest.read_run()
        if latest.is_alive() and run is not None:
            self.record.state = Running(run["startedAt"])
            self._attempt = latest
            if known is not None and known.get("containerID") == self.record.container_id:
                self.record.ready = bool(known.get("ready"))
                self.record.started = bool(known.get("started"))
            return True
        ended = latest.read_exit()
        if ended is not None:
            self.record.state = ended
            self._mark_ended(ended)
        return False

    def forget_success(self) -> None:
        """Let a finished init container run again, in a pod whose containers are all gone."""
        if isinstance(self.record.state, Exit):
            self.record.last_exit = self.record.state
            self.record.last_container_id = self.record.container_id
            self.record.state = Waiting("PodInitializing")
            self.record.ready = False

    def poke(self) -> None:
        """Something this container may wait for has changed."""
        self._poked.set()

    async def run(self) -> None:
        """Run the container until it ended for good or is stopped."""
        if self._attempt is not None:
            self._begun.set()
            await self._supervise(self._attempt, adopted=True)
        while not self._stopping.is_set():
            state = self.record.state
            if isinstance(state, Exit) and not await self._wait_for_restart(state):
                return
            if not await self._start():
                return
            if self._attempt is not None:
                await self._supervise(self._attempt, adopted=False)
        if isinstance(self.record.state, Waiting) and self.record.last_exit is not None:
            # What is gone for good is shown as ended, not as waiting.
            self.record.state = self.record.last_exit
            self._pod.changed()

    async def stop(self, grace_seconds: float, message: str | None = None) -> None:
        """End the container and never start it again.

        Args:
            grace_seconds: from SIGTERM (or the preStop hook) to SIGKILL.
            message: the text of the Killing event.
        """
        self._stopping.set()
        await self._stop_attempt(grace_seconds, message or f"Stopping container {self.record.name}")

    def kill(self, *, reason: str | None = None) -> None:
        """Kill the container at once; it may be restarted."""
        if self._attempt is not None:
            self._attempt.kill(reason=reason)

    def leave(self) -> None:
        """Let the container run on while the node agent ends."""
        if self._attempt is not None:
            self._attempt.leave()

    # Starting.

    def _should_restart(self, end: Exit) -> bool:
        policy = self._pod.manifest["spec"].get("restartPolicy", "Always")
        if self.record.is_sidecar:
            return True
        if self.record.is_init:
            return policy != "Never" and end.exit_code != 0
        return policy == "Always" or (policy == "OnFailure" and end.exit_code != 0)

    async def _wait_for_restart(self, end: Exit) -> bool:
        if not self._should_restart(end):
            return False
        delay = self._backoff.next_delay(asyncio.get_running_loop().time())
        self.record.last_exit = end
        self.record.last_container_id = self.record.container_id
        if delay > 0:
            name, metadata = self.record.name, self._pod.manifest["metadata"]
            place = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
            self._wait(
                "CrashLoopBackOff",
                f"back-off {_duration(delay)} restarting failed container={name} pod={place}",
            )
            self._event(
                "Warning", "BackOff", f"Back-off restarting failed container {name} in pod {place}"
            )
            await self._pause(delay)
        return not self._stopping.is_set()

    async def _start(self) -> bool:
        """Bring the container up; False when it was stopped meanwhile."""
        image = await self._find_image()
        attempts = find_attempts(self._folder) if self._folder.exists() else []
        while image is not None and not self._stopping.is_set():
            self._poked.clear()
            self._folder.mkdir(parents=True, exist_ok=True)
            number = attempts[-1].number + 1 if attempts else self.record.restart_count
            attempt = Attempt(self._folder, number)
            try:
                self._launch = await self._pod.prepare(self.record.spec, image, attempt)
            except (ConfigError, VolumeError, ApiError) as err:
                text = err.message if isinstance(err, ApiError) else str(err)
                if not self._is_waiting_for("CreateContainerConfigError", text):
                    self._event("Warning", "Failed", f"Error: {text}")
                self._wait("CreateContainerConfigError", text)
                await self._pause(_CONFIG_RETRY_SECONDS, pokeable=True)
                continue
            if self._stopping.is_set():
                break
            self._begun.clear()
            self._ended.clear()
            self._attempt = attempt
            attempt.launch(self._launch.spec)
            remove_old_attempts(self._folder, number)
            self.record.restart_count = number
            self.record.image, self.record.image_id = image.reference, image.image_id
            self._event("Normal", "Created", f"Created container: {self.record.name}")
            if await attempt.wait_started():
                self._event("Normal", "Started", f"Started container {self.record.name}")
            self._begun.set()
            return True
        return False

    async def _find_image(self) -> Image | None:
        """The container's image; None when the container was stopped before there was one.

        The images of its volumes are looked for first, as a kubelet pulls them before. None can be had here, because
        the image map knows commands and no files.
        """
        spec = self.record.spec
        if volumes := mounted_images(self._pod.manifest, spec):
            reference, policy = volumes[0].get("reference", ""), volumes[0].get("pullPolicy")
            return await self._pull(reference, policy, _find_no_files)
        name = spec.get("image", "")
        return await self._pull(name, spec.get("imagePullPolicy"), self._pod.node.images.find)

    async def _pull(
        self, name: str, policy: str | None, find: Callable[[str], Image | None]
    ) -> Image | None:
        events = self._event
        waited = 0.0
        while not self._stopping.is_set():
            try:
                image = find(name)
                reference = normalize_reference(name)
            except InvalidImageNameError as err:
                events("Warning", "InspectFailed", str(err))
                self._wait("InvalidImageName", str(err))
                await self._stopping.wait()
                return None
            if image is not None:
                events("Normal", "Pulled", f'Container image "{name}" already present on machine')
                return image
            if policy == "Never":
                message = f'Container image "{name}" is not present with pull policy of Never'
                events("Warning", "ErrImageNeverPull", message)
                events("Warning", "Failed", "Error: ErrImageNeverPull")
                self._wait("ErrImageNeverPull", message)
                await self._stopping.wait()
                return None
            cause = (
                f'failed to pull and unpack image "{reference}": failed to resolve reference '
                f'"{reference}": {reference}: not found'
            )
            events("Normal", "Pulling", f'Pulling image "{name}"')
            events("Warning", "Failed", f'Failed to pull image "{name}": {cause}')
            events("Warning", "Failed", "Error: ErrImagePull")
            self._wait("ErrImagePull", cause)
            # The kubelet shows the error first and the wait at its next look at the pod.
            await self._pause(min(1.0, self._pod.node.restart_backoff_seconds))
            if self._stopping.is_set():
                return None
            waited = min(self._backoff.max_seconds, waited * 2 or self._backoff.initial_seconds)
            events("Normal", "BackOff", f'Back-off pulling image "{name}"')
            events("Warning", "Failed", "Error: ImagePullBackOff")
            self._wait(
                "ImagePullBackOff", f'Back-off pulling image "{name}": ErrImagePull: {cause}'
            )
            await self._pause(waited)
        return None

    # Running.

    async def _supervise(self, attempt: Attempt, *, adopted: bool) -> None:
        run = attempt.read_run()
        self._identify(attempt)
        watcher: asyncio.Task[None] | None = None
        if run is not None:
            self.record.state = Running(run["startedAt"])
            if self.record.is_init and not self.record.is_sidecar:
                self.record.started = False
            else:
                if not adopted:
                    self.record.started = "startupProbe" not in self.record.spec
                    self.record.ready = (
                        self.record.started and "readinessProbe" not in self.record.spec
                    )
                watcher = asyncio.create_task(self._look_after(attempt, adopted=adopted))
            self._pod.changed()
        try:
            await attempt.wait_ended()
        finally:
            if watcher is not None:
                watcher.cancel()
                (outcome,) = await asyncio.gather(watcher, return_exceptions=True)
                if isinstance(outcome, Exception):
                    log.error("probes of %s failed", self.record.name, exc_info=outcome)
        end = attempt.read_exit()
        assert end is not None
        self._attempt = None
        self._ended.set()
        self.record.state = end
        self._mark_ended(end)
        if end.reason == "StartError":
            self._event("Warning", "Failed", f"Error: {end.message}")
        self._pod.changed()

    def _mark_ended(self, end: Exit) -> None:
        plain_init = self.record.is_init and not self.record.is_sidecar
        self.record.ready = plain_init and end.exit_code == 0
        self.record.started = False

    def _container_id(self, attempt: Attempt) -> str:
        uid = self._pod.manifest["metadata"]["uid"]
        text = f"{uid}/{self.record.name}/{attempt.number}"
        return f"process://{hashlib.sha256(text.encode()).hexdigest()}"

    def _identify(self, attempt: Attempt) -> None:
        self.record.container_id = self._container_id(attempt)
        if not self.record.image:
            with contextlib.suppress(InvalidImageNameError):
                image = self._pod.node.images.find(self.record.spec.get("image", ""))
                if image is not None:
                    self.record.image, self.record.image_id = image.reference, image.image_id

    # Health.

    def _health_of(self, attempt: Attempt) -> ContainerHealth:
        return ContainerHealth(
            self.record,
            attempt,
            address=self._pod.address,
            launch=self._launch,
            emit=self._event,
            changed=self._pod.changed,
            restart=self._restart,
        )

    async def _look_after(self, attempt: Attempt, *, adopted: bool) -> None:
        if adopted:
            await self._rebuild_launch(attempt)
        await self._health_of(attempt).watch(adopted=adopted)

    async def _rebuild_launch(self, attempt: Attempt) -> None:
        image = self._pod.node.images.find(self.record.spec.get("image", ""))
        if image is None:
            return
        try:
            self._launch = await self._pod.prepare(self.record.spec, image, attempt)
        except (ConfigError, VolumeError, ApiError) as err:
            log.warning("%s: exec probes keep container paths: %s", self.record.name, err)

    def _restart(self, why: str, grace: float | None) -> None:
        if self._stopping.is_set():
            return  # a pod that is going down is not restarted by its probes
        if grace is None:
            grace = self._pod.manifest["spec"].get("terminationGracePeriodSeconds", 30)
        message = f"Container {self.record.name} {why}, will be restarted"
        task = asyncio.create_task(self._stop_attempt(float(grace or 0), message))
        self._restart_task = task  # keeps it from being collected while it runs

    # Stopping.

    async def _stop_attempt(self, grace_seconds: float, message: str) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        if self._stopping_attempt is attempt:
            await self._ended.wait()
            return
        self._stopping_attempt = attempt
        await self._begun.wait()
        self._event("Normal", "Killing", message)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        hook = (self.record.spec.get("lifecycle") or {}).get("preStop")
        if hook and grace_seconds > 0:
            running_hook = asyncio.create_task(
                self._health_of(attempt).run_handler(hook, grace_seconds)
            )
            ended = asyncio.create_task(self._ended.wait())
            await asyncio.wait(
                {running_hook, ended}, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            ended.cancel()
            if running_hook.done() and not running_hook.cancelled():
                outcome = running_hook.result()
                if not outcome.ok:
                    self._event(
                        "Warning", "FailedPreStopHook", f"PreStopHook failed: {outcome.output}"
                    )
            running_hook.cancel()
            await asyncio.gather(running_hook, return_exceptions=True)
            deadline = max(deadline, loop.time() + _MINIMUM_GRACE_SECONDS)
        attempt.terminate()
        try:
            await asyncio.wait_for(self._ended.wait(), max(0.0, deadline - loop.time()))
        except TimeoutError:
            attempt.kill()
            await self._ended.wait()

    # Small things.

    async def _pause(self, seconds: float, *, pokeable: bool = False) -> None:
        waits = [asyncio.create_task(self._stopping.wait())]
        if pokeable:
            waits.append(asyncio.create_task(self._poked.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _is_waiting_for(self, reason: str, message: str) -> bool:
        return self.record.state == Waiting(reason, message)

    def _wait(self, reason: str, message: str) -> None:
        if isinstance(self.record.state, Exit):
            self.record.last_exit = self.record.state
        self.record.state = Waiting(reason, message)
        self.record.ready = self.record.started = False
        self._pod.changed()

    def _event(self, kind: str, reason: str, message: str) -> None:
        field = "initContainers" if self.record.is_init else "containers"
        self._pod.node.events.event(
            self._pod.manifest,
            kind,
            reason,
            message,
            field_path=f"spec.{field}{{{self.record.name}}}",
        )


def _duration(seconds: float) -> str:
    """As Go prints a duration: 10s, 1m20s, 5m0s."""
    if seconds < 60:
        return f"{seconds:g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
