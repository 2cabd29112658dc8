"""Probes, hooks, metrics, logs and restarts of the agent itself, over a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import aiohttp
import psutil
import pytest

from local_cluster.node.agent import AgentError

Manifest = dict[str, Any]


def status_of(api: Any, name: str) -> Manifest:
    return (api.get("pods", name) or {}).get("status", {})


def container_of(api: Any, name: str) -> Manifest:
    return (status_of(api, name).get("containerStatuses") or [{}])[0]


def is_ready(api: Any, name: str) -> bool:
    return container_of(api, name).get("ready") is True


SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = os.path.exists(sys.argv[1]) and self.headers["X-Probe"] == "yes"
        self.send_response(200 if ok else 503); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer((os.environ["FROM_IMAGE"].split("@")[1], 8080), Handler).serve_forever()
"""


async def test_readiness_follows_an_http_probe_on_a_named_port(api, start_agent, pod, tmp_path):
    await start_agent()
    flag = tmp_path / "flag"
    header = [{"name": "X-Probe", "value": "yes"}]
    container = {
        "command": ["python", "-I", "-S", "-c", SERVER, str(flag)],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {
            "httpGet": {"path": "/x", "port": "http", "httpHeaders": header},
            "periodSeconds": 0.1,
            "failureThreshold": 1,
        },
    }
    await api.add("pods", pod("a", container=container))
    text = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    await api.until(lambda: ("Unhealthy", text) in api.events("a"))
    assert not is_ready(api, "a")
    flag.touch()
    await api.until(lambda: is_ready(api, "a"))
    flag.unlink()
    await api.until(lambda: not is_ready(api, "a"))
    conditions = {c["type"]: c for c in status_of(api, "a")["conditions"]}
    assert conditions["Ready"]["status"] == "False"
    assert conditions["Ready"]["message"] == "containers with unready status: [main]"


async def test_failing_liveness_probe_restarts_the_container(api, start_agent, pod):
    await start_agent()
    container = {
        "livenessProbe": {
            "exec": {"command": ["sh", "-c", "echo sick; exit 1"]},
            "periodSeconds": 0.1,
            "failureThreshold": 2,
        }
    }
    await api.add("pods", pod("a", "exec sleep 60", container=container))
    await api.until(lambda: container_of(api, "a").get("restartCount", 0) >= 1)
    events = api.events("a")
    assert ("Killing", "Container main failed liveness probe, will be restarted") in events
    assert ("Unhealthy", "Liveness probe failed: sick\n") in events
    last = container_of(api, "a")["lastState"]["terminated"]
    assert last["exitCode"] == 143


async def test_other_probes_wait_for_the_startup_probe(api, start_agent, pod, tmp_path):
    await start_agent()
    flag = tmp_path / "started"
    container = {
        "startupProbe": {
            "exec": {"command": ["test", "-e", str(flag)]},
            "periodSeconds": 0.1,
            "failureThreshold": 1000,
        },
        "livenessProbe": {
            "exec": {"command": ["test", "-e", str(flag)]},
            "periodSeconds": 0.1,
            "failureThreshold": 1,
        },
    }
    await api.add("pods", pod("a", "exec sleep 60", container=container))
    await api.until(lambda: sum("Startup probe failed" in text for _, text in api.events("a")) >= 1)
    assert container_of(api, "a")["started"] is False
    assert not is_ready(api, "a")
    flag.touch()
    await api.until(lambda: is_ready(api, "a"))
    assert container_of(api, "a")["restartCount"] == 0


async def test_tcp_probe_of_a_closed_port_reports_connection_refused(api, start_agent, pod):
    await start_agent()
    container = {"readinessProbe": {"tcpSocket": {"port": 9}, "periodSeconds": 0.1}}
    await api.add("pods", pod("a", "exec sleep 60", container=container))
    await api.until(lambda: any(reason == "Unhealthy" for reason, _ in api.events("a")))
    ip = status_of(api, "a")["podIP"]
    message = f"Readiness probe failed: dial tcp {ip}:9: connect: connection refused"
    assert ("Unhealthy", message) in api.events("a")


async def test_pre_stop_hook_runs_before_sigterm(api, start_agent, pod, tmp_path):
    await start_agent()
    out = tmp_path / "out"
    script = f"trap 'echo term >> {out}; exit 0' TERM; while :; do sleep 0.05; done"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", f"echo hook >> {out}"]}}}
    await api.add("pods", pod("a", script, container={"lifecycle": hook}))
    await api.until(lambda: is_ready(api, "a"))
    await api.delete_pod("a")
    await api.until(lambda: api.get("pods", "a") is None)
    assert out.read_text() == "hook\nterm\n"


async def test_force_deleted_pod_is_ended_too(api, start_agent, pod, tmp_path):
    await start_agent()
    pid_file = tmp_path / "pid"
    await api.add("pods", pod("a", f"echo $$$$ > {pid_file}; exec sleep 60"))
    await api.until(lambda: is_ready(api, "a") and pid_file.exists() and pid_file.read_text())
    process = psutil.Process(int(pid_file.read_text()))
    await api.remove("pods", "a")
    await asyncio.to_thread(psutil.wait_procs, [process], 5)
    assert not process.is_running()


async def fetch_log(api: Any, pod: str, **query: str) -> tuple[int, str]:
    port = api.get("nodes", "n1", "")["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    url = f"https://127.0.0.1:{port}/containerLogs/default/{pod}/main"
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
        session.get(url, params=query) as response,
    ):
        return response.status, await response.text()


async def test_logs_are_served_with_the_options_of_kubectl(api, start_agent, pod):
    await start_agent()
    script = "for i in 1 2 3 4; do echo line $i; done; printf unfinished"
    await api.add("pods", pod("a", script, restartPolicy="Never"))
    await api.until(lambda: status_of(api, "a").get("phase") == "Succeeded")
    whole = "line 1\nline 2\nline 3\nline 4\nunfinished\n"
    assert await fetch_log(api, "a") == (200, whole)
    assert await fetch_log(api, "a", tailLines="2") == (200, "line 4\nunfinished\n")
    assert await fetch_log(api, "a", tailLines="0") == (200, "")
    assert await fetch_log(api, "a", limitBytes="6") == (200, "line 1")
    _, stamped = await fetch_log(api, "a", timestamps="true", tailLines="1")
    assert stamped.endswith("Z unfinished\n")
    assert (await fetch_log(api, "a", previous="true"))[0] == 400
    assert (await fetch_log(api, "b"))[0] == 404


async def test_followed_log_ends_with_the_container(api, start_agent, pod, tmp_path):
    await start_agent()
    flag = tmp_path / "flag"
    script = f"echo one; while [ ! -e {flag} ]; do sleep 0.05; done; echo two"
    await api.add("pods", pod("a", script, restartPolicy="Never"))
    await api.until(lambda: is_ready(api, "a"))
    following = asyncio.create_task(fetch_log(api, "a", follow="true"))
    await asyncio.sleep(0)
    flag.touch()
    assert await following == (200, "one\ntwo\n")


async def test_previous_log_is_that_of_the_attempt_before(api, start_agent, pod, tmp_path):
    await start_agent()
    flag = tmp_path / "flag"
    script = (
        f"if [ -e {flag} ]; then echo second; exec sleep 60; fi; touch {flag}; echo first; exit 1"
    )
    await api.add("pods", pod("a", script))
    await api.until(lambda: is_ready(api, "a") and container_of(api, "a")["restartCount"] == 1)
    assert await fetch_log(api, "a", previous="true") == (200, "first\n")


async def test_stopped_agent_stops_its_pods_and_starts_them_again(api, start_agent, pod, tmp_path):
    end = await start_agent()
    pids = tmp_path / "pids"
    await api.add("pods", pod("a", f"echo $$$$ >> {pids}; exec sleep 60"))
    await api.until(lambda: is_ready(api, "a") and pids.exists() and pids.read_text())
    first = int(pids.read_text())
    await end()
    assert not psutil.pid_exists(first)
    await api.remove("leases", "n1", "kube-node-lease")
    await start_agent()
    await api.until(lambda: container_of(api, "a").get("restartCount") == 1 and is_ready(api, "a"))


async def test_kept_pod_is_adopted_with_address_and_process(api, start_agent, pod, tmp_path):
    end = await start_agent(keep_pods=True)
    pids = tmp_path / "pids"
    script = f"echo $$$$ >> {pids}; while :; do sleep 0.05; done"
    await api.add("pods", pod("a", script))
    await api.until(lambda: is_ready(api, "a") and pids.exists() and pids.read_text())
    before = status_of(api, "a")
    await end()
    process = psutil.Process(int(pids.read_text()))
    assert process.is_running()
    await api.remove("leases", "n1", "kube-node-lease")
    await start_agent()
    await api.until(lambda: is_ready(api, "a"))
    after = status_of(api, "a")
    assert after["podIP"] == before["podIP"]
    assert after["containerStatuses"] == before["containerStatuses"]
    process.send_signal(signal.SIGKILL)
    await api.until(lambda: container_of(api, "a").get("restartCount") == 1)
    assert container_of(api, "a")["lastState"]["terminated"]["exitCode"] == 137


async def test_ready_pod_stays_ready_while_the_agent_restarts(api, start_agent, pod, tmp_path):
    end = await start_agent(keep_pods=True)
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 60}
    await api.add("pods", pod("a", "exec sleep 60", container={"readinessProbe": probe}))
    await api.until(lambda: is_ready(api, "a"))
    await end()
    await api.edit("pods", "a", {"metadata": {"annotations": {"seen": "1"}}})
    version = api.get("pods", "a")["metadata"]["resourceVersion"]
    await api.remove("leases", "n1", "kube-node-lease")
    stop = await start_agent(keep_pods=True)
    await api.until(lambda: api.get("leases", "n1", "kube-node-lease"))
    await api.until(lambda: api.get("pods", "a")["metadata"]["resourceVersion"] != version)
    assert is_ready(api, "a")
    await stop()


async def test_pod_deleted_while_no_agent_ran_is_cleaned_up(api, start_agent, pod, tmp_path):
    end = await start_agent(keep_pods=True)
    pids = tmp_path / "pids"
    await api.add("pods", pod("a", f"echo $$$$ >> {pids}; exec sleep 60"))
    await api.until(lambda: is_ready(api, "a") and pids.exists() and pids.read_text())
    process = psutil.Process(int(pids.read_text()))
    await end()
    await api.remove("pods", "a")
    await api.remove("leases", "n1", "kube-node-lease")
    await start_agent()
    await asyncio.to_thread(psutil.wait_procs, [process], 5)
    assert not process.is_running()


async def test_second_agent_on_the_same_folder_is_refused(api, start_agent):
    await start_agent()
    with pytest.raises(AgentError, match="another node agent works in"):
        await start_agent()


async def test_agent_as_a_program_ends_on_sigterm_and_takes_its_pods_along(
    api, pod, kubeconfig, tmp_path
):
    images = tmp_path / "images.yaml"
    images.write_text("images: {shell: {entrypoint: [sh]}}")
    command = [sys.executable, "-m", "local_cluster.node", "--kubeconfig", str(kubeconfig)]
    command += ["--state", str(tmp_path / "n"), "--node-name", "n1", "--images", str(images)]
    pids = tmp_path / "pids"
    await api.add("pods", pod("a", f"echo $$$$ >> {pids}; exec sleep 60"))
    agent = await asyncio.to_thread(subprocess.Popen, command)
    try:
        await api.until(lambda: is_ready(api, "a") and pids.exists() and pids.read_text())
        pid = int(pids.read_text())
        agent.terminate()
        assert await asyncio.to_thread(agent.wait, 10) == 0
        assert not psutil.pid_exists(pid)
    finally:
        agent.kill()
        agent.wait()


async def test_process_starts_within_a_fraction_of_a_second(api, start_agent, pod, tmp_path):
    await start_agent()
    took = []
    for number in range(5):
        stamp = tmp_path / f"stamp{number}"
        began = time.time()
        await api.add("pods", pod(f"p{number}", f"date +%s.%N > {stamp}; exec sleep 60"))
        await api.until(lambda n=number: is_ready(api, f"p{n}"))
        await api.until(lambda s=stamp: s.exists() and s.read_text())
        took.append(float(stamp.read_text()) - began)
    # The best of five: other programs share the machine.
    assert min(took) < 0.4


async def test_metrics_of_busy_pod_are_published(api, start_agent, pod, monkeypatch):
    monkeypatch.setattr("local_cluster.node.usage._METRICS_SECONDS", 0.3)
    await start_agent()
    await api.add("pods", pod("a", "while :; do :; done"))

    def usage() -> Manifest | None:
        for item in api.objects.values():
            if item.get("kind") == "PodMetrics" and item["containers"]:
                return item["containers"][0]["usage"]
        return None

    found = await api.until(usage)
    assert int(found["cpu"].removesuffix("n")) > 50_000_000
    assert int(found["memory"].removesuffix("Ki")) > 100


async def test_pods_of_one_node_serve_the_same_port_on_their_own_addresses(
    api, start_agent, pod, tmp_path
):
    await start_agent()
    container = {
        "image": "local/echo",
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 0.1},
    }
    for name in ("a", "b"):
        await api.add("pods", pod(name, container=container))
    await api.until(lambda: is_ready(api, "a") and is_ready(api, "b"), 20)
    async with aiohttp.ClientSession() as session:
        for name in ("a", "b"):
            ip = status_of(api, name)["podIP"]
            async with session.get(f"http://{ip}:8080/x") as response:
                assert (await response.json())["pod"] == name
    with socket.socket() as probe:
        probe.bind((status_of(api, "a")["podIP"], 0))
    assert os.environ.get("ECHO_POD") is None
