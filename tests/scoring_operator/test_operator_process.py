"""`python -m scoring_operator` as users start it, kopf included."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from operator_cluster import eventually, install_crd, running_api, scoring_model
from operator_role import granted
from proof_gate import Gate

from local_cluster.apiserver import ApiServer
from scoring_operator.__main__ import main
from scoring_operator.api import Kinds
from scoring_operator.cluster import Client, connect


@pytest.fixture
async def api(tmp_path):
    async with running_api(tmp_path) as api:
        yield api


@asynccontextmanager
async def process(kubeconfig, *arguments, **environment):
    """The operator, kopf included; all its calls are such as its Role allows."""
    gate = Gate(kubeconfig)
    with tempfile.TemporaryDirectory() as folder:
        async with gate.open(Path(folder)) as through:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "scoring_operator", "--kubeconfig", str(through)),
                *("--metrics-port", "0", "--listen", "127.0.0.1", *arguments),
                env={**os.environ, "BASE_DOMAIN": "models.localhost", **environment},
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                yield child
            finally:
                if child.returncode is None:
                    child.kill()
                await child.wait()
    used = {permission for call, status in gate.calls for permission in call.permissions(status)}
    assert used
    assert used - granted() == set(), "calls that the operator's Role does not allow"


async def log_lines(child, until):
    lines = []
    async with asyncio.timeout(30):
        while line := await child.stderr.readline():
            lines.append(json.loads(line))
            if lines[-1]["message"] == until:
                return lines
    raise AssertionError(lines)


async def test_the_process_reconciles_and_stops_cleanly(api):
    async with process(api.kubeconfig) as child:
        lines = await log_lines(child, "started")
        port = next(entry["port"] for entry in lines if "port" in entry)
        await api.create(scoring_model())
        await eventually(lambda: api.get(Kinds.INGRESS, "faq"))

        async def told():
            return await api.ready_condition("faq")

        await eventually(told)
        async with aiohttp.ClientSession() as session:
            for path in ("healthz", "readyz"):
                async with session.get(f"http://127.0.0.1:{port}/{path}") as answer:
                    assert answer.status == 200

            async def metrics():
                async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                    text = await answer.text()
                changed = r'scoring_operator_reconciles_total\{result="changed"\} [1-9]'
                return re.search(changed, text) and text

            text = await eventually(metrics)
        assert 'scoring_operator_models{reason="Progressing"} 1.0' in text
        model = await api.must_get(Kinds.SCORING_MODEL, "faq")
        assert set(model["metadata"]) & {"finalizers", "annotations"} == set()
        managers = {entry["manager"] for entry in model["metadata"]["managedFields"]}
        assert not any("kopf" in manager for manager in managers)
        child.send_signal(signal.SIGTERM)
        rest = await log_lines(child, "stopped")
        assert await asyncio.wait_for(child.wait(), 15) == 0
        assert all(entry["level"] == "info" for entry in [*lines, *rest])


async def test_of_two_processes_one_works_and_the_other_takes_over(api):
    arguments = ("--leader-elect", "--lease-namespace", "default")
    async with process(api.kubeconfig, *arguments) as first:
        await log_lines(first, "started")
        async with process(api.kubeconfig, *arguments) as second:
            lines = await log_lines(second, "waiting for the lease")
            port = next(entry["port"] for entry in lines if "port" in entry)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/readyz") as answer,
            ):
                assert answer.status == 200, "a rollout must not wait for who waits for the lease"
            first.send_signal(signal.SIGTERM)
            await log_lines(second, "started")
            assert await asyncio.wait_for(first.wait(), 15) == 0
            await api.create(scoring_model())
            await eventually(lambda: api.get(Kinds.INGRESS, "faq"))


async def test_a_missing_crd_is_told_and_waited_for(tmp_path):
    async with ApiServer(tmp_path) as server, process(server.kubeconfig) as child:
        async with asyncio.timeout(30):
            while line := await child.stderr.readline():
                if "kubectl apply -k crds" in json.loads(line)["message"]:
                    break
        client = Client(await connect(server.kubeconfig))
        await install_crd(client)
        await client.close()
        await log_lines(child, "started")


def test_wrong_settings_are_told_together(monkeypatch, capsys):
    monkeypatch.setenv("URL_PORT", "many")
    monkeypatch.setenv("BASE_DOMAIN", "Not A Domain")
    assert main([]) == 2
    told = capsys.readouterr().err
    assert "URL_PORT" in told
    assert "BASE_DOMAIN" in told


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    source = (Path(__file__).parents[2] / "operator/scoring_operator/settings.py").read_text()
    for name in set(re.findall(r'reader\.get\(\s*"([A-Z_]+)"', source)):
        assert name in text, name


def test_a_missing_kubeconfig_is_told(tmp_path, capsys):
    assert main(["--kubeconfig", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
