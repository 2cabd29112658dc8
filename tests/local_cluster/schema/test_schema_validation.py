"""What `validate` refuses in built-in kinds, and in whose words."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from local_cluster.schema import FieldError, Schema, apply_defaults, decode_error, validate

SchemaOf = Callable[[str, str], Schema]

_META = {"name": "web", "namespace": "default"}
_POD = {"containers": [{"name": "c", "image": "x:1"}]}
_OBJECTS: dict[str, dict[str, Any]] = {
    "Deployment": {
        "apiVersion": "apps/v1",
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": _POD},
        },
    },
    "Pod": {"apiVersion": "v1", "spec": _POD},
    "Service": {"apiVersion": "v1", "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}},
    "Secret": {"apiVersion": "v1", "data": {"k": "djE="}},
    "ConfigMap": {"apiVersion": "v1", "data": {"k": "v"}},
    "Ingress": {
        "apiVersion": "networking.k8s.io/v1",
        "spec": {
            "rules": [
                {
                    "host": "a.example.com",
                    "http": {
                        "paths": [
                            {
                                "path": "/",
                                "pathType": "Prefix",
                                "backend": {"service": {"name": "web", "port": {"number": 80}}},
                            }
                        ]
                    },
                }
            ]
        },
    },
    "HorizontalPodAutoscaler": {
        "apiVersion": "autoscaling/v2",
        "spec": {
            "maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        },
    },
    "PodDisruptionBudget": {
        "apiVersion": "policy/v1",
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}},
    },
    "RoleBinding": {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "default"}],
    },
    "ReplicaSet": {
        "apiVersion": "apps/v1",
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": _POD},
        },
    },
    "Job": {
        "apiVersion": "batch/v1",
        "spec": {"template": {"spec": {**_POD, "restartPolicy": "Never"}}},
    },
    "Lease": {"apiVersion": "coordination.k8s.io/v1", "spec": {"leaseDurationSeconds": 15}},
    "EndpointSlice": {
        "apiVersion": "discovery.k8s.io/v1",
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"]}],
    },
    "Namespace": {"apiVersion": "v1"},
    "ServiceAccount": {"apiVersion": "v1"},
}


def _object(kind: str) -> dict[str, Any]:
    return copy.deepcopy({"kind": kind, "metadata": _META, **_OBJECTS[kind]})


def _set(obj: dict[str, Any], path: str, value: Any) -> None:
    parts = path.split("/")
    node: Any = obj
    for part in parts[:-1]:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    last: Any = int(parts[-1]) if isinstance(node, list) else parts[-1]
    if value is None:
        del node[last]
    elif isinstance(node, list) and last == len(node):
        node.append(value)
    else:
        node[last] = value


def _check(
    obj: dict[str, Any], schema_of: SchemaOf, old: dict[str, Any] | None = None
) -> list[FieldError]:
    group, _, version = obj["apiVersion"].rpartition("/")
    schema = schema_of(obj["apiVersion"], obj["kind"])
    gvk = (group, version, obj["kind"])
    new = apply_defaults(obj, schema, *gvk)
    before = apply_defaults(old, schema, *gvk) if old is not None else None
    return validate(new, schema, *gvk, before)


@pytest.mark.parametrize("kind", _OBJECTS)
def test_sound_object_is_accepted(kind: str, schema_of: SchemaOf) -> None:
    assert _check(_object(kind), schema_of) == []
    assert _check(_object(kind), schema_of, _object(kind)) == []


_T = "spec/template/spec"
_C = "spec/template/spec/containers/0"
_CP = "spec.template.spec.containers[0]"
_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end "
    "with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_CASES: list[tuple[str, str, Any, str, str]] = [
    ("Deployment", "metadata/name", "Web_1", "metadata.name", f'Invalid value: "Web_1": {_SUBDOMAIN}'),
    ("Deployment", "metadata/name", None, "metadata.name", "Required value: name or generateName is required"),
    ("Deployment", "spec/selector", None, "spec.selector", "Required value"),
    (
        "Deployment", "spec/selector/matchLabels", {"a": "c"}, "spec.template.metadata.labels",
        'Invalid value: {"a":"b"}: `selector` does not match template `labels`',
    ),
    ("Deployment", "spec/replicas", -1, "spec.replicas", "Invalid value: -1: must be greater than or equal to 0"),
    ("Deployment", f"{_T}/containers", [], "spec.template.spec.containers", "Required value"),
    ("Deployment", f"{_C}/image", None, f"{_CP}.image", "Required value"),
    ("Deployment", f"{_C}/name", None, f"{_CP}.name", "Required value"),
    ("Deployment", f"{_C}/name", "A", f"{_CP}.name", f'Invalid value: "A": {_LABEL}'),
    (
        "Deployment", f"{_T}/containers/1", {"name": "c", "image": "y"}, "spec.template.spec.containers[1].name",
        'Duplicate value: "c"',
    ),
    (
        "Deployment", f"{_C}/ports", [{"containerPort": 70000}], f"{_CP}.ports[0].containerPort",
        "Invalid value: 70000: must be between 1 and 65535, inclusive",
    ),
    (
        "Deployment", f"{_C}/ports", [{"containerPort": 1, "name": "a-very-long-port-name"}], f"{_CP}.ports[0].name",
        'Invalid value: "a-very-long-port-name": must be no more than 15 characters',
    ),
    (
        "Deployment", f"{_C}/imagePullPolicy", "Sometimes", f"{_CP}.imagePullPolicy",
        'Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"',
    ),
    (
        "Deployment", f"{_T}/restartPolicy", "Never", "spec.template.spec.restartPolicy",
        'Unsupported value: "Never": supported values: "Always"',
    ),
    (
        "Deployment", f"{_C}/volumeMounts", [{"name": "v", "mountPath": "/v"}], f"{_CP}.volumeMounts[0].name",
        'Not found: "v"',
    ),
    ("Deployment", f"{_C}/readinessProbe", {}, f"{_CP}.readinessProbe", "Required value: must specify a handler type"),
    (
        "Deployment", f"{_C}/livenessProbe", {"httpGet": {"port": 80}, "successThreshold": 2},
        f"{_CP}.livenessProbe.successThreshold", "Invalid value: 2: must be 1",
    ),
    (
        "Deployment", f"{_C}/resources", {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}, f"{_CP}.resources.requests",
        'Invalid value: "2": must be less than or equal to cpu limit of 1',
    ),
    (
        "Deployment", f"{_C}/resources", {"limits": {"memory": "-1Gi"}}, f"{_CP}.resources.limits[memory]",
        'Invalid value: "-1Gi": must be greater than or equal to 0',
    ),
    (
        "Deployment", f"{_C}/env", [{"name": "a=b"}], f"{_CP}.env[0].name",
        'Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than \'=\'',
    ),
    (
        "Deployment", "spec/strategy", {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}, "spec.strategy.rollingUpdate",
        "Forbidden: may not be specified when strategy `type` is 'Recreate'",
    ),
    (
        "Deployment", "spec/strategy", {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}},
        "spec.strategy.rollingUpdate.maxUnavailable", "Invalid value: 0: may not be 0 when `maxSurge` is 0",
    ),
    (
        "Deployment", "metadata/labels", {"a b": "c"}, "metadata.labels",
        'Invalid value: "a b": name part must consist of alphanumeric characters, \'-\', \'_\' or \'.\', and must start and '
        "end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
        "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
    ),
    ("Service", "spec/ports", [], "spec.ports", "Required value"),
    ("Service", "spec/ports/1", {"port": 81}, "spec.ports[0].name", "Required value"),
    ("Service", "spec/ports/0/port", 0, "spec.ports[0].port", "Invalid value: 0: must be between 1 and 65535, inclusive"),
    (
        "Service", "spec/type", "Public", "spec.type",
        'Unsupported value: "Public": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"',
    ),
    (
        "Secret", "data/a b", "djE=", "data[a b]",
        "Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', "
        " or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
    ),
    ("Secret", "type", "kubernetes.io/tls", "data[tls.crt]", "Required value"),
    (
        "Ingress", "spec/rules/0/host", "127.0.0.1", "spec.rules[0].host",
        'Invalid value: "127.0.0.1": must be a DNS name, not an IP address',
    ),
    ("Ingress", "spec/rules/0/host", "A_b", "spec.rules[0].host", f'Invalid value: "A_b": {_SUBDOMAIN}'),
    (
        "Ingress", "spec/rules/0/http/paths/0/pathType", None, "spec.rules[0].http.paths[0].pathType",
        "Required value: pathType must be specified",
    ),
    (
        "Ingress", "spec/rules/0/http/paths/0/path", "x", "spec.rules[0].http.paths[0].path",
        'Invalid value: "x": must be an absolute path',
    ),
    (
        "Ingress", "spec/rules/0/http/paths/0/backend/service/port", {}, "spec.rules[0].http.paths[0].backend",
        "Required value: port name or number is required",
    ),
    (
        "HorizontalPodAutoscaler", "spec/minReplicas", 5, "spec.maxReplicas",
        "Invalid value: 3: must be greater than or equal to `minReplicas`",
    ),
    ("HorizontalPodAutoscaler", "spec/maxReplicas", 0, "spec.maxReplicas", "Required value: must be set and greater than 0"),
    ("HorizontalPodAutoscaler", "spec/scaleTargetRef/name", "", "spec.scaleTargetRef.name", "Required value"),
    (
        "PodDisruptionBudget", "spec/maxUnavailable", "much", "spec.maxUnavailable",
        "Invalid value: \"much\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or "
        "'93%', regex used for validation is '[0-9]+%')",
    ),
    ("RoleBinding", "subjects/0/namespace", None, "subjects[0].namespace", "Required value"),
    ("Lease", "spec/leaseDurationSeconds", 0, "spec.leaseDurationSeconds", "Invalid value: 0: must be greater than 0"),
    ("EndpointSlice", "endpoints/0/addresses", [], "endpoints[0].addresses", "Required value: must contain at least 1 address"),
    ("Namespace", "metadata/name", "a.b", "metadata.name", 'Invalid value: "a.b": must not contain dots'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "value", "field", "message"), _CASES)
def test_mistake_is_named_by_field_and_cause(
    kind: str, path: str, value: Any, field: str, message: str, schema_of: SchemaOf
) -> None:
    obj = _object(kind)
    _set(obj, path, value)
    assert (field, message) in [(error.field, error.message) for error in _check(obj, schema_of)]


@pytest.mark.parametrize(
    ("kind", "path", "value", "field", "message"),
    [
        (
            "Deployment",
            "spec/selector/matchLabels",
            {"x": "y"},
            "spec.selector",
            "field is immutable",
        ),
        ("Deployment", "metadata/namespace", "other", "metadata.namespace", "field is immutable"),
        ("Secret", "type", "custom", "type", "field is immutable"),
        ("RoleBinding", "roleRef/name", "other", "roleRef", "cannot change roleRef"),
        ("EndpointSlice", "addressType", "IPv6", "addressType", "field is immutable"),
        (
            "Pod",
            "spec/dnsPolicy",
            "Default",
            "spec",
            "pod updates may not change fields other than",
        ),
        (
            "Job",
            "spec/template/spec/containers/0/image",
            "y",
            "spec.template",
            "field is immutable",
        ),
    ],
)
def test_fixed_field_cannot_change(
    kind: str, path: str, value: Any, field: str, message: str, schema_of: SchemaOf
) -> None:
    new = _object(kind)
    _set(new, path, value)
    assert any(
        e.field == field and message in e.message for e in _check(new, schema_of, _object(kind))
    )


def test_immutable_config_map_cannot_change(schema_of: SchemaOf) -> None:
    old = {**_object("ConfigMap"), "immutable": True}
    new = {**copy.deepcopy(old), "data": {"k": "other"}}
    assert _check(new, schema_of, old) == [
        FieldError(
            "data", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set"
        )
    ]


def test_allocated_cluster_ip_cannot_change(schema_of: SchemaOf) -> None:
    old, new = _object("Service"), _object("Service")
    old["spec"]["clusterIP"], new["spec"]["clusterIP"] = "10.0.0.1", "10.0.0.2"
    assert [e.message for e in _check(new, schema_of, old)] == [
        'Invalid value: ["10.0.0.2"]: may not change once set'
    ]


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("spec/replicas", "two", "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        ("spec/paused", 1, "json: cannot unmarshal number into Go struct field DeploymentSpec.spec.paused of type bool"),
        (f"{_T}/containers", {}, "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"),
        (f"{_C}/resources", {"limits": {"cpu": "lots"}}, "quantities must match the regular expression"),
    ],
)  # fmt: skip
def test_value_of_a_wrong_type_cannot_be_decoded(
    path: str, value: Any, problem: str, schema_of: SchemaOf
) -> None:
    obj = _object("Deployment")
    _set(obj, path, value)
    said = decode_error(obj, schema_of("apps/v1", "Deployment"), "apps", "v1", "Deployment")
    assert said is not None
    assert said.startswith(
        f'Deployment in version "v1" cannot be handled as a Deployment: {problem}'
    )


def test_secret_data_that_is_no_base64_cannot_be_decoded(schema_of: SchemaOf) -> None:
    obj = {**_object("Secret"), "data": {"k": "not base64!"}}
    said = decode_error(obj, schema_of("v1", "Secret"), "", "v1", "Secret")
    assert (
        said
        == 'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 3'
    )
