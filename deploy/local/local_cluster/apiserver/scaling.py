"""The scale subresource: ``autoscaling/v1 Scale`` of workloads and custom resources."""

from __future__ import annotations

from typing import Any

from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.conversion import from_storage
from local_cluster.apiserver.decoding import check_type
from local_cluster.apiserver.errors import bad_request, invalid
from local_cluster.apiserver.negotiation import parse_body, parse_yaml
from local_cluster.apiserver.objects import Objects, patch_failure
from local_cluster.apiserver.requests import ResourceRequest
from local_cluster.apiserver.resources import Manifest, Resource
from local_cluster.apiserver.selectors import format_label_selector
from local_cluster.apiserver.storage import Entry
from local_cluster.apiserver.writing import APPLY_PATCH, build_change, check_patch_type
from local_cluster.schema import PatchError

_PATHS = (".spec.replicas", ".status.replicas", "")


def _paths(resource: Resource) -> tuple[str, str, str]:
    if resource.crd is None:
        return _PATHS
    scale = resource.version_schema["subresources"]["scale"]
    return (
        scale["specReplicasPath"],
        scale["statusReplicasPath"],
        scale.get("labelSelectorPath", ""),
    )


def _read(obj: Manifest, path: str) -> Any:
    value: Any = obj
    for part in path.strip(".").split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _write(obj: Manifest, path: str, replicas: int) -> Manifest:
    """Copy an object with one field set."""
    head, *rest = path.strip(".").split(".")
    if not rest:
        return {**obj, head: replicas}
    return {**obj, head: _write(obj.get(head) or {}, ".".join(rest), replicas)}


def build_scale(obj: Manifest, resource: Resource) -> Manifest:
    """Build the Scale of an object.

    Args:
        obj: in the version of `resource`.
        resource: a type with a scale subresource.
    """
    spec_path, status_path, selector_path = _paths(resource)
    wanted = _read(obj, spec_path)
    status: Manifest = {"replicas": _read(obj, status_path) or 0}
    if resource.crd is not None:
        selector = _read(obj, selector_path) if selector_path else None
    elif resource.storage_key == "/replicationcontrollers":
        selector = ",".join(
            f"{k}={v}" for k, v in sorted((obj["spec"].get("selector") or {}).items())
        )
    else:
        selector = format_label_selector(obj["spec"].get("selector"))
    if selector:
        status["selector"] = selector
    metadata = {
        key: obj["metadata"][key]
        for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if key in obj["metadata"]
    }
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": wanted} if wanted else {},
        "status": status,
    }


class Scales:
    """Reads and writes scales."""

    def __init__(self, cluster: Cluster, objects: Objects) -> None:
        self._cluster = cluster
        self._objects = objects

    def get(self, request: ResourceRequest) -> Manifest:
        """Give the scale of an object."""
        entry = self._objects.get(request.resource, request.namespace, request.name)
        return build_scale(from_storage(entry.obj, request.resource), request.resource)

    def put(self, request: ResourceRequest) -> Manifest:
        """Replace the scale of an object."""
        body = parse_body(request.body, request.content_type)
        scale = check_type(body, request.resource, "Scale", "autoscaling/v1")
        return self._store(request, scale, "UpdateOptions")

    def patch(self, request: ResourceRequest) -> Manifest:
        """Patch the scale of an object."""
        media = request.content_type.partition(";")[0].strip()
        check_patch_type(media, None)
        current = self.get(request)
        if media == APPLY_PATCH:
            scale = {**current, **(parse_yaml(request.body) or {})}
            scale["metadata"] = current["metadata"]
        else:
            try:
                scale = build_change(media, request.body, None)(current)
            except PatchError as err:
                raise patch_failure(err, request.resource, request.name) from err
        return self._store(request, scale, "PatchOptions")

    def _store(self, request: ResourceRequest, scale: Manifest, kind: str) -> Manifest:
        resource = request.resource
        options = request.write_options(kind=kind)
        spec = scale.get("spec") or {}
        replicas = spec.get("replicas", 0) if isinstance(spec, dict) else None
        if not isinstance(replicas, int) or isinstance(replicas, bool):
            raise bad_request(
                'Scale in version "v1" cannot be handled as a Scale: json: cannot unmarshal '
                "into Go struct field ScaleSpec.spec.replicas of type int32"
            )
        if replicas < 0 and resource.crd is None:  # a custom resource's own schema speaks
            message = f"Invalid value: {replicas}: must be greater than or equal to 0"
            cause = {"reason": "FieldValueInvalid", "message": message, "field": "spec.replicas"}
            raise invalid("autoscaling", "Scale", request.name, [cause])
        path = _paths(resource)[0]
        metadata = scale.get("metadata") or {}

        def change(obj: Manifest) -> Manifest:
            changed = _write(obj, path, replicas)
            checked = {k: metadata[k] for k in ("resourceVersion", "uid") if metadata.get(k)}
            return {**changed, "metadata": {**changed["metadata"], **checked}}

        entry: Entry = self._objects.patch(
            resource, request.namespace, request.name, change, options
        )
        return build_scale(from_storage(entry.obj, resource), resource)
