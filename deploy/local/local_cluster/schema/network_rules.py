"""Validation of Services and Ingresses."""

from __future__ import annotations

from typing import Any

from local_cluster.schema import names
from local_cluster.schema.errors import FieldError, duplicate, invalid, required, unsupported
from local_cluster.schema.metadata import validate_labels
from local_cluster.schema.pod_rules import port_errors

Manifest = dict[str, Any]

CLASS_ANNOTATION = "kubernetes.io/ingress.class"
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_BAD_SEQUENCES = ("//", "/./", "/../", "%2f", "%2F")
_BAD_ENDINGS = ("/..", "/.")


def validate_service(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    """Check a Service."""
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    kind = spec.get("type")
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None" and kind != "ExternalName":
        errors.append(required("spec.ports"))
    if kind == "ExternalName":
        host = spec.get("externalName") or ""
        if not host:
            errors.append(required("spec.externalName"))
        else:
            errors.extend(
                invalid("spec.externalName", host, text)
                for text in names.dns_subdomain(host.rstrip("."))
            )
    seen: set[str] = set()
    used: set[tuple[Any, Any]] = set()
    for position, port in enumerate(ports):
        path = f"spec.ports[{position}]"
        name, number = port.get("name") or "", port.get("port") or 0
        if not name:
            if len(ports) > 1:
                errors.append(required(f"{path}.name"))
        else:
            errors.extend(invalid(f"{path}.name", name, text) for text in names.dns_label(name))
            if name in seen:
                errors.append(duplicate(f"{path}.name", name))
            seen.add(name)
        if not 0 < number < 65536:
            errors.append(invalid(f"{path}.port", number, names.PORT_RANGE))
        if port.get("protocol") not in ("TCP", "UDP", "SCTP"):
            errors.append(
                unsupported(f"{path}.protocol", port.get("protocol"), ("SCTP", "TCP", "UDP"))
            )
        if port.get("targetPort") is not None:
            errors.extend(port_errors(port["targetPort"], f"{path}.targetPort"))
        key = (port.get("protocol"), number)
        if key in used:
            errors.append(duplicate(path, {"protocol": key[0], "port": number}))
        used.add(key)
    errors.extend(validate_labels(spec.get("selector"), "spec.selector"))
    if old is not None:
        before = old.get("spec") or {}
        if kind == before.get("type") == "ClusterIP" and before.get("clusterIP"):
            now = spec.get("clusterIP") or ""
            if now != before["clusterIP"]:
                errors.append(
                    invalid("spec.clusterIPs[0]", [now] if now else [], "may not change once set")
                )
    return errors


def validate_ingress(obj: Manifest, old: Manifest | None) -> list[FieldError]:
    """Check an Ingress."""
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    rules, backend = spec.get("rules") or [], spec.get("defaultBackend")
    if not rules and backend is None:
        errors.append(invalid("spec", None, "either `defaultBackend` or `rules` must be specified"))
    if backend is not None:
        errors.extend(_backend(backend, "spec.defaultBackend"))
    name = spec.get("ingressClassName")
    if name is not None:
        errors.extend(
            invalid("spec.ingressClassName", name, text) for text in names.dns_subdomain(name)
        )
    old_class = (obj["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION)
    if old is None and name is not None and old_class is not None and old_class != name:
        text = "must match `ingressClassName` when both are specified"
        errors.append(invalid(f"annotations.{CLASS_ANNOTATION}", old_class, text))
    for position, rule in enumerate(rules):
        path = f"spec.rules[{position}]"
        errors.extend(_host(rule.get("host") or "", f"{path}.host"))
        http = rule.get("http")
        if http is None:
            continue
        if not http.get("paths"):
            errors.append(required(f"{path}.http.paths"))
        for place, entry in enumerate(http.get("paths") or ()):
            where = f"{path}.http.paths[{place}]"
            errors.extend(_path(entry, where))
            errors.extend(_backend(entry.get("backend") or {}, f"{where}.backend"))
    for position, tls in enumerate(spec.get("tls") or ()):
        for place, host in enumerate(tls.get("hosts") or ()):
            errors.extend(_host(host, f"spec.tls[{position}].hosts[{place}]"))
        secret = tls.get("secretName")
        if secret:
            path = f"spec.tls[{position}].secretName"
            errors.extend(invalid(path, secret, text) for text in names.dns_subdomain(secret))
    return errors


def _host(host: str, path: str) -> list[FieldError]:
    if not host:
        return []
    if names.is_address(host):
        return [invalid(path, host, "must be a DNS name, not an IP address")]
    rule = names.wildcard_subdomain if "*" in host else names.dns_subdomain
    return [invalid(path, host, text) for text in rule(host)]


def _path(entry: Manifest, where: str) -> list[FieldError]:
    kind, path = entry.get("pathType"), entry.get("path") or ""
    if not kind:
        return [required(f"{where}.pathType", "pathType must be specified")]
    if kind not in _PATH_TYPES:
        return [unsupported(f"{where}.pathType", kind, _PATH_TYPES)]
    errors: list[FieldError] = []
    if kind == "ImplementationSpecific":
        if path and not path.startswith("/"):
            errors.append(invalid(f"{where}.path", path, "must be an absolute path"))
        return errors
    if not path.startswith("/"):
        errors.append(invalid(f"{where}.path", path, "must be an absolute path"))
    errors.extend(
        invalid(f"{where}.path", path, f"must not contain '{bad}'")
        for bad in _BAD_SEQUENCES
        if bad in path
    )
    errors.extend(
        invalid(f"{where}.path", path, f"cannot end with '{bad}'")
        for bad in _BAD_ENDINGS
        if path.endswith(bad)
    )
    return errors


def _backend(backend: Manifest, path: str) -> list[FieldError]:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        return [invalid(path, "", "cannot set both resource and service backends")]
    if resource is not None:
        return []
    if service is None:
        return [invalid(path, "", "resource or service backend is required")]
    errors: list[FieldError] = []
    name, port = service.get("name") or "", service.get("port") or {}
    if not name:
        errors.append(required(f"{path}.service.name"))
    else:
        errors.extend(invalid(f"{path}.service.name", name, text) for text in names.dns_label(name))
    if port.get("name") and port.get("number"):
        errors.append(invalid(path, "", "cannot set both port name & port number"))
    elif port.get("name"):
        errors.extend(
            invalid(f"{path}.service.port.name", port["name"], text)
            for text in names.port_name(port["name"])
        )
    elif port.get("number"):
        if not 0 < port["number"] < 65536:
            errors.append(invalid(f"{path}.service.port.number", port["number"], names.PORT_RANGE))
    else:
        errors.append(required(path, "port name or number is required"))
    return errors
