"""A container's environment variables, as the kubelet puts them together."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal

from local_cluster.client import Manifest
from local_cluster.node.expansion import expand
from local_cluster.node.fields import FieldError, read_field, read_resource

_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")

ObjectKind = Literal["secret", "configmap"]
ReadObject = Callable[[ObjectKind, str, str], Awaitable[Manifest | None]]


class ConfigError(Exception):
    """A container whose configuration cannot be put together yet (CreateContainerConfigError)."""


def object_data(kind: ObjectKind, item: Manifest) -> dict[str, bytes]:
    """The decoded data of a Secret or ConfigMap."""
    if kind == "secret":
        return {key: base64.b64decode(value) for key, value in (item.get("data") or {}).items()}
    text = {key: str(value).encode() for key, value in (item.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (item.get("binaryData") or {}).items()}
    return text | binary


def build_service_env(services: Iterable[Manifest]) -> dict[str, str]:
    """The variables by which containers find services, in the way of Docker links.

    See https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    env: dict[str, str] = {}
    for service in services:
        spec = service.get("spec") or {}
        address = spec.get("clusterIP")
        ports: list[dict[str, Any]] = spec.get("ports") or []
        if not address or address == "None" or not ports:
            continue
        name = service["metadata"]["name"].upper().replace("-", "_")
        env[f"{name}_SERVICE_HOST"] = address
        env[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
        for port in ports:
            if port.get("name"):
                label = port["name"].upper().replace("-", "_")
                env[f"{name}_SERVICE_PORT_{label}"] = str(port["port"])
        first_protocol = ports[0].get("protocol", "TCP").lower()
        env[f"{name}_PORT"] = f"{first_protocol}://{address}:{ports[0]['port']}"
        for port in ports:
            protocol = port.get("protocol", "TCP")
            prefix = f"{name}_PORT_{port['port']}_{protocol}"
            env[prefix] = f"{protocol.lower()}://{address}:{port['port']}"
            env[f"{prefix}_PROTO"] = protocol.lower()
            env[f"{prefix}_PORT"] = str(port["port"])
            env[f"{prefix}_ADDR"] = address
    return env


async def build_container_env(
    pod: Manifest,
    container: Manifest,
    *,
    read_object: ReadObject,
    addresses: Mapping[str, str],
    allocatable: Mapping[str, str],
    service_env: Mapping[str, str],
) -> dict[str, str]:
    """Evaluate ``envFrom`` and ``env`` of a container.

    Args:
        pod: the pod.
        container: the container's spec.
        read_object: reads a Secret or ConfigMap, None when there is none.
        addresses: ``podIP`` and ``hostIP``.
        allocatable: the node's allocatable resources, for ``resourceFieldRef`` without a limit.
        service_env: variables of the services the pod sees; the container's own win over them.

    Returns:
        What the container's spec adds to the image's environment.

    Raises:
        ConfigError: an object or key is missing, with the kubelet's message.
    """
    namespace = pod["metadata"]["namespace"]
    env = dict(service_env)
    for source in container.get("envFrom") or []:
        env |= await _read_env_from(namespace, source, read_object)
    for entry in container.get("env") or []:
        name = entry["name"]
        origin = entry.get("valueFrom")
        if not origin:
            env[name] = expand(entry.get("value") or "", env)
            continue
        try:
            if "fieldRef" in origin:
                env[name] = read_field(pod, origin["fieldRef"]["fieldPath"], addresses=addresses)
            elif "resourceFieldRef" in origin:
                env[name] = read_resource(
                    pod, container["name"], origin["resourceFieldRef"], allocatable
                )
            else:
                value = await _read_key(namespace, origin, read_object)
                if value is not None:
                    env[name] = value
        except FieldError as err:
            raise ConfigError(str(err)) from err
    return env


async def _read_env_from(
    namespace: str, source: Manifest, read_object: ReadObject
) -> dict[str, str]:
    kind: ObjectKind = "secret" if "secretRef" in source else "configmap"
    reference = source.get("secretRef") or source.get("configMapRef") or {}
    item = await read_object(kind, namespace, reference["name"])
    if item is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{kind} "{reference["name"]}" not found')
    prefix = source.get("prefix", "")
    return {
        prefix + key: value.decode(errors="replace")
        for key, value in object_data(kind, item).items()
        if _NAME.fullmatch(prefix + key)
    }


async def _read_key(namespace: str, origin: Manifest, read_object: ReadObject) -> str | None:
    kind: ObjectKind = "secret" if "secretKeyRef" in origin else "configmap"
    reference = origin.get("secretKeyRef") or origin.get("configMapKeyRef")
    if not reference:
        raise ConfigError(f"unsupported env source: {', '.join(origin)}")
    item = await read_object(kind, namespace, reference["name"])
    if item is None:
        if reference.get("optional"):
            return None
        raise ConfigError(f'{kind} "{reference["name"]}" not found')
    data = object_data(kind, item)
    if reference["key"] not in data:
        if reference.get("optional"):
            return None
        label = "Secret" if kind == "secret" else "ConfigMap"
        raise ConfigError(
            f"couldn't find key {reference['key']} in {label} {namespace}/{reference['name']}"
        )
    return data[reference["key"]].decode(errors="replace")
