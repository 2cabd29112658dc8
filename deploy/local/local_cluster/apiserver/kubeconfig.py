"""The kubeconfig that lets clients in."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

from local_cluster.apiserver.pki import write_private


def write_kubeconfig(path: Path, url: str, ca: bytes, token: str) -> None:
    """Write a kubeconfig with everything inline, readable by its owner only, at once or not at all.

    Args:
        path: where to.
        url: of the server.
        ca: certificate of the CA, PEM.
        token: bearer token.
    """
    name = "local-cluster"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": url,
                    "certificate-authority-data": base64.b64encode(ca).decode(),
                },
            }
        ],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "admin", "namespace": "default"}}
        ],
        "current-context": name,
    }
    write_private(path, yaml.safe_dump(config, sort_keys=False).encode())
