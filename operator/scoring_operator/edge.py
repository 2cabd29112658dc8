"""kopf at the edge: it runs the process, logs in, and tells of ScoringModels; it never writes to the cluster.

Only low-level event handlers are registered: they add no finalizers and no annotations, and return nothing, so that kopf
has nothing to store.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import kopf

from scoring_operator.api import Key
from scoring_operator.app import Operator
from scoring_operator.cluster import ClusterError, NotFoundError
from scoring_operator.health import HealthServer
from scoring_operator.leadership import Leadership

log = logging.getLogger(__name__)

_START_AGAIN_SECONDS = 2.0


def build_registry(
    operator: Operator,
    leadership: Leadership | None,
    *,
    listen_address: str,
    metrics_port: int | None,
) -> kopf.OperatorRegistry:
    """Register the handlers.

    Args:
        operator: what they start, stop and feed.
        leadership: waited for before the operator starts; None: nobody else is expected.
        listen_address: of the health and metrics endpoints.
        metrics_port: of the same; None: no endpoints.
    """
    registry = kopf.OperatorRegistry()

    def readiness_problem() -> str | None:
        # Who waits for the lease is as ready as it can be: a rollout must go on with it, or the lease is never given up.
        if leadership and not leadership.leads:
            return None
        return operator.readiness_problem()

    health = HealthServer(operator.metrics.registry, operator.liveness_problem, readiness_problem)

    @kopf.on.startup(registry=registry)
    async def listen(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        if metrics_port is not None:
            port = await health.start(listen_address, metrics_port)
            log.info("health and metrics", extra={"address": listen_address, "port": port})

    @kopf.on.startup(registry=registry)
    async def start(**_: Any) -> None:
        try:
            if leadership:
                await leadership.begin()
            await operator.start()
        except ClusterError as err:
            # The API server may be away, or the CRD not installed yet: both are waited for.
            hint = "; install the CRD: kubectl apply -k crds" if _is_not_installed(err) else ""
            raise kopf.TemporaryError(f"{err}{hint}", delay=_START_AGAIN_SECONDS) from err
        except Exception as err:
            raise kopf.PermanentError(str(err)) from err

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await operator.stop()
        if leadership:
            await leadership.end()
        await health.stop()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        connection = kopf.login_with_service_account(**kwargs)
        return connection or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event("mlscoring.io", "v1", "scoringmodels", registry=registry)
    async def enqueue(namespace: str | None, name: str, **_: Any) -> None:
        operator.queue.add(Key(namespace or "", name))

    return registry


def _is_not_installed(err: ClusterError) -> bool:
    return isinstance(err, NotFoundError)


class _NoDiffs(kopf.DiffBaseStorage):
    """No handler asks what changed, so kopf need not find out."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


def configure(settings: kopf.OperatorSettings) -> None:
    """Settings that keep kopf from writing, and from waiting on dead connections."""
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffs()
    # The resource is named in full, so CRDs and namespaces need not be watched (nor permitted).
    settings.scanning.disabled = True
    settings.watching.server_timeout = 290
    settings.watching.connect_timeout = 10
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.process.ultimate_exiting_timeout = 30


def kubeconfig_environment(kubeconfig: Path | None) -> dict[str, str]:
    """The environment by which kopf finds the same kubeconfig."""
    return {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
