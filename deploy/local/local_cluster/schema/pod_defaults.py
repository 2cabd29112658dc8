"""The coded defaults of pods and pod templates, those of `pkg/apis/core/v1/defaults.go` of Kubernetes."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_FILE_VOLUMES = ("secret", "configMap", "downwardAPI", "projected")


def default_pod_spec(spec: Manifest) -> None:
    """Fill a pod spec in place."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    if not spec.get("schedulerName"):
        spec["schedulerName"] = "default-scheduler"
    spec.setdefault("securityContext", {})
    if spec.get("serviceAccountName"):
        # The old name of the field is kept equal, as a real server does.
        spec["serviceAccount"] = spec["serviceAccountName"]
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for container in spec.get("initContainers") or ():
        _default_container(container)
    for container in spec.get("containers") or ():
        _default_container(container)
    for container in spec.get("ephemeralContainers") or ():
        _default_container(container)
    for volume in spec.get("volumes") or ():
        _default_volume(volume)
    if spec.get("hostNetwork"):
        for container in spec.get("containers") or ():
            for port in container.get("ports") or ():
                port.setdefault("hostPort", port.get("containerPort"))
    for constraint in spec.get("topologySpreadConstraints") or ():
        constraint.setdefault("whenUnsatisfiable", "DoNotSchedule")


def default_pod_resources(spec: Manifest) -> None:
    """Fill requests from limits; only in pods, a template keeps what was written."""
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            limits = container.get("resources", {}).get("limits")
            if limits:
                requests = container["resources"].setdefault("requests", {})
                for name, amount in limits.items():
                    requests.setdefault(name, amount)


def _default_container(container: Manifest) -> None:
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = _pull_policy(container.get("image") or "")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    for port in container.get("ports") or ():
        if not port.get("protocol"):
            port["protocol"] = "TCP"
    for variable in container.get("env") or ():
        source = variable.get("valueFrom")
        if source:
            _default_field_ref(source.get("fieldRef"))
            _default_resource_ref(source.get("resourceFieldRef"))
    for name in _PROBES:
        probe = container.get(name)
        if probe is not None:
            _default_probe(probe)
    hooks = container.get("lifecycle")
    if hooks:
        for hook in hooks.values():
            if isinstance(hook, dict):
                _default_http(hook.get("httpGet"))


def _pull_policy(image: str) -> str:
    name = image.rsplit("/", 1)[-1]
    if "@" in name:
        return "IfNotPresent"
    _, colon, tag = name.partition(":")
    return "IfNotPresent" if colon and tag != "latest" else "Always"


def _default_probe(probe: Manifest) -> None:
    for field, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        if not probe.get(field):
            probe[field] = value
    if probe.get("initialDelaySeconds") == 0:
        del probe["initialDelaySeconds"]  # zero is what a real server leaves out
    _default_http(probe.get("httpGet"))
    grpc = probe.get("grpc")
    if grpc is not None:
        grpc.setdefault("service", "")


def _default_http(action: Manifest | None) -> None:
    if action is not None:
        if not action.get("path"):
            action["path"] = "/"
        if not action.get("scheme"):
            action["scheme"] = "HTTP"


def _default_field_ref(reference: Manifest | None) -> None:
    if reference is not None and not reference.get("apiVersion"):
        reference["apiVersion"] = "v1"


def _default_resource_ref(reference: Manifest | None) -> None:
    if reference is not None:
        reference.setdefault("divisor", "0")


def _default_volume(volume: Manifest) -> None:
    if len(volume) == 1:
        volume["emptyDir"] = {}
    for kind in _FILE_VOLUMES:
        source = volume.get(kind)
        if source is not None:
            source.setdefault("defaultMode", 0o644)
    for item in (volume.get("downwardAPI") or {}).get("items") or ():
        _default_field_ref(item.get("fieldRef"))
        _default_resource_ref(item.get("resourceFieldRef"))
    for source in (volume.get("projected") or {}).get("sources") or ():
        token = source.get("serviceAccountToken")
        if token is not None:
            token.setdefault("expirationSeconds", 3600)
        for item in (source.get("downwardAPI") or {}).get("items") or ():
            _default_field_ref(item.get("fieldRef"))
            _default_resource_ref(item.get("resourceFieldRef"))
    host = volume.get("hostPath")
    if host is not None:
        host.setdefault("type", "")
    claim = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
    if claim is not None:
        claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
