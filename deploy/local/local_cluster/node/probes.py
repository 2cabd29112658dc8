"""Probes: one look at a container, and the thresholds that turn looks into a verdict."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from local_cluster.client import Manifest
from local_cluster.node.runtime import run_command

_MAX_BODY_BYTES = 10 * 1024
USER_AGENT = "kube-probe/1.36"


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """Where a container can be probed.

    Args:
        address: the pod's address.
        ports: the container's ports by name.
        env: the container's environment, for exec.
        cwd: the container's working folder, for exec.
    """

    address: str
    ports: Mapping[str, int]
    env: Mapping[str, str]
    cwd: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one look: success or not, and what was seen."""

    ok: bool
    output: str = ""


def resolve_port(port: int | str, ports: Mapping[str, int]) -> int:
    """A port number, or the number of a named container port.

    Raises:
        ValueError: there is no port of that name.
    """
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    if port not in ports:
        raise ValueError(f"couldn't find port: {port}")
    return ports[port]


async def run_http_get(action: Manifest, target: ProbeTarget, timeout_seconds: float) -> Outcome:
    """GET with the kubelet's rules: 200 to 399 is success, certificates are not checked."""
    try:
        port = resolve_port(action["port"], target.ports)
    except ValueError as err:
        return Outcome(False, str(err))
    scheme = action.get("scheme", "HTTP").lower()
    path = action.get("path") or "/"
    host = action.get("host") or target.address
    url = f"{scheme}://{host}:{port}{path if path.startswith('/') else '/' + path}"
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Connection": "close"}
    headers |= {item["name"]: item["value"] for item in action.get("httpHeaders") or []}
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=tls if scheme == "https" else True, force_close=True
                ),
                timeout=aiohttp.ClientTimeout(total=timeout_seconds),
                auto_decompress=False,
            ) as session,
            session.get(url, headers=headers, max_redirects=10) as response,
        ):
            await response.content.read(_MAX_BODY_BYTES)
            if 200 <= response.status < 400:
                return Outcome(True)
            return Outcome(False, f"HTTP probe failed with statuscode: {response.status}")
    except TimeoutError:
        return Outcome(
            False,
            f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)',
        )
    except aiohttp.ClientConnectorError as err:
        why = (
            "connection refused"
            if isinstance(err.os_error, ConnectionRefusedError)
            else err.strerror
        )
        return Outcome(False, f'Get "{url}": dial tcp {host}:{port}: connect: {why}')
    except (aiohttp.ClientError, OSError, ValueError) as err:
        return Outcome(False, f'Get "{url}": {err or "EOF"}')


async def run_tcp_socket(action: Manifest, target: ProbeTarget, timeout_seconds: float) -> Outcome:
    """Open a connection."""
    host = action.get("host") or target.address
    try:
        port = resolve_port(action["port"], target.ports)
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout_seconds)
    except TimeoutError:
        return Outcome(False, f"dial tcp {host}:{action['port']}: i/o timeout")
    except ConnectionRefusedError:
        return Outcome(False, f"dial tcp {host}:{port}: connect: connection refused")
    except (OSError, ValueError) as err:
        return Outcome(False, str(err))
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Outcome(True)


async def run_exec(command: Sequence[str], target: ProbeTarget, timeout_seconds: float) -> Outcome:
    """Run a command with the container's environment; exit code 0 is success."""
    try:
        code, output = await run_command(
            command, env=target.env, cwd=target.cwd, timeout_seconds=timeout_seconds
        )
    except OSError as err:
        return Outcome(False, f'exec: "{command[0]}": {err.strerror}')
    return Outcome(code == 0, output)


async def run_probe(
    probe: Manifest, command: Sequence[str], target: ProbeTarget, timeout_seconds: float
) -> Outcome:
    """Look once, in the way the probe names.

    Args:
        probe: the probe or lifecycle handler of the spec.
        command: the exec command with local paths.
        target: the container.
        timeout_seconds: after which the look failed.
    """
    if "httpGet" in probe:
        return await run_http_get(probe["httpGet"], target, timeout_seconds)
    if "tcpSocket" in probe:
        return await run_tcp_socket(probe["tcpSocket"], target, timeout_seconds)
    if "exec" in probe:
        return await run_exec(command, target, timeout_seconds)
    return Outcome(False, f"this node agent knows no probe of kind {', '.join(probe)}")


@dataclass(slots=True)
class Threshold:
    """Counts looks of the same kind in a row.

    Args:
        successes: how many successes in a row mean success.
        failures: how many failures in a row mean failure.
        verdict: what holds until then.
    """

    successes: int
    failures: int
    verdict: bool
    _streak: int = 0
    _last: bool | None = None

    def add(self, ok: bool) -> bool:
        """Count one look and return the verdict."""
        self._streak = self._streak + 1 if ok == self._last else 1
        self._last = ok
        if self._streak >= (self.successes if ok else self.failures):
            self.verdict = ok
        return self.verdict

    @property
    def failed(self) -> bool:
        """Whether the last looks are failures enough."""
        return self._last is False and self._streak >= self.failures
