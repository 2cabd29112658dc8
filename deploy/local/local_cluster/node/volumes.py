"""A pod's volumes: a folder each on this machine, and which of them a container sees where."""

from __future__ import annotations

import copy
import posixpath
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from local_cluster.client import Manifest
from local_cluster.node.expansion import expand
from local_cluster.node.volume_files import (
    ROOT_CA_CONFIGMAP,
    FileSources,
    VolumeError,
    build_payload,
    write_payload,
)

SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_INJECTED_VOLUME = "kube-api-access"

FindClaim = Callable[[str, str], Awaitable[Path]]


def inject_service_account(pod: Manifest, *, automount: bool) -> Manifest:
    """Add the service account volume that a real API server adds at admission.

    Args:
        pod: the pod, not edited.
        automount: whether its ServiceAccount allows it; the pod's own setting wins.

    Returns:
        A pod with the volume, or the same one when it has it or does not want it.
    """
    spec = pod["spec"]
    wanted = spec.get("automountServiceAccountToken")
    if not (automount if wanted is None else wanted):
        return pod
    mounts = [mount["mountPath"] for item in all_containers(pod) for mount in _mounts(item)]
    if any(path.rstrip("/") == SERVICE_ACCOUNT_PATH for path in mounts):
        return pod
    pod = copy.deepcopy(pod)
    namespace_item = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    ca_item = {"key": "ca.crt", "path": "ca.crt"}
    pod["spec"].setdefault("volumes", []).append(
        {
            "name": _INJECTED_VOLUME,
            "projected": {
                "defaultMode": 0o644,
                "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    {"configMap": {"name": ROOT_CA_CONFIGMAP, "items": [ca_item]}},
                    {"downwardAPI": {"items": [namespace_item]}},
                ],
            },
        }
    )
    for container in all_containers(pod):
        container.setdefault("volumeMounts", []).append(
            {"name": _INJECTED_VOLUME, "mountPath": SERVICE_ACCOUNT_PATH, "readOnly": True}
        )
    return pod


def all_containers(pod: Manifest) -> list[Manifest]:
    """Init containers, then containers."""
    return [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]


def mounted_images(pod: Manifest, container: Manifest) -> list[Manifest]:
    """The image volumes that a container mounts, each with its `reference` and `pullPolicy`."""
    images = {v["name"]: v["image"] for v in pod["spec"].get("volumes") or () if "image" in v}
    return [images[mount["name"]] for mount in _mounts(container) if mount["name"] in images]


def _mounts(container: Manifest) -> list[Manifest]:
    return container.get("volumeMounts") or []


def references(pod: Manifest) -> set[tuple[str, str]]:
    """The Secrets and ConfigMaps whose changes show in a pod's volumes, as (kind, name)."""
    found: set[tuple[str, str]] = set()
    for volume in pod["spec"].get("volumes") or []:
        if "secret" in volume:
            found.add(("secret", volume["secret"].get("secretName", "")))
        if "configMap" in volume:
            found.add(("configmap", volume["configMap"].get("name", "")))
        for source in (volume.get("projected") or {}).get("sources") or []:
            if "secret" in source:
                found.add(("secret", source["secret"].get("name", "")))
            if "configMap" in source:
                found.add(("configmap", source["configMap"].get("name", "")))
    return found


class PodVolumes:
    """The volumes of one pod.

    Args:
        folder: where they lie.
        find_claim: the folder of a bound PersistentVolumeClaim.
    """

    def __init__(self, folder: Path, find_claim: FindClaim) -> None:
        self._folder = folder
        self._find_claim = find_claim
        self._paths: dict[str, Path] = {}

    async def set_up(self, pod: Manifest, sources: FileSources) -> None:
        """Create all volumes, or bring their files up to date.

        Raises:
            VolumeError: one of them cannot be set up now; the message names it.
        """
        for volume in pod["spec"].get("volumes") or []:
            name = volume["name"]
            try:
                self._paths[name] = await self._set_up_one(pod, volume, sources)
            except VolumeError as err:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {err}') from err
            except OSError as err:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {err}') from err

    async def _set_up_one(self, pod: Manifest, volume: Manifest, sources: FileSources) -> Path:
        folder = self._folder / str(volume["name"])
        payload = await build_payload(pod, volume, sources)
        if payload is not None:
            write_payload(folder, payload)
            return folder
        if "hostPath" in volume:
            return check_host_path(volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            return await self._find_claim(pod["metadata"]["namespace"], claim)
        if "image" in volume:
            # As in a kubelet: nothing to do here, the image is pulled when a container that mounts it starts.
            return folder
        kinds = set(volume) - {"name"}
        if not kinds or kinds == {"emptyDir"}:
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        raise VolumeError(
            f"volumes of kind {', '.join(sorted(kinds))} are not supported by this node agent; use "
            "emptyDir, secret, configMap, downwardAPI, projected, hostPath or persistentVolumeClaim"
        )

    def map_mounts(self, container: Manifest, env: Mapping[str, str]) -> dict[str, str]:
        """Local paths by mount path for one container, sub-paths created where they may be.

        Raises:
            VolumeError: a mount names no volume or a sub-path that leaves it.
        """
        paths: dict[str, str] = {}
        for mount in _mounts(container):
            base = self._paths.get(mount["name"])
            if base is None:
                raise VolumeError(f'volume "{mount["name"]}" not found')
            sub_path = mount.get("subPath") or expand(mount.get("subPathExpr") or "", env)
            local = base
            if sub_path:
                if sub_path.startswith("/") or ".." in posixpath.normpath(sub_path).split("/"):
                    raise VolumeError(f"subPath {sub_path!r} must stay inside its volume")
                local = base / sub_path
                if not local.exists() and not (base / "..data").exists():
                    local.mkdir(parents=True)
            paths[posixpath.normpath(mount["mountPath"])] = str(local)
        return paths


def check_host_path(source: Manifest) -> Path:
    """The folder or file of a hostPath volume, created where its type says so.

    Raises:
        VolumeError: what is there is not of the wanted type.
    """
    path = Path(str(source["path"]))
    kind = source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch()
    checks: dict[str, tuple[Callable[[], bool], str]] = {
        "Directory": (path.is_dir, "directory"),
        "DirectoryOrCreate": (path.is_dir, "directory"),
        "File": (path.is_file, "file"),
        "FileOrCreate": (path.is_file, "file"),
        "Socket": (path.is_socket, "socket file"),
        "CharDevice": (path.is_char_device, "character device"),
        "BlockDevice": (path.is_block_device, "block device"),
    }
    if kind in checks and not checks[kind][0]():
        raise VolumeError(f"hostPath type check failed: {path} is not a {checks[kind][1]}")
    return path
