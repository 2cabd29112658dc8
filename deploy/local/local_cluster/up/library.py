"""A cluster for a test: started on entry, gone on exit."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from local_cluster.up.kubectl import find_kubectl, run_kubectl
from local_cluster.up.state import ClusterInfo, UpError, read_cluster
from local_cluster.up.supervisor import spawn_cluster

_READY_SECONDS = 60.0
_STOP_SECONDS = 40.0


class LocalCluster:
    """A running cluster on free ports; a context manager.

        with LocalCluster(tmp_path) as cluster:
            cluster.kubectl("apply", "-f", "model.yaml")

    The cluster is a process of its own that ends when this one does, however that ends.

    Args:
        state_dir: its state folder; starting again in the same one goes on with what was there.
        images: a file that adds to the built-in image map.
        gpus: how many GPUs the node claims to have.
        restart_backoff_seconds: the first wait of CrashLoopBackOff.
        api_port: port of the API server, 0 for any free one, None for the default (or the next
            free one).
        http_port: port of the ingress for HTTP, likewise.
        https_port: port of the ingress for HTTPS, likewise.
    """

    def __init__(
        self,
        state_dir: str | Path,
        *,
        images: str | Path | None = None,
        gpus: int = 0,
        restart_backoff_seconds: float = 10.0,
        api_port: int | None = 0,
        http_port: int | None = 0,
        https_port: int | None = 0,
    ) -> None:
        self.state_dir = Path(state_dir)
        self._arguments = [
            *("--state", str(self.state_dir)),
            *("--gpus", str(gpus)),
            *("--restart-backoff-seconds", str(restart_backoff_seconds)),
        ]
        ports = {"--api-port": api_port, "--http-port": http_port, "--https-port": https_port}
        for option, port in ports.items():
            if port is not None:
                self._arguments += [option, str(port)]
        if images is not None:
            self._arguments += ["--images", str(images)]
        self._process: subprocess.Popen[bytes] | None = None
        self._info: ClusterInfo | None = None

    @property
    def info(self) -> ClusterInfo:
        """Ports, kubeconfig and process ids.

        Raises:
            UpError: the cluster does not run.
        """
        if self._info is None:
            raise UpError("the cluster does not run: use it in 'with LocalCluster(…)'")
        return self._info

    @property
    def kubeconfig(self) -> Path:
        """The way to the API server."""
        return Path(self.info.kubeconfig)

    @property
    def api_port(self) -> int:
        """Port of the API server."""
        return self.info.api_port

    @property
    def http_port(self) -> int:
        """Port of the ingress for HTTP."""
        return self.info.http_port

    @property
    def https_port(self) -> int:
        """Port of the ingress for HTTPS."""
        return self.info.https_port

    @property
    def kubectl_command(self) -> list[str]:
        """The words that begin every kubectl command for this cluster."""
        return [find_kubectl(), "--kubeconfig", str(self.kubeconfig)]

    @property
    def logs(self) -> Path:
        """Where the parts of the cluster write."""
        return self.state_dir / "logs"

    def start(self) -> None:
        """Start the cluster and wait until it is ready.

        Raises:
            UpError: it does not come up; the message holds what it printed.
        """
        log = self.logs / "up.log"
        self._process = spawn_cluster(self._arguments, log=log, until_eof=True)
        try:
            self._info = wait_ready(self.state_dir, self._process, log)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the cluster; all its processes are gone when this returns."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._info = None

    def kubectl(
        self, *arguments: str, input: str | None = None, check: bool = True, timeout: float = 120.0
    ) -> str:
        """Run kubectl against the cluster and return what it printed.

        Args:
            arguments: kubectl's arguments.
            input: what it reads from standard input, for ``-f -``.
            check: raise when it fails; otherwise its error text is returned with its output.
            timeout: seconds after which it is killed.

        Raises:
            KubectlError: it failed.
        """
        result = run_kubectl(self.kubeconfig, *arguments, input=input, check=check, timeout=timeout)
        return result.stdout if result.returncode == 0 else result.stdout + result.stderr

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def wait_ready(state: Path, process: subprocess.Popen[bytes], log: Path) -> ClusterInfo:
    """Wait until a cluster that was just spawned is ready.

    Raises:
        UpError: it ended, or needs too long.
    """
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        info = read_cluster(state)
        if info is not None and info.pid == process.pid and info.ready:
            return info
        if process.poll() is not None:
            break
        time.sleep(0.02)  # the file is all that tells; the process is not ours to hear from
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    tail = "\n".join(text.splitlines()[-30:])
    raise UpError(f"the cluster did not become ready (see {log}):\n{tail}")
