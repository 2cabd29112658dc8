"""The node's HTTPS endpoint: container logs for the API server, and health."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local_cluster.node.context import HOST_IP
from local_cluster.node.log_reader import LogOptions, parse_since, read_log
from local_cluster.node.pod_status import Waiting
from local_cluster.node.pod_worker import PodWorker
from local_cluster.node.runtime import find_attempts

FindPod = Callable[[str, str], PodWorker | None]
_YEAR = timedelta(days=365)


def make_certificate(folder: Path, node_name: str) -> ssl.SSLContext:
    """Make a self-signed serving certificate, as kubelets do, and load it.

    API servers do not check it unless they are told a CA for kubelets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{node_name}-node-agent"[:64])])
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address(HOST_IP)),
    ]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _YEAR)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "serving.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


class LogServer:
    """Serves ``/containerLogs/<namespace>/<pod>/<container>`` on loopback.

    Args:
        find_pod: the worker of a pod by namespace and name.
    """

    def __init__(self, find_pod: FindPod) -> None:
        self._find_pod = find_pod
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, tls: ssl.SSLContext, port: int = 0) -> None:
        """Begin to listen; ``port`` 0 takes a free one."""
        app = web.Application()
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST_IP, port, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; readers that follow are cut off."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        namespace, name, container = (
            request.match_info[key] for key in ("namespace", "pod", "container")
        )
        worker = self._find_pod(namespace, name)
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{name}" not found\n')
        runner = worker.runners.get(container)
        if runner is None:
            raise web.HTTPNotFound(text=f'container "{container}" not found in pod "{name}"\n')
        try:
            options = _parse_options(request)
        except ValueError as err:
            raise web.HTTPBadRequest(text=f"invalid log options: {err}\n") from err
        folder = worker.folder / container
        attempts = find_attempts(folder) if folder.exists() else []
        if request.query.get("previous") in ("true", "1"):
            # While it waits for a restart, the newest attempt is the previous one.
            waiting = isinstance(runner.record.state, Waiting)
            attempts = attempts if waiting else attempts[:-1]
            if not attempts:
                raise web.HTTPBadRequest(
                    text=f'previous terminated container "{container}" in pod "{name}" not found'
                )
        if not attempts:
            reason = getattr(runner.record.state, "reason", "ContainerCreating")
            raise web.HTTPBadRequest(
                text=f'container "{container}" in pod "{name}" is waiting to start: {reason}'
            )
        attempt = attempts[-1]
        if not attempt.log.exists():
            return web.Response(text="")
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        alive = runner.running_attempt
        is_same = alive is not None and alive.number == attempt.number
        async for chunk in read_log(
            attempt.log, options, lambda: is_same and runner.running_attempt is alive
        ):
            await response.write(chunk)
        await response.write_eof()
        return response


def _parse_options(request: web.Request) -> LogOptions:
    query = request.query

    def flag(name: str) -> bool:
        return query.get(name, "false") in ("true", "1")

    def number(name: str) -> int | None:
        return int(query[name]) if query.get(name) else None

    stream = {"Stdout": "stdout", "Stderr": "stderr"}.get(query.get("stream", ""))
    return LogOptions(
        follow=flag("follow"),
        tail_lines=number("tailLines"),
        since=parse_since(query.get("sinceSeconds"), query.get("sinceTime")),
        timestamps=flag("timestamps"),
        limit_bytes=number("limitBytes"),
        stream=stream,
    )
