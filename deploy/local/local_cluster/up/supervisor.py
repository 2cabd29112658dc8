"""The supervisor: starts the parts of the cluster, restarts what dies, stops everything."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_cluster.client import NODES, SERVICEACCOUNTS, ApiError, Client, KubeconfigError
from local_cluster.node.leftovers import end_leftovers
from local_cluster.up.state import (
    ClusterInfo,
    UpError,
    choose_port,
    cluster_file,
    lock_state,
    own_start_time,
    write_cluster,
)

_PR_SET_PDEATHSIG = 1
_MAX_RESTART_DELAY_SECONDS = 10.0
_STABLE_SECONDS = 30.0
_READY_SECONDS = 60.0
# Longer than the node agent gives its pods.
_STOP_SECONDS = 15.0
_LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class UpSettings:
    """How the cluster was started; a port of None means the default or the next free one.

    Args:
        state: the state folder.
        api_port: port of the API server, 0 for any free one.
        http_port: port of the ingress for HTTP.
        https_port: port of the ingress for HTTPS.
        images: a file that adds to the built-in image map.
        gpus: how many GPUs the node claims to have.
        restart_backoff_seconds: the first wait of CrashLoopBackOff.
        until_eof: stop when standard input ends, for a parent that may be killed.
        quiet: print nothing but failures.
    """

    state: Path
    api_port: int | None = None
    http_port: int | None = None
    https_port: int | None = None
    images: Path | None = None
    gpus: int = 0
    restart_backoff_seconds: float = 10.0
    until_eof: bool = False
    quiet: bool = False


class Part:
    """One program of the cluster, run as a child process.

    Args:
        name: its name, and that of its log file.
        arguments: the module and its options, for ``python -m``.
        log: where it writes.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._arguments = list(arguments)
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """Its process id, 0 while it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self, changed: Callable[[], None]) -> None:
        """Start it, and again whenever it dies.

        Args:
            changed: called after each (re)start.
        """
        await self._spawn()
        self._task = asyncio.create_task(self._keep_running(changed), name=self.name)

    async def _spawn(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        parent = os.getpid()

        def die_with_parent() -> None:
            # When the supervisor is killed, its parts get SIGTERM and end in good order.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the supervisor alone, which stops its parts in order.
                start_new_session=True,
                preexec_fn=die_with_parent,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    async def _keep_running(self, changed: Callable[[], None]) -> None:
        delay = 0.5
        while True:
            assert self._process is not None
            began = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            if time.monotonic() - began > _STABLE_SECONDS:
                delay = 0.5
            print(
                f"{self.name} ended with {code}, starting it again (see {self.log})",
                file=sys.stderr,
                flush=True,
            )
            await asyncio.sleep(delay)
            delay = min(_MAX_RESTART_DELAY_SECONDS, delay * 2)
            await self._spawn()
            changed()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL when it does not end in time."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def has_failed(self) -> bool:
        """Whether it ended by itself."""
        return self._process is not None and self._process.returncode is not None

    def log_tail(self) -> str:
        """The last lines it wrote."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:])


class Cluster:
    """All parts of one cluster.

    Args:
        settings: how it was started.
    """

    def __init__(self, settings: UpSettings) -> None:
        self._settings = settings
        self._state = settings.state.resolve()
        self._parts: dict[str, Part] = {}
        self.info: ClusterInfo | None = None

    def _say(self, text: str) -> None:
        if not self._settings.quiet:
            print(text, flush=True)

    def _choose_ports(self) -> ClusterInfo:
        settings, taken = self._settings, set[int]()
        api = choose_port(settings.api_port, 6443, "--api-port", taken)
        http = choose_port(settings.http_port, 8080, "--http-port", taken)
        https = choose_port(settings.https_port, 8443, "--https-port", taken)
        for wanted, default, port, name in (
            (settings.api_port, 6443, api, "API server"),
            (settings.http_port, 8080, http, "HTTP"),
            (settings.https_port, 8443, https, "HTTPS"),
        ):
            if wanted is None and port != default:
                self._say(f"port {default} is taken: {name} on {port}")
        return ClusterInfo(
            kubeconfig=str(self._state / "kubeconfig"),
            api_port=api,
            http_port=http,
            https_port=https,
            pid=os.getpid(),
            started=own_start_time(),
        )

    def _build_parts(self, info: ClusterInfo) -> None:
        settings, state = self._settings, self._state
        logs = state / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        access = ["--kubeconfig", info.kubeconfig]
        node = ["local_cluster.node", *access, "--state", str(state / "node")]
        node += ["--restart-backoff-seconds", str(settings.restart_backoff_seconds)]
        if settings.images:
            node += ["--images", str(settings.images.resolve())]
        if settings.gpus:
            node += ["--capacity", f"nvidia.com/gpu={settings.gpus}"]
        ingress = ["local_cluster.ingress", *access, "--address", "127.0.0.1"]
        ingress += ["--http-port", str(info.http_port), "--https-port", str(info.https_port)]
        api = ["local_cluster.apiserver", "--state", str(state), "--port", str(info.api_port)]
        commands = {
            "apiserver": api,
            "controllers": ["local_cluster.controllers", *access],
            "node": node,
            "ingress": ingress,
        }
        for name, arguments in commands.items():
            self._parts[name] = Part(name, arguments, logs / f"{name}.log")

    def _write(self) -> None:
        assert self.info is not None
        self.info.pids = {name: part.pid for name, part in self._parts.items() if part.pid}
        write_cluster(self._state, self.info)

    async def start(self) -> None:
        """Start all parts and wait until the node is ready.

        Raises:
            UpError: a part does not come up; the message holds the end of its log.
        """
        self.info = self._choose_ports()
        self._build_parts(self.info)
        kubeconfig = Path(self.info.kubeconfig)
        # The API server writes it when it listens: an old one would tell too early.
        _forget(kubeconfig)
        began = time.monotonic()
        self._say("starting the API server …")
        api = self._parts["apiserver"]
        await api.start(self._write)
        self._write()
        await self._until(lambda: _exists(kubeconfig), "the API server does not answer", [api])
        self._say(f"starting controllers, node agent and ingress … ({_since(began)})")
        others = [part for name, part in self._parts.items() if name != "apiserver"]
        for part in others:
            await part.start(self._write)
        self._write()
        async with Client.from_kubeconfig(kubeconfig, patience_seconds=1.0) as client:
            await self._until(
                lambda: _is_node_ready(client),
                "the node does not become ready",
                [self._parts["node"], self._parts["controllers"]],
            )
        await self._until(
            lambda: _accepts(self.info.https_port if self.info else 0),
            "the ingress does not listen",
            [self._parts["ingress"]],
        )
        self.info.ready = True
        self._write()
        self._say(f"the cluster is ready ({_since(began)})")

    async def _until(
        self, condition: Callable[[], object], problem: str, parts: Sequence[Part]
    ) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            failed = [part for part in parts if part.has_failed()]
            if failed or time.monotonic() > deadline:
                tails = "\n".join(f"{p.log}:\n{p.log_tail()}" for p in failed or parts)
                raise UpError(f"{problem}; the end of the log:\n{tails}")
            # Other programs' readiness has no event to wait for.
            await asyncio.sleep(0.03)

    async def stop(self) -> None:
        """Stop all parts, pods first and the API server last."""
        if not self._parts:
            return
        self._say("stopping …")
        first = [part for name, part in self._parts.items() if name in ("node", "ingress")]
        await asyncio.gather(*(part.stop() for part in first))
        await self._parts["controllers"].stop()
        await self._parts["apiserver"].stop()
        end_leftovers(self._state / "node" / "pods")
        cluster_file(self._state).unlink(missing_ok=True)
        self._say("stopped")


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _exists(path: Path) -> bool:
    return path.exists()


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _is_node_ready(client: Client) -> bool:
    try:
        nodes = await client.list(NODES)
        # Pods need it, and it shows that the controllers are at work.
        await client.get(SERVICEACCOUNTS, "default", "default")
    except ApiError:
        return False
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for node in nodes["items"]
        for condition in (node.get("status") or {}).get("conditions") or []
    )


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def describe(info: ClusterInfo) -> str:
    """What a user needs to use the cluster."""
    return (
        f"  export KUBECONFIG={shlex.quote(info.kubeconfig)}\n"
        f"  ingress: http://127.0.0.1:{info.http_port} and https://127.0.0.1:{info.https_port}\n"
        f"  API server: https://127.0.0.1:{info.api_port}"
    )


async def _run(settings: UpSettings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if settings.until_eof:
        os.set_blocking(0, False)
        loop.add_reader(0, lambda: stop.set() if not _read_some() else None)
    cluster = Cluster(settings)
    starting = asyncio.create_task(cluster.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            if cluster.info is not None and not settings.quiet:
                print(describe(cluster.info), flush=True)
                print("Ctrl-C stops it", flush=True)
            await stopping
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        if settings.until_eof:
            loop.remove_reader(0)
        await cluster.stop()


def _read_some() -> bytes:
    try:
        return os.read(0, 4096)
    except BlockingIOError:
        return b"again"


def run_cluster(settings: UpSettings) -> None:
    """Run a cluster until SIGTERM, SIGINT or SIGHUP.

    Raises:
        UpError: it cannot be started.
    """
    with lock_state(settings.state):
        try:
            asyncio.run(_run(settings))
        except KubeconfigError as err:
            raise UpError(str(err)) from err


def spawn_cluster(
    arguments: Sequence[str], *, log: Path, until_eof: bool = False
) -> subprocess.Popen[bytes]:
    """Start ``python -m local_cluster up`` in the background, in a session of its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    extra = ["--until-eof"] if until_eof else []
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "local_cluster", "up", *extra, *arguments],
            stdin=subprocess.PIPE if until_eof else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
