"""The whole local cluster as a user starts it: real processes, real kubectl."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from local_cluster.up import KubectlError, LocalCluster, UpError, read_cluster

# One cluster for all tests here: with xdist they run in the same worker.

ECHO = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "echo"},
    "spec": {
        "terminationGracePeriodSeconds": 2,
        "containers": [
            {
                "name": "echo",
                "image": "local/echo:1",
                "env": [{"name": "ECHO_MESSAGE", "value": "hello"}],
                "readinessProbe": {
                    "httpGet": {"path": "/healthz", "port": 8080},
                    "periodSeconds": 1,
                },
            }
        ],
    },
}


def eventually(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("up")) as running:
        yield running


def local_cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "local_cluster", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_node_is_ready_and_kubectl_works(cluster):
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    conditions = {c["type"]: c["status"] for c in nodes[0]["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    with pytest.raises(KubectlError, match="NotFound"):
        cluster.kubectl("get", "pod", "nobody")
    assert "NotFound" in cluster.kubectl("get", "pod", "nobody", check=False)


def test_pod_runs_logs_and_goes(cluster):
    cluster.kubectl("apply", "-f", "-", input=json.dumps(ECHO))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/echo", "--timeout=30s")
    assert "listening on 127." in cluster.kubectl("logs", "echo")
    run = next((cluster.state_dir / "node" / "pods").glob("*_echo_*/echo/0.run.json"))
    process = psutil.Process(json.loads(run.read_text())["pid"])
    cluster.kubectl("delete", "pod", "echo", "--timeout=30s")
    assert not process.is_running()
    eventually(lambda: not run.exists())


def test_dead_part_is_started_again(cluster):
    before = cluster.info.pids["controllers"]
    os.kill(before, signal.SIGKILL)

    def restarted() -> bool:
        info = read_cluster(cluster.state_dir)
        return bool(info and info.pids.get("controllers", before) != before)

    eventually(restarted)


def test_second_cluster_in_the_same_folder_is_refused(cluster):
    result = local_cluster("up", "--state", str(cluster.state_dir))
    assert result.returncode == 1
    assert "a cluster already runs in" in result.stderr
    with pytest.raises(UpError, match="a cluster already runs in"):
        LocalCluster(cluster.state_dir).start()


def test_status_names_ports_and_parts(cluster):
    result = local_cluster("status", "--state", str(cluster.state_dir))
    assert result.returncode == 0
    assert f"https://127.0.0.1:{cluster.https_port}" in result.stdout
    assert "apiserver: process" in result.stdout
    shown = local_cluster("status", "--json", "--state", str(cluster.state_dir)).stdout
    assert json.loads(shown)["kubeconfig"] == str(cluster.kubeconfig)


def processes_of(state: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(state) in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found


def test_detached_cluster_keeps_its_objects_and_leaves_no_process(tmp_path):
    state = str(tmp_path / "state")
    ports = ["--api-port", "0", "--http-port", "0", "--https-port", "0"]
    result = local_cluster("up", "--detach", "--state", state, *ports)
    try:
        assert result.returncode == 0, result.stderr
        assert f"export KUBECONFIG={state}/kubeconfig" in result.stdout
    finally:
        stopped = local_cluster("down", "--state", state)
    assert "is stopped" in stopped.stdout
    assert processes_of(tmp_path) == []
    assert local_cluster("status", "--state", state).returncode == 3
    assert "no cluster runs" in local_cluster("down", "--state", state).stdout


def test_objects_and_pods_survive_a_restart_of_everything(tmp_path):
    with LocalCluster(tmp_path) as first:
        first.kubectl("apply", "-f", "-", input=json.dumps(ECHO))
        first.kubectl("wait", "--for=condition=Ready", "pod/echo", "--timeout=30s")
    assert processes_of(tmp_path) == []
    with LocalCluster(tmp_path) as second:
        path = "jsonpath={.status.containerStatuses[0].restartCount}"
        eventually(lambda: second.kubectl("get", "pod", "echo", "-o", path) == "1")
        second.kubectl("wait", "--for=condition=Ready", "pod/echo", "--timeout=30s")


def test_killed_supervisor_takes_all_processes_along(tmp_path):
    cluster = LocalCluster(tmp_path)
    cluster.start()
    try:
        cluster.kubectl("apply", "-f", "-", input=json.dumps(ECHO))
        cluster.kubectl("wait", "--for=condition=Ready", "pod/echo", "--timeout=30s")
        os.kill(cluster.info.pid, signal.SIGKILL)
    finally:
        cluster.stop()
    eventually(lambda: not processes_of(tmp_path))


def test_part_that_cannot_start_is_reported_with_its_log(tmp_path):
    (tmp_path / "state.sqlite").write_text("this is no database, and long enough to be read as one")
    (tmp_path / "state.sqlite").chmod(0o600)
    with pytest.raises(UpError, match="the API server does not answer"):
        LocalCluster(tmp_path).start()
    assert processes_of(tmp_path) == []


def test_taken_port_is_refused_by_name(cluster, tmp_path):
    port = str(cluster.https_port)
    result = local_cluster("up", "--state", str(tmp_path), "--https-port", port)
    assert result.returncode == 1
    assert f"port {port} is taken" in result.stderr


@pytest.mark.parametrize("command", [[], ["up"], ["down"], ["status"]])
def test_help_explains_every_command(command):
    result = local_cluster(*command, "--help")
    assert result.returncode == 0
    assert "usage:" in result.stdout
