"""What all pods of a node share: the way to the API, the images, addresses and settings."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from local_cluster.client import (
    CONFIGMAPS,
    PERSISTENTVOLUMECLAIMS,
    SECRETS,
    SERVICEACCOUNTS,
    ApiError,
    Client,
    EventRecorder,
    Manifest,
)
from local_cluster.node.addresses import PodNetwork
from local_cluster.node.environment import ObjectKind
from local_cluster.node.image_map import ImageMap
from local_cluster.node.volume_files import VolumeError

HOST_IP = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """The API server as pods are told of it: URL, CA certificate (PEM), or no check at all."""

    url: str
    ca: bytes
    insecure: bool = False


def read_server_identity(kubeconfig: Path) -> ServerIdentity:
    """Read URL and CA of the current context's cluster from a kubeconfig."""
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    context = next(
        c["context"] for c in config["contexts"] if c["name"] == config["current-context"]
    )
    cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
    ca = base64.b64decode(cluster.get("certificate-authority-data") or "")
    if not ca and cluster.get("certificate-authority"):
        ca = (kubeconfig.parent / cluster["certificate-authority"]).read_bytes()
    return ServerIdentity(
        cluster["server"].rstrip("/"), ca, bool(cluster.get("insecure-skip-tls-verify"))
    )


def build_kubeconfig(server: ServerIdentity, token: str, namespace: str) -> str:
    """A kubeconfig for a pod's service account, as YAML."""
    cluster: Manifest = {"server": server.url}
    if server.ca:
        cluster["certificate-authority-data"] = base64.b64encode(server.ca).decode()
    if server.insecure:
        cluster["insecure-skip-tls-verify"] = True
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": "pod", "user": {"token": token}}],
            "contexts": [
                {
                    "name": "pod",
                    "context": {"cluster": "local", "user": "pod", "namespace": namespace},
                }
            ],
            "current-context": "pod",
        },
        sort_keys=False,
    )


@dataclass(slots=True)
class NodeContext:
    """What a pod needs of its node.

    Args:
        name: the node's name.
        state: the agent's folder.
        client: an open client.
        events: where events go.
        images: the image map.
        network: the pods' addresses.
        server: the API server as pods see it.
        allocatable: what the node gives to pods.
        restart_backoff_seconds: the first wait of CrashLoopBackOff and ImagePullBackOff.
        list_services: the services of a namespace.
    """

    name: str
    state: Path
    client: Client
    events: EventRecorder
    images: ImageMap
    network: PodNetwork
    server: ServerIdentity
    allocatable: Mapping[str, str]
    restart_backoff_seconds: float = 10.0
    list_services: Callable[[str], list[Manifest]] = field(default=lambda _: [])

    @property
    def pods_folder(self) -> Path:
        """Where the pods' folders lie."""
        return self.state / "pods"

    async def read_object(self, kind: ObjectKind, namespace: str, name: str) -> Manifest | None:
        """Read a Secret or ConfigMap, None when there is none."""
        resource = SECRETS if kind == "secret" else CONFIGMAPS
        try:
            return await self.client.get(resource, name, namespace)
        except ApiError as err:
            if err.is_not_found:
                return None
            raise

    async def allows_automount(self, namespace: str, service_account: str) -> bool:
        """Whether a ServiceAccount lets its token be mounted; without the account there is none."""
        try:
            account = await self.client.get(SERVICEACCOUNTS, service_account, namespace)
        except ApiError as err:
            if err.is_not_found:
                return False
            raise
        return account.get("automountServiceAccountToken") is not False

    async def request_token(
        self, pod: Manifest, audience: str | None, lifetime_seconds: int
    ) -> str:
        """Ask for a token of the pod's service account, bound to the pod.

        Raises:
            VolumeError: the server gave none.
        """
        metadata, spec = pod["metadata"], pod["spec"]
        account = spec.get("serviceAccountName") or "default"
        body: Manifest = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": max(600, lifetime_seconds),
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
            },
        }
        try:
            answer = await self.client.create(
                SERVICEACCOUNTS, body, metadata["namespace"], name=account, subresource="token"
            )
        except ApiError as err:
            raise VolumeError(f"failed to fetch token: {err.message}") from err
        return str(answer["status"]["token"])

    def claim_folder(self, claim: Manifest) -> Path:
        """The folder that stands for a PersistentVolumeClaim's volume."""
        metadata = claim["metadata"]
        return (
            self.state
            / "claims"
            / (f"{metadata['namespace']}_{metadata['name']}_{metadata.get('uid', '')}")
        )

    async def find_claim(self, namespace: str, name: str) -> Path:
        """The folder of a bound claim.

        Raises:
            VolumeError: there is no such claim, or it is not bound yet.
        """
        try:
            claim = await self.client.get(PERSISTENTVOLUMECLAIMS, name, namespace)
        except ApiError as err:
            if err.is_not_found:
                raise VolumeError(f'persistentvolumeclaim "{name}" not found') from err
            raise
        if (claim.get("status") or {}).get("phase") != "Bound":
            raise VolumeError(f'PVC "{namespace}/{name}" is not bound')
        folder = self.claim_folder(claim)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
