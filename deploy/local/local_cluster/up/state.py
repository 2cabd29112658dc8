"""The state folder of a cluster: ``cluster.json``, the lock, ports."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import psutil

DEFAULT_STATE = Path(".local-cluster")
_PORTS_TO_TRY = 100


class UpError(Exception):
    """The cluster cannot be started or stopped; the message says why and what to do."""


@dataclass(slots=True)
class ClusterInfo:
    """What ``cluster.json`` says of a running cluster.

    Args:
        kubeconfig: path of the kubeconfig.
        api_port: port of the API server.
        http_port: port of the ingress for plain HTTP.
        https_port: port of the ingress for HTTPS.
        pid: process id of the supervisor.
        started: when that process began, to tell a reused process id.
        pids: process ids of the parts by name.
        ready: whether the node is ready for pods.
    """

    kubeconfig: str
    api_port: int
    http_port: int
    https_port: int
    pid: int
    started: float
    pids: dict[str, int] = field(default_factory=dict)
    ready: bool = False

    def is_running(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        try:
            process = psutil.Process(self.pid)
            return bool(
                abs(process.create_time() - self.started) < 1
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False


def cluster_file(state: Path) -> Path:
    """Where a running cluster is described."""
    return state / "cluster.json"


def write_cluster(state: Path, info: ClusterInfo) -> None:
    """Write ``cluster.json`` in one step."""
    path = cluster_file(state)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(info), indent=2) + "\n", encoding="utf-8")
    temporary.rename(path)


def read_cluster(state: Path) -> ClusterInfo | None:
    """The cluster that runs in a state folder, None when none does."""
    try:
        info = ClusterInfo(**json.loads(cluster_file(state).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return info if info.is_running() else None


def lock_state(state: Path) -> IO[str]:
    """Take a state folder for this process; closing the result gives it back.

    Raises:
        UpError: a cluster runs in it already, or it cannot be written.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("a", encoding="ascii")
    except OSError as err:
        raise UpError(
            f"cannot write to the state folder {state}: {err.strerror}; choose one with --state"
        ) from err
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        lock.close()
        info = read_cluster(state)
        who = f" (process {info.pid})" if info else ""
        raise UpError(
            f"a cluster already runs in {state}{who}: use it with "
            f"export KUBECONFIG={state.resolve() / 'kubeconfig'}, stop it with "
            f"python -m local_cluster down --state {state}, or choose another folder with --state"
        ) from err
    return lock


def is_free(port: int) -> bool:
    """Whether a TCP port on 127.0.0.1 can be listened on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_port(wanted: int | None, default: int, name: str, taken: set[int]) -> int:
    """Pick a port: the one asked for, any free one for 0, or the first free one from a default.

    Args:
        wanted: what the user asked for, None for the default.
        default: where to begin to look.
        name: the option's name, for the message.
        taken: ports chosen for something else already; the choice is added.

    Raises:
        UpError: the port asked for is taken.
    """
    if wanted == 0:
        port = _any_free_port(taken)
    elif wanted is not None:
        if wanted in taken or not is_free(wanted):
            raise UpError(
                f"port {wanted} is taken; choose another one with {name}, or leave it out"
            )
        port = wanted
    else:
        candidates = range(default, default + _PORTS_TO_TRY)
        found = next((p for p in candidates if p not in taken and is_free(p)), None)
        port = found if found is not None else _any_free_port(taken)
    taken.add(port)
    return port


def _any_free_port(taken: set[int]) -> int:
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def own_start_time() -> float:
    """When this process began."""
    return float(psutil.Process(os.getpid()).create_time())
