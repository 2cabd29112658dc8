"""What the builders make is valid Kubernetes: its published schemas, strictly, in every supported version."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from operator_cluster import ROOT
from proof_specs import SPECS, manifest
from referencing import Registry, Resource

from local_cluster.schema.crd import crd_schema
from local_cluster.schema.defaults import apply_defaults
from local_cluster.schema.pruning import prune
from local_cluster.schema.validation import validate
from scoring_operator.api import Kinds, parse_scoring_model
from scoring_operator.certificates import make_certificate
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.settings import Settings

VERSIONS = ["1.35.0", "1.36.0", "1.37.0"]
CRD: dict[str, Any] = yaml.safe_load((ROOT / "crds" / "scoringmodels.yaml").read_text())
# These kinds are not part of Kubernetes: their own projects publish their schemas.
OF_OTHERS = {kind.name for kind in Kinds.OPTIONAL_CHILDREN}
CONTROLLERS = [
    None,
    "mlscoring.io/local-ingress",
    "k8s.io/ingress-nginx",
    "webapprouting.kubernetes.azure.com/nginx",
    "nginx.org/ingress-controller",
    "haproxy.org/ingress-controller/haproxy",
    "haproxy-ingress.github.io/controller",
    "azure/application-gateway",
    "traefik.io/ingress-controller",
    "alb.networking.azure.io/alb-controller",
]


def stored(spec: dict[str, Any]) -> dict[str, Any]:
    """The ScoringModel as the API server stores it: pruned, defaulted, validated."""
    schema = crd_schema(CRD, "v1")
    kind = ("mlscoring.io", "v1", "ScoringModel")
    pruned, unknown = prune(manifest(**spec), schema)
    assert unknown == []
    model = apply_defaults(pruned, schema, *kind)
    model["metadata"] |= {"uid": "8f0f3c1e-0000-4000-8000-000000000001", "generation": 1}
    assert validate(model, schema, *kind, old=None) == []
    return dict(model)


def children(spec: dict[str, Any], controller: str | None) -> list[dict[str, Any]]:
    settings = Settings(
        base_domain="models.example.com",
        network_policy="IngressAndEgress",
        network_policy_from=("gateways", "10.0.0.0/8"),
        network_policy_metrics_from=("monitoring",),
        operator_namespace="scoring-system",
        prometheus_url="http://prometheus.monitoring",
        keda_authentication="prometheus",
        workload_identity=True,
        model_cache_path="/var/cache/models",
    )
    model = parse_scoring_model(stored(spec))
    exposure = plan_exposure(model, settings)
    wishes = Wishes(
        replicas=None if model.autoscaling else model.replicas,
        keys={"primary": "p" * 43, "secondary": "s" * 43},
        certificate=pair(exposure.host) if exposure.host else None,
        ingress_controller=controller,
        canary_serves=True,
        pins={"0123456789": "a" * 64},
        installed=frozenset(Kinds.OPTIONAL_CHILDREN),
    )
    return list(build_children(model, settings, exposure, wishes).manifests)


@functools.cache
def pair(host: str) -> tuple[bytes, bytes]:
    from datetime import UTC, datetime

    view = make_certificate(host, days=90, now=datetime(2026, 1, 1, tzinfo=UTC))
    return view.pem, view.key_pem


@functools.cache
def validator(version: str, kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    """A validator that `kubernetes_validate.validate` would make, kept: the definitions are large."""
    folder = importlib.resources.files(kubernetes_validate) / "kubernetes-json-schema"
    folder /= f"v{version}-local-strict"
    group, _, rest = api_version.rpartition("/")
    name = f"{kind.lower()}-{group.partition('.')[0] + '-' if group else ''}{rest}.json"
    schema = json.loads((folder / name).read_text())
    registry: Registry[Any] = definitions(version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def definitions(version: str) -> Registry[Any]:
    folder = importlib.resources.files(kubernetes_validate) / "kubernetes-json-schema"
    text = (folder / f"v{version}-local-strict" / "_definitions.json").read_text()
    return Resource.from_contents(json.loads(text)) @ Registry()


def problems(child: dict[str, Any], version: str) -> list[str]:
    errors = validator(version, child["kind"], child["apiVersion"]).iter_errors(child)
    return [f"{error.json_path}: {error.message}" for error in errors]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", SPECS)
def test_every_child_is_valid_in_every_supported_version(case: str, version: str) -> None:
    found = {
        f"{child['kind']} {child['metadata']['name']}": problems(child, version)
        for child in children(SPECS[case], "k8s.io/ingress-nginx")
        if child["kind"] not in OF_OTHERS
    }
    assert len(found) >= 4
    assert {name: errors for name, errors in found.items() if errors} == {}


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_ingress_of_every_dialect_is_valid(controller: str | None) -> None:
    built = children(SPECS["canary"], controller)
    ingresses = [child for child in built if child["kind"] == "Ingress"]
    assert ingresses
    assert [problems(child, version) for child in ingresses for version in VERSIONS] == [
        [] for _ in ingresses for _ in VERSIONS
    ]


def test_the_shipped_manifests_are_valid() -> None:
    found = {}
    for path in sorted((ROOT / "deploy" / "base").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and "kustomize" not in document["apiVersion"]:
                for version in VERSIONS:
                    found[path.name, document["kind"], version] = problems(document, version)
    assert len(found) >= 15
    assert {at: errors for at, errors in found.items() if errors} == {}


def test_the_schemas_are_strict_down_to_the_last_field() -> None:
    """Without this a validator that accepts everything would prove the tests above."""
    deployment = next(c for c in children({}, None) if c["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readinessProbe"]["htpGet"] = {}
    container["resources"]["limits"]["memory"] = ["2Gi"]
    for version in VERSIONS:
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(deployment, version, strict=True)
        said = " ".join(problems(deployment, version))
        assert "htpGet" in said
        assert "limits.memory" in said


def fields(schema: dict[str, Any], path: str = "") -> set[str]:
    """Paths of all leaves of a structural schema."""
    found: set[str] = set()
    for name, child in (schema.get("properties") or {}).items():
        found |= fields(child, f"{path}.{name}")
    items = schema.get("items")
    if items:
        found |= fields(items, f"{path}[]")
    return found or {path}


def uses(value: Any, path: str = "") -> set[str]:
    """Paths of everything in a value, in the same notation."""
    found = {path}
    if isinstance(value, dict):
        for name, child in value.items():
            found |= uses(child, f"{path}.{name}")
    elif isinstance(value, list):
        for child in value:
            found |= uses(child, f"{path}[]")
    return found


def test_the_table_uses_every_field_of_the_spec() -> None:
    schema = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    used = {path for spec in SPECS.values() for path in uses(manifest(**spec)["spec"])}
    assert fields(schema) - used == set()
