"""The cells of tables for the built-in types, as the real server's printers fill them.

An object in its served version in, the cells of its row out, in the order of ``columns.json``
(pkg/printers/internalversion in the real server).
"""

from __future__ import annotations

from local_cluster.apiserver.clock import format_age
from local_cluster.apiserver.network_printers import NETWORK_PRINTERS
from local_cluster.apiserver.pod_printer import print_pod
from local_cluster.apiserver.resources import Manifest
from local_cluster.apiserver.row_parts import (
    NONE,
    Cells,
    Printer,
    read_name,
    show_age,
)
from local_cluster.apiserver.workload_printers import WORKLOAD_PRINTERS


def _event(obj: Manifest) -> Cells:
    modern = "regarding" in obj or obj.get("apiVersion", "").startswith("events.k8s.io")
    target = obj.get("regarding" if modern else "involvedObject") or {}
    source = obj.get("deprecatedSource" if modern else "source") or {}
    first = obj.get("deprecatedFirstTimestamp" if modern else "firstTimestamp") or obj.get(
        "eventTime"
    )
    last = obj.get("deprecatedLastTimestamp" if modern else "lastTimestamp") or first
    series = obj.get("series") or {}
    if series:
        last = series.get("lastObservedTime") or last
    count = series.get("count") or obj.get("deprecatedCount" if modern else "count") or 1
    component = source.get("component") or obj.get(
        "reportingController" if modern else "reportingComponent", ""
    )
    host = source.get("host") or ""
    kind = str(target.get("kind", "")).lower()
    return [
        format_age(last), obj.get("type", ""), obj.get("reason", ""),
        f"{kind}/{target['name']}" if target.get("name") else kind, target.get("fieldPath", ""),
        f"{component}, {host}" if host else component, str(obj.get("note" if modern else "message", "")).strip(),
        format_age(first), count, read_name(obj),
    ]  # fmt: skip


def _namespace(obj: Manifest) -> Cells:
    return [read_name(obj), obj.get("status", {}).get("phase", ""), show_age(obj)]


def _node(obj: Manifest) -> Cells:
    status = obj.get("status", {})
    ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), None)
    states = ["Unknown"]
    if ready is not None:
        states = ["Ready" if ready["status"] == "True" else "NotReady"]
    if obj.get("spec", {}).get("unschedulable"):
        states.append("SchedulingDisabled")
    roles = []
    for key, value in sorted((obj["metadata"].get("labels") or {}).items()):
        if key.startswith("node-role.kubernetes.io/") and len(key) > 24:
            roles.append(key[24:])
        elif key == "kubernetes.io/role" and value:
            roles.append(value)
    addresses = {a["type"]: a["address"] for a in reversed(status.get("addresses") or [])}
    info = status.get("nodeInfo") or {}
    return [
        read_name(obj), ",".join(states), ",".join(roles) or NONE, show_age(obj), info.get("kubeletVersion", ""),
        addresses.get("InternalIP", NONE), addresses.get("ExternalIP", NONE),
        info.get("osImage") or "<unknown>", info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]  # fmt: skip


def _secret(obj: Manifest) -> Cells:
    return [read_name(obj), obj.get("type", ""), len(obj.get("data") or ()), show_age(obj)]


def _config_map(obj: Manifest) -> Cells:
    return [
        read_name(obj),
        len(obj.get("data") or ()) + len(obj.get("binaryData") or ()),
        show_age(obj),
    ]


def _service_account(obj: Manifest) -> Cells:
    return [read_name(obj), len(obj.get("secrets") or ()), show_age(obj)]


def _lease(obj: Manifest) -> Cells:
    return [read_name(obj), obj.get("spec", {}).get("holderIdentity", ""), show_age(obj)]


def _created_at(obj: Manifest) -> Cells:
    return [read_name(obj), obj["metadata"].get("creationTimestamp")]


_MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


def _access_modes(modes: list[str] | None) -> str:
    return ",".join(_MODES[m] for m in _MODES if m in (modes or ()))


def _volume_claim(obj: Manifest) -> Cells:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    phase = "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", "")
    bound = bool(spec.get("volumeName"))
    return [
        read_name(obj), phase, spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "") if bound else "",
        _access_modes(status.get("accessModes")) if bound else "", spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName", "<unset>"), show_age(obj), spec.get("volumeMode", "<unset>"),
    ]  # fmt: skip


def _volume(obj: Manifest) -> Cells:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    claim = spec.get("claimRef") or {}
    phase = "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", "")
    return [
        read_name(obj), (spec.get("capacity") or {}).get("storage", ""), _access_modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""), phase,
        f"{claim.get('namespace', '')}/{claim['name']}" if claim.get("name") else "",
        spec.get("storageClassName", ""), spec.get("volumeAttributesClassName", "<unset>"),
        status.get("reason", ""), show_age(obj), spec.get("volumeMode", "<unset>"),
    ]  # fmt: skip


def _resource_quota(obj: Manifest) -> Cells:
    status = obj.get("status", {})
    used, hard = (
        status.get("used") or {},
        status.get("hard") or obj.get("spec", {}).get("hard") or {},
    )
    columns: dict[bool, list[str]] = {False: [], True: []}
    for name in sorted(hard):
        columns[name.startswith("limits.")].append(f"{name}: {used.get(name, '0')}/{hard[name]}")
    return [read_name(obj), ", ".join(columns[False]), ", ".join(columns[True]), show_age(obj)]


def _role_binding(obj: Manifest) -> Cells:
    role = obj.get("roleRef", {})
    subjects: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        prefix = f"{subject.get('namespace', '')}/" if subject["kind"] == "ServiceAccount" else ""
        subjects.setdefault(subject["kind"], []).append(prefix + subject["name"])
    return [
        read_name(obj), f"{role.get('kind', '')}/{role.get('name', '')}", show_age(obj),
        *(", ".join(subjects[kind]) for kind in ("User", "Group", "ServiceAccount")),
    ]  # fmt: skip


def _priority_class(obj: Manifest) -> Cells:
    return [
        read_name(obj),
        obj.get("value", 0),
        bool(obj.get("globalDefault")),
        show_age(obj),
        obj.get("preemptionPolicy", ""),
    ]


def _storage_class(obj: Manifest) -> Cells:
    default = (obj["metadata"].get("annotations") or {}).get(
        "storageclass.kubernetes.io/is-default-class"
    ) == "true"
    return [
        read_name(obj) + (" (default)" if default else ""), obj.get("provisioner", ""), obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"), bool(obj.get("allowVolumeExpansion")), show_age(obj),
    ]  # fmt: skip


def _webhooks(obj: Manifest) -> Cells:
    return [read_name(obj), len(obj.get("webhooks") or ()), show_age(obj)]


PRINTERS: dict[str, Printer] = {
    **NETWORK_PRINTERS,
    **WORKLOAD_PRINTERS,
    "/configmaps": _config_map,
    "/events": _event,
    "/limitranges": _created_at,
    "/namespaces": _namespace,
    "/nodes": _node,
    "/persistentvolumeclaims": _volume_claim,
    "/persistentvolumes": _volume,
    "/pods": print_pod,
    "/resourcequotas": _resource_quota,
    "/secrets": _secret,
    "/serviceaccounts": _service_account,
    "admissionregistration.k8s.io/mutatingwebhookconfigurations": _webhooks,
    "admissionregistration.k8s.io/validatingwebhookconfigurations": _webhooks,
    "apiextensions.k8s.io/customresourcedefinitions": _created_at,
    "coordination.k8s.io/leases": _lease,
    "rbac.authorization.k8s.io/clusterrolebindings": _role_binding,
    "rbac.authorization.k8s.io/clusterroles": _created_at,
    "rbac.authorization.k8s.io/rolebindings": _role_binding,
    "rbac.authorization.k8s.io/roles": _created_at,
    "scheduling.k8s.io/priorityclasses": _priority_class,
    "storage.k8s.io/storageclasses": _storage_class,
}
"""Printers by storage key; a type that is not here has its name and creation time printed."""
