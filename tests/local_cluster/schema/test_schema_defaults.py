"""Coded defaults of built-in kinds, quantities, and what JSON bodies repeat."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from local_cluster.quantities import format_quantity, parse_quantity
from local_cluster.schema import (
    Catalog,
    Schema,
    apply_defaults,
    duplicate_fields,
    prune,
)

SchemaOf = Callable[[str, str], Schema]


def _default(obj: dict[str, Any], schema_of: SchemaOf) -> dict[str, Any]:
    group, _, version = obj["apiVersion"].rpartition("/")
    schema = schema_of(obj["apiVersion"], obj["kind"])
    filled = apply_defaults(obj, schema, group, version, obj["kind"])
    assert apply_defaults(filled, schema, group, version, obj["kind"]) == filled, (
        "defaults must be idempotent"
    )
    return filled


def _pod(**container: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {},
        "spec": {"containers": [{"name": "c", **container}]},
    }


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("x", "Always"),
        ("x:latest", "Always"),
        ("x:1", "IfNotPresent"),
        ("registry:5000/x", "Always"),
        ("registry:5000/x:2", "IfNotPresent"),
        ("x@sha256:0", "IfNotPresent"),
    ],
)
def test_pull_policy_follows_the_tag(image: str, policy: str, schema_of: SchemaOf) -> None:
    pod = _default(_pod(image=image), schema_of)
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_pod_requests_follow_limits_and_quantities_become_canonical(schema_of: SchemaOf) -> None:
    pod = _default(
        _pod(
            resources={"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": {"cpu": "0.5"}}
        ),
        schema_of,
    )
    assert pod["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "1", "memory": "1Gi"},
        "requests": {"cpu": "500m", "memory": "1Gi"},
    }


def test_probe_and_environment_defaults(schema_of: SchemaOf) -> None:
    env = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    pod = _default(_pod(readinessProbe={"httpGet": {"port": "http"}}, env=env), schema_of)
    container = pod["spec"]["containers"][0]
    assert container["readinessProbe"] == {
        "httpGet": {"path": "/", "port": "http", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"


def test_volume_defaults(schema_of: SchemaOf) -> None:
    pod = _pod()
    pod["spec"]["volumes"] = [
        {"name": "a"},
        {"name": "b", "secret": {"secretName": "s"}},
        {"name": "c", "emptyDir": {}},
    ]
    volumes = _default(pod, schema_of)["spec"]["volumes"]
    assert volumes == [
        {"name": "a", "emptyDir": {}},
        {"name": "b", "secret": {"secretName": "s", "defaultMode": 420}},
        {"name": "c", "emptyDir": {}},
    ]


def test_autoscaler_behavior_is_filled_when_given(schema_of: SchemaOf) -> None:
    spec = {
        "maxReplicas": 2,
        "scaleTargetRef": {"kind": "Deployment", "name": "w"},
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
    }
    hpa = _default(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {},
            "spec": spec,
        },
        schema_of,
    )
    behavior = hpa["spec"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert [policy["type"] for policy in behavior["scaleUp"]["policies"]] == ["Pods", "Percent"]
    assert behavior["scaleDown"] == {
        "stabilizationWindowSeconds": 5,
        "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    }
    assert hpa["spec"]["minReplicas"] == 1


def test_secret_string_data_becomes_data(schema_of: SchemaOf) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {},
        "data": {"a": "MQ=="},
        "stringData": {"b": "2"},
    }
    assert _default(secret, schema_of) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {},
        "type": "Opaque",
        "data": {"a": "MQ==", "b": "Mg=="},
    }


def test_namespace_gets_its_finalizer_and_name_label(schema_of: SchemaOf) -> None:
    space = _default(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}}, schema_of
    )
    assert space["spec"] == {"finalizers": ["kubernetes"]}
    assert space["status"] == {"phase": "Active"}
    assert space["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team-a"}


def test_nulls_and_empty_collections_of_built_in_kinds_are_dropped(schema_of: SchemaOf) -> None:
    template = {
        "metadata": {"creationTimestamp": None, "labels": {}},
        "spec": {"containers": [{"name": "c", "args": []}]},
    }
    rs = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"creationTimestamp": None},
        "spec": {"template": template},
    }
    filled = _default(rs, schema_of)
    assert filled["metadata"] == {}
    assert filled["spec"]["template"]["metadata"] == {}
    assert "args" not in filled["spec"]["template"]["spec"]["containers"][0]


def test_every_built_in_kind_can_be_compiled_and_defaulted() -> None:
    catalog = Catalog.builtin()
    kinds = [
        ("", "v1", "ConfigMap"), ("", "v1", "Node"), ("", "v1", "PersistentVolumeClaim"), ("apps", "v1", "StatefulSet"),
        ("apps", "v1", "DaemonSet"), ("batch", "v1", "CronJob"), ("networking.k8s.io", "v1", "NetworkPolicy"),
        ("rbac.authorization.k8s.io", "v1", "ClusterRole"), ("events.k8s.io", "v1", "Event"),
        ("autoscaling", "v1", "HorizontalPodAutoscaler"), ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration"),
    ]  # fmt: skip
    for gvk in kinds:
        schema = catalog.schema(*gvk)
        assert schema is not None, gvk
        obj = {
            "apiVersion": "/".join(gvk[:2]).lstrip("/"),
            "kind": gvk[2],
            "metadata": {"name": "x"},
        }
        assert prune(obj, schema) == (obj, [])
        filled = apply_defaults(obj, schema, *gvk)
        assert apply_defaults(filled, schema, *gvk) == filled
    assert catalog.schema("", "v1", "Nothing") is None
    assert catalog.schema("nowhere.example.com", "v1", "Nothing") is None


def test_recursive_types_keep_their_fields() -> None:
    schema = Catalog.builtin().schema("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
    assert schema is not None
    node = schema.properties["spec"].properties["versions"].items
    assert node is not None
    root = node.properties["schema"].properties["openAPIV3Schema"]
    inner = root.properties["not"].properties["properties"].additional
    assert inner is not None
    assert "x-kubernetes-validations" in inner.properties


@pytest.mark.parametrize(
    ("text", "value", "canonical"),
    [
        ("100m", "0.1", "100m"),
        ("0.5", "0.5", "500m"),
        ("1000m", "1", "1"),
        ("2Gi", str(2 * 2**30), "2Gi"),
        ("1.5Gi", str(3 * 2**29), "1536Mi"),
        ("1e3", "1000", "1e3"),
        ("12E", "12E18", "12E"),
        (".5", "0.5", "500m"),
        ("-1", "-1", "-1"),
        (5, "5", "5"),
    ],
)
def test_quantity_is_parsed_and_printed(text: str | int, value: str, canonical: str) -> None:
    assert parse_quantity(text) == Decimal(value)
    assert format_quantity(text) == canonical
    assert parse_quantity(canonical) == Decimal(value)


@pytest.mark.parametrize("text", ["", "x", "1x", "1 Gi", "Gi", "--1", "1.2.3"])
def test_text_that_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        parse_quantity(text)


def test_fields_that_come_twice_are_found_at_any_depth() -> None:
    body = '{"spec": {"a": 1, "a": 2, "l": [{"b": 1, "b": 2}]}, "spec2": {}}'
    assert duplicate_fields(body) == ["spec.a", "spec.l[0].b"]


def test_unknown_fields_of_built_in_kinds_are_named(schema_of: SchemaOf) -> None:
    pod = _pod(imagee="x")
    pod["spec"]["nodename"] = "n"
    pruned, unknown = prune(pod, schema_of("v1", "Pod"))
    assert unknown == ["spec.containers[0].imagee", "spec.nodename"]
    assert pruned["spec"] == {"containers": [{"name": "c"}]}
