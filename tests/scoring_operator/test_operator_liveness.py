"""Liveness notices what hangs in silence, and metrics tell what the operator does."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest
from operator_cluster import at_rest, eventually, running_api, running_operator, scoring_model

import scoring_operator.app
from scoring_operator.api import Key, Kinds
from scoring_operator.health import HealthServer
from scoring_operator.reconcile import Reconciler


async def test_a_watch_that_falls_silent_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_api(tmp_path) as api, running_operator(api.kubeconfig) as operator:
        server = HealthServer(
            operator.metrics.registry, operator.liveness_problem, operator.readiness_problem
        )
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}/healthz"
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as answer:
                assert answer.status == 200
            assert operator._cluster is not None
            stuck = operator._cluster._informers[Kinds.DEPLOYMENT]
            stuck.last_contact = time.monotonic() - scoring_operator.app._STUCK_SECONDS - 1
            async with session.get(url) as answer:
                assert answer.status == 503
                assert "a watch has been silent" in await answer.text()
        await server.stop()


async def test_a_watch_that_ends_is_noticed(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, running_operator(api.kubeconfig) as operator:
        assert operator._cluster is not None
        assert operator.liveness_problem() is None
        task = operator._cluster._tasks[0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert operator.liveness_problem() == "a task that never ends has ended"


async def test_a_worker_that_hangs_is_noticed_with_the_model_that_it_hangs_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Reconciler, "reconcile", hang)
    async with running_api(tmp_path) as api, running_operator(api.kubeconfig) as operator:
        operator.queue.add(Key("default", "faq"))

        async def busy() -> bool:
            return bool(operator._busy_since)

        await eventually(busy)
        assert operator.liveness_problem() is None
        monkeypatch.setattr(scoring_operator.app, "_WORKER_STUCK_SECONDS", -1.0)
        assert "default/faq has been worked on" in (operator.liveness_problem() or "")


async def test_metrics_tell_reconciles_duration_queue_calls_and_models(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model())
        await eventually(lambda: api.get(Kinds.INGRESS, "faq"))
        await at_rest(operator)
        registry = operator.metrics.registry
        value = registry.get_sample_value
        calls = "scoring_operator_api_calls_total"
        made = {"verb": "POST", "resource": "deployments", "code": "201"}
        assert value(calls, made) == 1
        assert (value("scoring_operator_reconciles_total", {"result": "changed"}) or 0) >= 1
        assert (value("scoring_operator_reconcile_seconds_count") or 0) >= 1
        assert (value("scoring_operator_queue_wait_seconds_count") or 0) >= 1
        assert value("scoring_operator_queue_depth") == 0
        assert value("scoring_operator_models", {"reason": "Progressing"}) == 1
