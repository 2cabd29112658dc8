"""A kubeconfig file in, the way to one API server out. Reads files, opens no connection."""

from __future__ import annotations

import base64
import binascii
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from local_cluster.client.errors import KubeconfigError


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """How to reach one API server and who to be there.

    Args:
        server: the base URL without a trailing slash.
        headers: headers that authenticate each request.
        ssl_context: trust and client certificate; None for plain HTTP.
        server_name: the name the server's certificate is checked against, when not the URL's host.
        namespace: the namespace of the current context.
    """

    server: str
    headers: Mapping[str, str] = field(default_factory=dict)
    ssl_context: ssl.SSLContext | None = None
    server_name: str | None = None
    namespace: str = "default"


def load_kubeconfig(path: Path, context: str | None = None) -> ClusterAccess:
    """Read a kubeconfig and resolve one of its contexts.

    Args:
        path: the kubeconfig file; relative paths in it are relative to its folder.
        context: the context's name, by default the file's ``current-context``.

    Raises:
        KubeconfigError: the file, the context or the credentials cannot be used.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as err:
        raise KubeconfigError(f"cannot read the kubeconfig {path}: {err}") from err
    if not isinstance(config, dict):
        raise KubeconfigError(f"{path} is no kubeconfig: expected a mapping at the top")
    name = context or config.get("current-context")
    if not name:
        raise KubeconfigError(f"{path} names no current-context; choose one of its contexts")
    chosen = _entry(config, "contexts", "context", name, path)
    cluster = _entry(config, "clusters", "cluster", chosen.get("cluster"), path)
    user = _entry(config, "users", "user", chosen["user"], path) if chosen.get("user") else {}
    server = str(cluster.get("server", "")).rstrip("/")
    if not server.startswith(("http://", "https://")):
        raise KubeconfigError(f"{path}: cluster {chosen.get('cluster')!r} has no http(s) server")
    return ClusterAccess(
        server=server,
        headers=_auth_headers(user, path),
        ssl_context=_ssl_context(cluster, user, path) if server.startswith("https://") else None,
        server_name=cluster.get("tls-server-name"),
        namespace=chosen.get("namespace") or "default",
    )


def _entry(config: dict[str, Any], section: str, key: str, name: Any, path: Path) -> dict[str, Any]:
    for item in config.get(section) or []:
        if item.get("name") == name:
            return dict(item.get(key) or {})
    raise KubeconfigError(f"{path} has no entry {name!r} in {section}")


def _auth_headers(user: Mapping[str, Any], path: Path) -> dict[str, str]:
    if user.get("exec") or user.get("auth-provider"):
        raise KubeconfigError(
            f"{path} logs in through a credential plugin, which is not supported here; "
            "use a context with a token or a client certificate"
        )
    token = user.get("token")
    if not token and user.get("tokenFile"):
        token = _resolve(path, user["tokenFile"]).read_text(encoding="utf-8").strip()
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}


def _ssl_context(cluster: Mapping[str, Any], user: Mapping[str, Any], path: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        authority = _data(cluster, "certificate-authority", path)
        if authority:
            context = ssl.create_default_context(cadata=authority.decode("ascii"))
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = _data(user, "client-certificate", path)
        key = _data(user, "client-key", path)
        if certificate and key:
            # The ssl module takes a client certificate from a file only.
            with tempfile.NamedTemporaryFile(suffix=".pem") as pem:
                pem.write(certificate.rstrip() + b"\n" + key)
                pem.flush()
                context.load_cert_chain(pem.name)
    except (OSError, ValueError, binascii.Error) as err:
        raise KubeconfigError(f"{path}: certificates cannot be used: {err}") from err
    return context


def _data(entry: Mapping[str, Any], name: str, path: Path) -> bytes | None:
    inline = entry.get(f"{name}-data")
    if inline:
        return base64.b64decode(inline)
    if entry.get(name):
        return _resolve(path, entry[name]).read_bytes()
    return None


def _resolve(path: Path, name: str) -> Path:
    return (path.parent / name).resolve()
