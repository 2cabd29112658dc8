"""Validation of pod specs: the mistakes that people make in containers, ports, environment, probes, volumes and resources."""

from __future__ import annotations

import re
from typing import Any

from local_cluster.quantities import SYNTAX_MESSAGE, parse_quantity
from local_cluster.schema import names
from local_cluster.schema.errors import (
    FieldError,
    duplicate,
    forbidden,
    invalid,
    required,
    unsupported,
)

Manifest = dict[str, Any]

_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_STANDARD_RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage", "storage"})
# https://kubernetes.io/docs/concepts/workloads/pods/downward-api/#available-fields
_POD_FIELDS = frozenset(
    {
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    }
)
_KEYED_FIELD = re.compile(r"metadata\.(labels|annotations)\['.+'\]")
_VOLUME_META = frozenset({"name"})


def validate_pod_spec(spec: Manifest, path: str) -> list[FieldError]:
    """Check a defaulted pod spec.

    Args:
        spec: the spec of a pod or of a template.
        path: where it is, e.g. `spec.template.spec`.
    """
    errors: list[FieldError] = []
    volumes = _volumes(spec.get("volumes") or [], f"{path}.volumes", errors)
    seen: set[str] = set()
    containers = spec.get("containers") or []
    if not containers:
        errors.append(required(f"{path}.containers"))
    for field, items in (
        ("containers", containers),
        ("initContainers", spec.get("initContainers") or []),
    ):
        for position, container in enumerate(items):
            where = f"{path}.{field}[{position}]"
            name = container.get("name")
            if name:
                if name in seen:
                    errors.append(duplicate(f"{where}.name", name))
                seen.add(name)
            init = field == "initContainers"
            _container(
                container,
                where,
                volumes,
                errors,
                init=init,
                grace=spec.get("terminationGracePeriodSeconds", 30),
            )
    grace = spec.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0:
        errors.append(invalid(f"{path}.terminationGracePeriodSeconds", grace, names.NOT_NEGATIVE))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and deadline < 1:
        errors.append(
            invalid(
                f"{path}.activeDeadlineSeconds",
                deadline,
                "must be between 1 and 2147483647, inclusive",
            )
        )
    for field, rule in (
        ("serviceAccountName", names.dns_subdomain),
        ("nodeName", names.dns_subdomain),
        ("hostname", names.dns_label),
        ("subdomain", names.dns_label),
        ("priorityClassName", names.dns_subdomain),
    ):
        value = spec.get(field)
        if value:
            errors.extend(invalid(f"{path}.{field}", value, text) for text in rule(value))
    for key, value in (spec.get("nodeSelector") or {}).items():
        errors.extend(
            invalid(f"{path}.nodeSelector", key, text) for text in names.qualified_name(key)
        )
        errors.extend(
            invalid(f"{path}.nodeSelector", value, text) for text in names.label_value(str(value))
        )
    for position, toleration in enumerate(spec.get("tolerations") or ()):
        _toleration(toleration, f"{path}.tolerations[{position}]", errors)
    _security(spec.get("securityContext") or {}, f"{path}.securityContext", errors)
    return errors


def _container(
    container: Manifest,
    path: str,
    volumes: set[str],
    errors: list[FieldError],
    *,
    init: bool,
    grace: int,
) -> None:
    name = container.get("name")
    if not name:
        errors.append(required(f"{path}.name"))
    else:
        errors.extend(invalid(f"{path}.name", name, text) for text in names.dns_label(name))
    image = container.get("image")
    if not image:
        errors.append(required(f"{path}.image"))
    elif image != image.strip():
        errors.append(
            invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
        )
    _ports(container.get("ports") or (), f"{path}.ports", errors)
    for position, variable in enumerate(container.get("env") or ()):
        _variable(variable, f"{path}.env[{position}]", errors)
    for position, source in enumerate(container.get("envFrom") or ()):
        where = f"{path}.envFrom[{position}]"
        if not source.get("configMapRef") and not source.get("secretRef"):
            errors.append(invalid(where, "", "must specify one of: `configMapRef` or `secretRef`"))
    mounts: set[str] = set()
    for position, mount in enumerate(container.get("volumeMounts") or ()):
        where = f"{path}.volumeMounts[{position}]"
        if not mount.get("name"):
            errors.append(required(f"{where}.name"))
        elif mount["name"] not in volumes:
            text = f'Not found: "{mount["name"]}"'
            errors.append(FieldError(f"{where}.name", "FieldValueNotFound", text))
        target = mount.get("mountPath")
        if not target:
            errors.append(required(f"{where}.mountPath"))
        elif target in mounts:
            errors.append(invalid(f"{where}.mountPath", target, "must be unique"))
        mounts.add(target or "")
        if mount.get("subPath", "").startswith("/"):
            errors.append(invalid(f"{where}.subPath", mount["subPath"], "must be a relative path"))
        if ".." in mount.get("subPath", "").split("/"):
            # Without the mount's position: so says the real server.
            where = f"{path}.volumeMounts.subPath"
            errors.append(invalid(where, mount["subPath"], "must not contain '..'"))
    sidecar = init and container.get("restartPolicy") == "Always"
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(field)
        if probe is None:
            continue
        if init and not sidecar:
            text = "may not be set for init containers without restartPolicy=Always"
            errors.append(forbidden(f"{path}.{field}", text))
            continue
        _probe(probe, f"{path}.{field}", errors)
        if field != "readinessProbe" and probe.get("successThreshold", 1) != 1:
            errors.append(
                invalid(f"{path}.{field}.successThreshold", probe["successThreshold"], "must be 1")
            )
    if container.get("lifecycle") and init and not sidecar:
        errors.append(
            forbidden(
                f"{path}.lifecycle",
                "may not be set for init containers without restartPolicy=Always",
            )
        )
    for hook, action in (container.get("lifecycle") or {}).items():
        if isinstance(action, dict):
            _handler(action, f"{path}.lifecycle.{hook}", errors, (*_HANDLERS[:3], "sleep"))
            seconds = (action.get("sleep") or {}).get("seconds", 0)
            if not 0 <= seconds <= grace:
                text = f"must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                errors.append(invalid(f"{path}.lifecycle.{hook}.sleep", seconds, text))
    validate_resources(container.get("resources") or {}, f"{path}.resources", errors)
    _security(container.get("securityContext") or {}, f"{path}.securityContext", errors)


def _ports(ports: Any, path: str, errors: list[FieldError]) -> None:
    seen: set[str] = set()
    for position, port in enumerate(ports):
        where = f"{path}[{position}]"
        name = port.get("name")
        if name:
            problems = names.port_name(name)
            errors.extend(invalid(f"{where}.name", name, text) for text in problems)
            if not problems and name in seen:
                errors.append(duplicate(f"{where}.name", name))
            seen.add(name)
        number = port.get("containerPort")
        if not number:
            errors.append(required(f"{where}.containerPort"))
        elif not 0 < number < 65536:
            errors.append(invalid(f"{where}.containerPort", number, names.PORT_RANGE))
        host = port.get("hostPort")
        if host and not 0 < host < 65536:
            errors.append(invalid(f"{where}.hostPort", host, names.PORT_RANGE))


def _variable(variable: Manifest, path: str, errors: list[FieldError]) -> None:
    name = variable.get("name")
    if not name:
        errors.append(required(f"{path}.name"))
    else:
        errors.extend(invalid(f"{path}.name", name, text) for text in names.environment_name(name))
    source = variable.get("valueFrom")
    if source is None:
        return
    kinds = [kind for kind in source if source[kind] is not None]
    where = f"{path}.valueFrom"
    if not kinds:
        choices = (
            "`fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        )
        errors.append(invalid(where, "", f"must specify one of: {choices}"))
    elif variable.get("value"):
        errors.append(invalid(where, "", "may not be specified when `value` is not empty"))
    elif len(kinds) > 1:
        errors.append(invalid(where, "", "may not have more than one field specified at a time"))
    field = (source.get("fieldRef") or {}).get("fieldPath")
    if field and field not in _POD_FIELDS and not _KEYED_FIELD.fullmatch(field):
        text = f"error converting fieldPath: field label not supported: {field}"
        errors.append(invalid(f"{where}.fieldRef.fieldPath", field, text))
    for kind in ("configMapKeyRef", "secretKeyRef"):
        reference = source.get(kind)
        if reference is not None:
            if not reference.get("name"):
                errors.append(required(f"{where}.{kind}.name"))
            if not reference.get("key"):
                errors.append(required(f"{where}.{kind}.key"))


def _probe(probe: Manifest, path: str, errors: list[FieldError]) -> None:
    _handler(probe, path, errors, _HANDLERS)
    for field in (
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ):
        value = probe.get(field)
        if value is not None and value < 0:
            errors.append(invalid(f"{path}.{field}", value, names.NOT_NEGATIVE))
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and grace <= 0:
        errors.append(invalid(f"{path}.terminationGracePeriodSeconds", grace, names.POSITIVE))


def _handler(action: Manifest, path: str, errors: list[FieldError], kinds: tuple[str, ...]) -> None:
    found = [kind for kind in kinds if action.get(kind) is not None]
    if not found:
        errors.append(required(path, "must specify a handler type"))
    errors.extend(
        forbidden(f"{path}.{kind}", "may not specify more than 1 handler type")
        for kind in found[1:]
    )
    for kind in found[:1]:
        handler, where = action[kind], f"{path}.{kind}"
        if kind == "exec" and not handler.get("command"):
            errors.append(required(f"{where}.command"))
        if kind == "httpGet":
            if not handler.get("path"):
                errors.append(required(f"{where}.path"))
            if handler.get("scheme") not in ("HTTP", "HTTPS"):
                errors.append(
                    unsupported(f"{where}.scheme", handler.get("scheme"), ("HTTP", "HTTPS"))
                )
        if kind in ("httpGet", "tcpSocket", "grpc"):
            errors.extend(port_errors(handler.get("port"), f"{where}.port"))


def port_errors(port: Any, path: str) -> list[FieldError]:
    """Check a port that is a number or a name."""
    if isinstance(port, str):
        return [invalid(path, port, text) for text in names.port_name(port)]
    if port is None or not 0 < port < 65536:
        return [invalid(path, port if port is not None else 0, names.PORT_RANGE)]
    return []


def validate_resources(resources: Manifest, path: str, errors: list[FieldError]) -> None:
    """Check requests and limits against each other."""
    limits = resources.get("limits") or {}
    for field in ("limits", "requests"):
        for name, amount in (resources.get(field) or {}).items():
            where = f"{path}.{field}"
            problems = names.qualified_name(name)
            errors.extend(invalid(where, name, text) for text in problems)
            standard = name in _STANDARD_RESOURCES or name.startswith("hugepages-")
            if not problems and "/" not in name and not standard:
                errors.append(
                    invalid(
                        f"{where}[{name}]",
                        name,
                        "must be a standard resource type or fully qualified",
                    )
                )
                errors.append(
                    invalid(f"{where}[{name}]", name, "must be a standard resource for containers")
                )
            try:
                value = parse_quantity(amount)
            except ValueError:
                errors.append(invalid(f"{where}[{name}]", amount, SYNTAX_MESSAGE))
                continue
            if value < 0:
                errors.append(invalid(f"{where}[{name}]", amount, names.NOT_NEGATIVE))
            if not standard and value != value.to_integral_value():
                errors.append(invalid(f"{where}[{name}]", amount, "must be an integer"))
            if field == "requests" and not problems and "/" in name and name not in limits:
                text = "Limit must be set for non overcommitable resources"
                errors.append(required(f"{path}.limits", text))
            if field == "requests" and name in limits:
                try:
                    limit = parse_quantity(limits[name])
                except ValueError:
                    continue
                if not standard and value != limit:
                    errors.append(
                        invalid(where, amount, f"must be equal to {name} limit of {limits[name]}")
                    )
                elif value > limit:
                    errors.append(
                        invalid(
                            where,
                            amount,
                            f"must be less than or equal to {name} limit of {limits[name]}",
                        )
                    )


def _volumes(volumes: list[Manifest], path: str, errors: list[FieldError]) -> set[str]:
    seen: set[str] = set()
    for position, volume in enumerate(volumes):
        where = f"{path}[{position}]"
        name = volume.get("name")
        if not name:
            errors.append(required(f"{where}.name"))
        else:
            problems = names.dns_label(name)
            errors.extend(invalid(f"{where}.name", name, text) for text in problems)
            if name in seen:
                errors.append(duplicate(f"{where}.name", name))
            seen.add(name)
        kinds = [kind for kind in volume if kind not in _VOLUME_META]
        errors.extend(
            forbidden(f"{where}.{kind}", "may not specify more than 1 volume type")
            for kind in kinds[1:]
        )
        for kind, field in (
            ("secret", "secretName"),
            ("configMap", "name"),
            ("persistentVolumeClaim", "claimName"),
            ("hostPath", "path"),
        ):
            source = volume.get(kind)
            if source is not None and not source.get(field):
                errors.append(required(f"{where}.{kind}.{field}"))
        for kind in ("secret", "configMap", "projected", "downwardAPI"):
            mode = (volume.get(kind) or {}).get("defaultMode")
            if mode is not None and not 0 <= mode <= 0o777:
                text = "must be a number between 0 and 0777 (octal), both inclusive"
                errors.append(invalid(f"{where}.{kind}.defaultMode", mode, text))
    return seen


def _toleration(toleration: Manifest, path: str, errors: list[FieldError]) -> None:
    key, operator = toleration.get("key"), toleration.get("operator")
    if key:
        errors.extend(invalid(f"{path}.key", key, text) for text in names.qualified_name(key))
    elif operator != "Exists":
        text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        errors.append(invalid(f"{path}.operator", operator or "", text))
    if operator == "Exists" and toleration.get("value"):
        errors.append(
            invalid(
                f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'"
            )
        )
    if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
        text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        errors.append(invalid(f"{path}.effect", toleration.get("effect") or "", text))


def _security(context: Manifest, path: str, errors: list[FieldError]) -> None:
    for field in ("runAsUser", "runAsGroup", "fsGroup"):
        value = context.get(field)
        if value is not None and not 0 <= value <= 2**31 - 1:
            errors.append(
                invalid(f"{path}.{field}", value, "must be between 0 and 2147483647, inclusive")
            )
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        errors.append(invalid(path, context, text))
    profile = context.get("seccompProfile")
    if profile is not None:
        kind = profile.get("type")
        if not kind:
            errors.append(
                required(
                    f"{path}.seccompProfile.type", "type is required when seccompProfile is set"
                )
            )
        elif kind == "Localhost" and not profile.get("localhostProfile"):
            text = "must be set when seccomp type is Localhost"
            errors.append(required(f"{path}.seccompProfile.localhostProfile", text))
        elif kind != "Localhost" and profile.get("localhostProfile") is not None:
            text = "can only be set when seccomp type is Localhost"
            errors.append(invalid(f"{path}.seccompProfile", profile, text))
