"""The health of one running container: hooks, probes, and what follows from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from local_cluster.client import Manifest
from local_cluster.node.launch import Launch
from local_cluster.node.pod_status import ContainerRecord
from local_cluster.node.probes import Outcome, ProbeTarget, Threshold, run_probe
from local_cluster.node.runtime import Attempt

# The kubelet waits for a postStart hook as long as it takes; nothing sensible takes an hour.
_POST_START_SECONDS = 3600.0

EmitEvent = Callable[[str, str, str], None]
RestartContainer = Callable[[str, float | None], None]


class ContainerHealth:
    """Hooks and probes of one attempt to run a container.

    Args:
        record: the container's state; ``started`` and ``ready`` are kept current here.
        attempt: the attempt that runs.
        address: the pod's address.
        launch: how the container was started; None leaves paths in exec commands as they are.
        emit: takes type, reason and message of an event.
        changed: called when the pod's status must be written.
        restart: asked to end the container, with the reason and the probe's own grace period.
    """

    def __init__(
        self,
        record: ContainerRecord,
        attempt: Attempt,
        *,
        address: str,
        launch: Launch | None,
        emit: EmitEvent,
        changed: Callable[[], None],
        restart: RestartContainer,
    ) -> None:
        self._record = record
        self._attempt = attempt
        self._address = address
        self._launch = launch
        self._emit = emit
        self._changed = changed
        self._restart = restart

    def _target(self) -> ProbeTarget:
        ports = {
            item["name"]: int(item["containerPort"])
            for item in self._record.spec.get("ports") or []
            if item.get("name")
        }
        spec = self._attempt.read_spec() or {}
        return ProbeTarget(self._address, ports, spec.get("env", {}), spec.get("cwd", "/"))

    async def run_handler(self, handler: Manifest, timeout_seconds: float) -> Outcome:
        """Run a probe or lifecycle handler once."""
        command = [str(word) for word in (handler.get("exec") or {}).get("command") or []]
        if command and self._launch is not None:
            command = self._launch.command(command)
        if "sleep" in handler:
            await asyncio.sleep(min(float(handler["sleep"]["seconds"]), timeout_seconds))
            return Outcome(True)
        return await run_probe(handler, command, self._target(), timeout_seconds)

    async def watch(self, *, adopted: bool) -> None:
        """Run the postStart hook, then the probes, until cancelled.

        Args:
            adopted: the container was started by an earlier node agent: its hook has run.
        """
        spec = self._record.spec
        hook = (spec.get("lifecycle") or {}).get("postStart")
        if hook and not adopted:
            outcome = await self.run_handler(hook, _POST_START_SECONDS)
            if not outcome.ok:
                message = f"PostStartHook failed: {outcome.output}"
                self._emit("Warning", "FailedPostStartHook", message)
                self._restart("failed its postStart hook", None)
                return
        if "startupProbe" in spec and not self._record.started:
            await self._probe("startup", spec["startupProbe"])
        self._record.started = True
        if "readinessProbe" not in spec:
            self._record.ready = True
        self._changed()
        async with asyncio.TaskGroup() as group:
            for kind in ("readiness", "liveness"):
                if f"{kind}Probe" in spec:
                    group.create_task(self._probe(kind, spec[f"{kind}Probe"]))

    async def _probe(self, kind: str, probe: Manifest) -> None:
        """Probe until cancelled; a startup probe until it succeeds."""
        threshold = Threshold(
            int(probe.get("successThreshold") or 1) if kind == "readiness" else 1,
            int(probe.get("failureThreshold") or 3),
            # A container taken over from an earlier agent stays as ready as it was.
            kind == "liveness" or (kind == "readiness" and self._record.ready),
        )
        period = float(probe.get("periodSeconds") or 10)
        timeout = float(probe.get("timeoutSeconds") or 1)
        loop = asyncio.get_running_loop()
        run = self._attempt.read_run() or {}
        age = time.time() - float(run.get("startedAt", 0)) / 1e9
        await asyncio.sleep(max(0.0, float(probe.get("initialDelaySeconds") or 0) - age))
        next_look = loop.time()
        while True:
            outcome = await self.run_handler(probe, timeout)
            if not outcome.ok:
                message = f"{kind.capitalize()} probe failed: {outcome.output}"
                self._emit("Warning", "Unhealthy", message)
            verdict = threshold.add(outcome.ok)
            if kind == "readiness":
                if verdict != self._record.ready:
                    self._record.ready = verdict
                    self._changed()
            elif kind == "startup" and verdict:
                return
            elif threshold.failed:
                self._restart(f"failed {kind} probe", probe.get("terminationGracePeriodSeconds"))
                await asyncio.Event().wait()  # until the container's end cancels this
            next_look = max(next_look + period, loop.time())
            await asyncio.sleep(next_look - loop.time())
