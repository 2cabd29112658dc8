"""From a container's spec to the process that stands for it: command, environment, paths."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from local_cluster.client import Manifest
from local_cluster.node.context import HOST_IP, NodeContext
from local_cluster.node.environment import build_container_env, build_service_env
from local_cluster.node.expansion import PathRewriter, expand
from local_cluster.node.fields import cpu_limit_cores
from local_cluster.node.image_map import Image, combine_command, resolve_interpreter
from local_cluster.node.runtime import LaunchSpec
from local_cluster.node.volumes import SERVICE_ACCOUNT_PATH, PodVolumes

DEFAULT_TERMINATION_PATH = "/dev/termination-log"


@dataclass(frozen=True, slots=True)
class PodPlace:
    """Where a pod lives: its folder and its address."""

    folder: Path
    address: str

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the pod's service account."""
        return self.folder / ".kubeconfig"

    @property
    def volumes(self) -> Path:
        """The folder of the volumes; container names never begin with a dot."""
        return self.folder / ".volumes"

    def container(self, name: str) -> Path:
        """The folder of a container's logs and records."""
        return self.folder / name

    def private(self, kind: str, container: str = "") -> Path:
        """A folder of the pod's own, such as ``tmp``; made when missing."""
        path = self.folder / f".{kind}" / container
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True, slots=True)
class Launch:
    """A container that is ready to start: the process, and how paths in later commands change."""

    spec: LaunchSpec
    rewrite: PathRewriter

    def command(self, words: list[str]) -> list[str]:
        """A command that runs beside the container (probes, hooks), with local paths."""
        return resolve_interpreter([self.rewrite(word) for word in words])


async def build_launch(
    node: NodeContext,
    pod: Manifest,
    container: Manifest,
    image: Image,
    *,
    place: PodPlace,
    volumes: PodVolumes,
    termination: Path,
) -> Launch:
    """Put together what a container's process needs.

    Raises:
        ConfigError: a Secret, a ConfigMap or a key is missing.
        VolumeError: a mount cannot be resolved.
    """
    metadata = pod["metadata"]
    addresses = {"podIP": place.address, "hostIP": HOST_IP}
    spec_env = await build_container_env(
        pod,
        container,
        read_object=node.read_object,
        addresses=addresses,
        allocatable=node.allocatable,
        service_env=_service_env(node, pod),
    )
    about = {
        "POD_IP": place.address,
        "POD_NAME": metadata["name"],
        "POD_NAMESPACE": metadata["namespace"],
        "POD_UID": metadata["uid"],
        "NODE_NAME": node.name,
        "CPU_LIMIT_CORES": str(cpu_limit_cores(container, node.allocatable)),
    }
    image_env = {name: expand(value, about) for name, value in image.env.items()}
    paths = volumes.map_mounts(container, image_env | spec_env)
    message_path = container.get("terminationMessagePath") or DEFAULT_TERMINATION_PATH
    rewrite = PathRewriter({**paths, message_path: str(termination)})
    own_env = image_env | spec_env
    env = _base_env(pod, place, paths) | {k: rewrite(v) for k, v in own_env.items()}
    # Programs find the files below /var/run/secrets only in a real container.
    if SERVICE_ACCOUNT_PATH in paths and "KUBECONFIG" not in own_env:
        env["KUBECONFIG"] = str(place.kubeconfig)
    words = combine_command(image, container.get("command"), container.get("args"))
    argv = [rewrite(expand(word, about | own_env)) for word in words]
    launch = LaunchSpec(
        argv=resolve_interpreter(argv),
        env=env,
        cwd=_working_folder(container, rewrite, place),
        fallback_to_logs=container.get("terminationMessagePolicy") == "FallbackToLogsOnError",
    )
    return Launch(launch, rewrite)


def _service_env(node: NodeContext, pod: Manifest) -> dict[str, str]:
    env: dict[str, str] = {}
    if pod["spec"].get("enableServiceLinks", True):
        services = node.list_services(pod["metadata"]["namespace"])
        env = build_service_env(s for s in services if s["metadata"]["name"] != "kubernetes")
    # The address of the service "kubernetes" leads nowhere without kube-proxy: name the server's.
    server = urlsplit(node.server.url)
    host, port = (
        server.hostname or HOST_IP,
        server.port or (443 if server.scheme == "https" else 80),
    )
    service = {
        "metadata": {"name": "kubernetes"},
        "spec": {"clusterIP": host, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]},
    }
    return env | build_service_env([service])


def _base_env(pod: Manifest, place: PodPlace, paths: Mapping[str, str]) -> dict[str, str]:
    python_folder = os.path.dirname(sys.executable)
    return {
        "PATH": f"{python_folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(place.private("home")),
        "LANG": "C.UTF-8",
        "TMPDIR": paths.get("/tmp") or str(place.private("tmp")),
        "HOSTNAME": (pod["spec"].get("hostname") or pod["metadata"]["name"])[:63],
    }


def _working_folder(container: Manifest, rewrite: PathRewriter, place: PodPlace) -> str:
    wanted = container.get("workingDir")
    if wanted:
        local = rewrite.resolve(wanted) or wanted
        if os.path.isdir(local):
            return local
    return str(place.private("root", container["name"]))
