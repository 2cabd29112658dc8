"""The files of secret, configMap, downwardAPI and projected volumes, and their atomic update."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cluster.client import Manifest
from local_cluster.node.environment import ObjectKind, ReadObject, object_data
from local_cluster.node.fields import FieldError, read_field, read_resource

_DATA_LINK = "..data"
_DEFAULT_MODE = 0o644
ROOT_CA_CONFIGMAP = "kube-root-ca.crt"


class VolumeError(Exception):
    """A volume that cannot be set up (now); the message is the kubelet's."""


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """One file of a volume."""

    content: bytes
    mode: int = _DEFAULT_MODE


Payload = dict[str, VolumeFile]
RequestToken = Callable[[str | None, int], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class FileSources:
    """Where the contents of a pod's files come from.

    Args:
        read_object: reads a Secret or ConfigMap.
        request_token: a token of the pod's service account for an audience and a lifetime.
        cluster_ca: the CA of the API server, where the namespace has no ``kube-root-ca.crt``.
        addresses: ``podIP`` and ``hostIP``.
        allocatable: the node's allocatable resources.
    """

    read_object: ReadObject
    request_token: RequestToken
    cluster_ca: bytes
    addresses: Mapping[str, str]
    allocatable: Mapping[str, str]


async def build_payload(pod: Manifest, volume: Manifest, sources: FileSources) -> Payload | None:
    """Collect the files of a volume.

    Returns:
        The files by their path in the volume; None for a volume of another kind.

    Raises:
        VolumeError: something the volume needs is missing.
    """
    if "secret" in volume:
        source = volume["secret"]
        source = {**source, "name": source.get("secretName")}
        return await _object_files("secret", pod, source, sources, _mode(source))
    if "configMap" in volume:
        source = volume["configMap"]
        return await _object_files("configmap", pod, source, sources, _mode(source))
    if "downwardAPI" in volume:
        source = volume["downwardAPI"]
        return _downward_files(pod, source, sources, _mode(source))
    if "projected" not in volume:
        return None
    payload: Payload = {}
    mode = _mode(volume["projected"])
    for source in volume["projected"].get("sources") or []:
        if "secret" in source:
            payload |= await _object_files("secret", pod, source["secret"], sources, mode)
        elif "configMap" in source:
            payload |= await _object_files("configmap", pod, source["configMap"], sources, mode)
        elif "downwardAPI" in source:
            payload |= _downward_files(pod, source["downwardAPI"], sources, mode)
        elif "serviceAccountToken" in source:
            wanted = source["serviceAccountToken"]
            token = await sources.request_token(
                wanted.get("audience"), int(wanted.get("expirationSeconds") or 3600)
            )
            payload[wanted["path"]] = VolumeFile(token.encode(), mode)
        else:
            raise VolumeError(f"unsupported projected volume source: {', '.join(source)}")
    return payload


def _mode(source: Manifest) -> int:
    mode = source.get("defaultMode")
    return _DEFAULT_MODE if mode is None else int(mode)


async def _object_files(
    kind: ObjectKind, pod: Manifest, source: Manifest, sources: FileSources, mode: int
) -> Payload:
    namespace = pod["metadata"]["namespace"]
    item = await sources.read_object(kind, namespace, source["name"])
    if item is None:
        if source.get("optional"):
            return {}
        if kind == "configmap" and source["name"] == ROOT_CA_CONFIGMAP:
            # A cluster without the controller that publishes it in each namespace.
            data = {"ca.crt": sources.cluster_ca}
        else:
            raise VolumeError(f'{kind} "{source["name"]}" not found')
    else:
        data = object_data(kind, item)
    if not source.get("items"):
        return {key: VolumeFile(value, mode) for key, value in data.items()}
    payload: Payload = {}
    for entry in source["items"]:
        if entry["key"] not in data:
            if source.get("optional"):
                continue
            label = "secret" if kind == "secret" else "config"
            raise VolumeError(f"references non-existent {label} key: {entry['key']}")
        own = entry.get("mode")
        payload[entry["path"]] = VolumeFile(data[entry["key"]], mode if own is None else int(own))
    return payload


def _downward_files(pod: Manifest, source: Manifest, sources: FileSources, mode: int) -> Payload:
    payload: Payload = {}
    for entry in source.get("items") or []:
        try:
            if "fieldRef" in entry:
                path = entry["fieldRef"]["fieldPath"]
                text = read_field(pod, path, addresses=sources.addresses)
            else:
                text = read_resource(pod, "", entry["resourceFieldRef"], sources.allocatable)
        except FieldError as err:
            raise VolumeError(str(err)) from err
        own = entry.get("mode")
        payload[entry["path"]] = VolumeFile(text.encode(), mode if own is None else int(own))
    return payload


def write_payload(folder: Path, payload: Payload) -> bool:
    """Make a folder hold exactly these files, switched over in one step as the kubelet does.

    The files lie in a folder of their own, ``..data`` links to it, and the visible names link into
    ``..data``. Renaming a new link over ``..data`` replaces all files at once.

    Returns:
        Whether anything changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / _DATA_LINK
    if link.exists() and _read_payload(link) == payload:
        return False
    old = folder / os.readlink(link) if link.is_symlink() else None
    now_ns = time.time_ns()
    stamp = time.strftime("..%Y_%m_%d_%H_%M_%S", time.gmtime(now_ns // 1_000_000_000))
    fresh = folder / f"{stamp}.{now_ns % 1_000_000_000:09d}"
    fresh.mkdir(mode=0o755)
    for path, file in payload.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(file.content)
        target.chmod(file.mode)
    temporary = folder / "..data_tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(fresh.name)
    temporary.rename(link)
    visible = {path.partition("/")[0] for path in payload}
    for name in visible:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{_DATA_LINK}/{name}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in visible:
            entry.unlink()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return True


def _read_payload(folder: Path) -> Payload:
    payload: Payload = {}
    for path in folder.resolve().rglob("*"):
        if path.is_file():
            with contextlib.suppress(OSError):
                payload[str(path.relative_to(folder.resolve()))] = VolumeFile(
                    path.read_bytes(), path.stat().st_mode & 0o7777
                )
    return payload
