"""Each field of the spec, from the YAML of a user to the child object that it ends in, and to the page that explains it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from operator_cluster import ROOT

from local_cluster.schema import apply_defaults, crd_schema, prune, validate
from scoring_operator.api import Kinds, parse_scoring_model
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.settings import Settings

CRD: dict[str, Any] = yaml.safe_load((ROOT / "crds" / "scoringmodels.yaml").read_text())
SPEC = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
PAGE = (ROOT / "docs" / "scoringmodel.md").read_text()
SETTINGS = Settings(base_domain="models.example.com", prometheus_url="http://prometheus.test")

POD = "Deployment faq: spec.template.spec"
FETCH, SCORER = f"{POD}.initContainers[fetch]", f"{POD}.containers[scorer]"
HPA = "HorizontalPodAutoscaler faq: spec"
INGRESS = "Ingress faq"
ROUTE = "HTTPRoute faq"
KEY_REF = "{name: n, key: k, optional: true}"
AFFINITY = "{preferredDuringSchedulingIgnoredDuringExecution: []}"
SCALING = (
    "{minReplicas: 2, maxReplicas: 5, targetCPUUtilizationPercent: 61, targetInFlightRequests: 7, "
)
SCALING += "scaleDownDelaySeconds: 77}"
ISSUER = "ingress: {tls: {issuerRef: {name: ours, kind: Issuer, group: ca.example.com}}}"
GATEWAY = "gateway: {parentRef: {name: g, namespace: infra, sectionName: https}, hostname: f.example.com, "
GATEWAY += "httpSectionName: http}"
CANARY = f"canary: {{modelURI: 'https://h/2', sha256: {'b' * 64}, weight: 30}}"
TOLERATIONS = (
    "tolerations: [{key: a, operator: Equal, value: b, effect: NoExecute, tolerationSeconds: 9}]"
)

#: Path of the field: the YAML that sets it, where it ends, and what is there.
FIELDS: dict[str, tuple[str, str, Any]] = {
    "modelURI": ("modelURI: 'https://h/x'", f"{FETCH}.env[SCORER_MODEL_URI].value", "https://h/x"),
    "framework": ("framework: onnx", f"{SCORER}.env[SCORER_FRAMEWORK].value", "onnx"),
    "device": ("device: gpu", f"{SCORER}.resources.limits.nvidia\\.com/gpu", "1"),
    "sha256": (f"sha256: {'a' * 64}", f"{FETCH}.env[SCORER_MODEL_SHA256].value", "a" * 64),
    "storage.secretName": (
        "storage: {secretName: s}",
        f"{FETCH}.envFrom[0].secretRef.name",
        "s",
    ),
    "storage.serviceAccountName": (
        "storage: {serviceAccountName: s}",
        f"{POD}.serviceAccountName",
        "s",
    ),
    "storage.sizeLimit": (
        "storage: {sizeLimit: 5Gi}",
        f"{POD}.volumes[model].emptyDir.sizeLimit",
        "5Gi",
    ),
    "trustPickle": ("trustPickle: true", f"{SCORER}.env[SCORER_TRUST_PICKLE].value", "true"),
    "precision": (
        "{framework: onnx, precision: float16}",
        f"{SCORER}.env[SCORER_PRECISION].value",
        "float16",
    ),
    "gpu.resourceName": (
        "{device: gpu, gpu: {resourceName: nvidia.com/mig-1g.5gb}}",
        f"{SCORER}.resources.limits.nvidia\\.com/mig-1g\\.5gb",
        "1",
    ),
    "image": ("image: 'r.example.com/s:1'", f"{SCORER}.image", "r.example.com/s:1"),
    "imagePullSecrets[].name": (
        "imagePullSecrets: [{name: p}]",
        f"{POD}.imagePullSecrets[0].name",
        "p",
    ),
    "env[].name": ("env: [{name: A, value: b}]", f"{SCORER}.env[A].name", "A"),
    "env[].value": ("env: [{name: A, value: b}]", f"{SCORER}.env[A].value", "b"),
    **{
        f"env[].valueFrom.{ref}.{leaf}": (
            f"env: [{{name: A, valueFrom: {{{ref}: {KEY_REF}}}}}]",
            f"{SCORER}.env[A].valueFrom.{ref}.{leaf}",
            value,
        )
        for ref in ("secretKeyRef", "configMapKeyRef")
        for leaf, value in {"name": "n", "key": "k", "optional": True}.items()
    },
    "resources.requests": (
        "resources: {requests: {cpu: 2}}",
        f"{SCORER}.resources.requests.cpu",
        "2",
    ),
    "resources.limits": (
        "resources: {limits: {memory: 9Gi}}",
        f"{SCORER}.resources.limits.memory",
        "9Gi",
    ),
    "nodeSelector": ("nodeSelector: {a: b}", f"{POD}.nodeSelector", {"a": "b"}),
    **{
        f"tolerations[].{leaf}": (TOLERATIONS, f"{POD}.tolerations[0].{leaf}", value)
        for leaf, value in {
            "key": "a",
            "operator": "Equal",
            "value": "b",
            "effect": "NoExecute",
            "tolerationSeconds": 9,
        }.items()
    },
    **{
        f"affinity.{kind}": (
            f"affinity: {{{kind}: {AFFINITY}}}",
            f"{POD}.affinity.{kind}",
            {"preferredDuringSchedulingIgnoredDuringExecution": []},
        )
        for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")
    },
    "priorityClassName": ("priorityClassName: p", f"{POD}.priorityClassName", "p"),
    "automountServiceAccountToken": (
        "automountServiceAccountToken: true",
        f"{POD}.automountServiceAccountToken",
        True,
    ),
    "podMetadata.labels": (
        "podMetadata: {labels: {a: b}}",
        "Deployment faq: spec.template.metadata.labels.a",
        "b",
    ),
    "podMetadata.annotations": (
        "podMetadata: {annotations: {a: b}}",
        "Deployment faq: spec.template.metadata.annotations.a",
        "b",
    ),
    **{
        f"{name}.{leaf}": (f"{name}: {{{leaf}: f}}", f"{POD}.volumes[{volume}].{at}", "f")
        for name, volume in (("signatureKey", "signature"), ("caBundle", "ca"))
        for leaf, at in (("configMapName", "configMap.name"), ("secretName", "secret.secretName"))
    },
    "signatureKey.key": (
        "signatureKey: {secretName: f, key: my.pem}",
        f"{FETCH}.env[SCORER_SIGNATURE_KEY].value",
        "/etc/scorer/signature/my.pem",
    ),
    "caBundle.key": (
        "caBundle: {secretName: f, key: my.pem}",
        f"{SCORER}.env[SSL_CERT_FILE].value",
        "/etc/scorer/ca/my.pem",
    ),
    "replicas": ("replicas: 4", "Deployment faq: spec.replicas", 4),
    "autoscaling.minReplicas": (f"autoscaling: {SCALING}", f"{HPA}.minReplicas", 2),
    "autoscaling.maxReplicas": (f"autoscaling: {SCALING}", f"{HPA}.maxReplicas", 5),
    "autoscaling.targetCPUUtilizationPercent": (
        f"autoscaling: {SCALING}",
        f"{HPA}.metrics[0].resource.target.averageUtilization",
        61,
    ),
    "autoscaling.targetInFlightRequests": (
        f"autoscaling: {SCALING}",
        f"{HPA}.metrics[1].pods.target.averageValue",
        "7",
    ),
    "autoscaling.scaleDownDelaySeconds": (
        f"autoscaling: {SCALING}",
        f"{HPA}.behavior.scaleDown.stabilizationWindowSeconds",
        77,
    ),
    "autoscaling.autoscaler": (
        "autoscaling: {maxReplicas: 5, autoscaler: KEDA}",
        "ScaledObject faq: spec.maxReplicaCount",
        5,
    ),
    "rollout.strategy": (
        "rollout: {strategy: Recreate}",
        "Deployment faq: spec.strategy.type",
        "Recreate",
    ),
    "rollout.progressDeadlineSeconds": (
        "rollout: {progressDeadlineSeconds: 99}",
        "Deployment faq: spec.progressDeadlineSeconds",
        99,
    ),
    "probes.startupSeconds": (
        "probes: {startupSeconds: 40}",
        f"{SCORER}.startupProbe.failureThreshold",
        20,
    ),
    **{
        path: (
            "{{{}: {{{}: 17}}}}".format(*path.split(".")),
            f"{SCORER}.env[{variable}].value",
            "17",
        )
        for path, variable in {
            "batching.maxSize": "SCORER_MAX_BATCH_SIZE",
            "batching.maxDelayMilliseconds": "SCORER_MAX_BATCH_DELAY_MS",
            "limits.timeoutSeconds": "SCORER_TIMEOUT_SECONDS",
            "limits.queuedRequests": "SCORER_MAX_QUEUED_REQUESTS",
        }.items()
    },
    "limits.requestBytes": (
        "limits: {requestBytes: 2048}",
        f"{SCORER}.env[SCORER_MAX_BODY_BYTES].value",
        "2048",
    ),
    "test.request": (
        "test: {request: [1]}",
        f"{SCORER}.env[SCORER_SAMPLE].value",
        '{"request":[1]}',
    ),
    "test.expect": (
        "test: {request: 1, expect: {a: 2}}",
        f"{SCORER}.env[SCORER_SAMPLE].value",
        '{"request":1,"expect":{"a":2}}',
    ),
    "exposure": ("exposure: ClusterInternal", INGRESS, None),
    "ingress.host": (
        "ingress: {host: f.example.com}",
        f"{INGRESS}: spec.rules[0].host",
        "f.example.com",
    ),
    "ingress.className": ("ingress: {className: c}", f"{INGRESS}: spec.ingressClassName", "c"),
    "ingress.annotations": (
        "ingress: {annotations: {a: b}}",
        f"{INGRESS}: metadata.annotations.a",
        "b",
    ),
    "ingress.tls.secretName": (
        "ingress: {tls: {secretName: t}}",
        f"{INGRESS}: spec.tls[0].secretName",
        "t",
    ),
    **{
        f"ingress.tls.issuerRef.{leaf}": (
            ISSUER,
            f"Certificate faq-tls: spec.issuerRef.{leaf}",
            value,
        )
        for leaf, value in {"name": "ours", "kind": "Issuer", "group": "ca.example.com"}.items()
    },
    **{
        f"gateway.parentRef.{leaf}": (GATEWAY, f"{ROUTE}: spec.parentRefs[0].{leaf}", value)
        for leaf, value in {"name": "g", "namespace": "infra", "sectionName": "https"}.items()
    },
    "gateway.hostname": (GATEWAY, f"{ROUTE}: spec.hostnames[0]", "f.example.com"),
    "gateway.httpSectionName": (
        GATEWAY,
        "HTTPRoute faq-redirect: spec.parentRefs[0].sectionName",
        "http",
    ),
    "auth.mode": ("auth: {mode: None}", f"{SCORER}.env[SCORER_AUTH_MODE].value", "None"),
    "auth.secretName": ("auth: {secretName: k}", f"{POD}.volumes[keys].secret.secretName", "k"),
    "canary.modelURI": (
        CANARY,
        "Deployment faq-canary: spec.template.spec.initContainers[fetch].env[SCORER_MODEL_URI].value",
        "https://h/2",
    ),
    "canary.sha256": (
        CANARY,
        "Deployment faq-canary: spec.template.spec.initContainers[fetch].env[SCORER_MODEL_SHA256].value",
        "b" * 64,
    ),
    "canary.weight": (
        CANARY,
        "Ingress faq-canary: metadata.annotations.nginx\\.ingress\\.kubernetes\\.io/canary-weight",
        "30",
    ),
}
#: Fields that end in no child: they decide what the operator does with what its pods say.
ELSEWHERE = {"updatePolicy": "test_operator_pins.py"}


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, inner in (schema.get("properties") or {}).items():
        yield from leaves(inner, f"{path}.{name}".lstrip("."))
    if isinstance(schema.get("items"), dict):
        yield from leaves(schema["items"], f"{path}[]")
    elif not schema.get("properties"):
        yield path


def build(text: str) -> dict[str, dict[str, Any]]:
    """From the YAML of a user over what the API server stores to the children, by kind and name."""
    spec = {"modelURI": "https://h/m", "framework": "sklearn", **yaml.safe_load(text)}
    manifest: dict[str, Any] = {
        "apiVersion": "mlscoring.io/v1",
        "kind": "ScoringModel",
        "metadata": {"name": "faq", "namespace": "default"},
        "spec": spec,
    }
    schema, kind = crd_schema(CRD, "v1"), ("mlscoring.io", "v1", "ScoringModel")
    pruned, unknown = prune(manifest, schema)
    assert unknown == []
    stored = dict(apply_defaults(pruned, schema, *kind))
    stored["metadata"] |= {"uid": "8f0f3c1e-0000-4000-8000-000000000001", "generation": 1}
    assert validate(stored, schema, *kind, old=None) == []
    model = parse_scoring_model(stored)
    wishes = Wishes(
        replicas=None if model.autoscaling else model.replicas,
        ingress_controller="k8s.io/ingress-nginx",
        canary_serves=True,
        installed=frozenset(Kinds.OPTIONAL_CHILDREN),
    )
    children = build_children(model, SETTINGS, plan_exposure(model, SETTINGS), wishes)
    return {f"{m['kind']} {m['metadata']['name']}": m for m in children.manifests}


def find(value: Any, path: str) -> Any:
    """What a path leads to; `[name]` and `[0]` pick items of lists, `\\.` is a dot in a name."""
    for step in re.findall(r"\[([^\]]+)\]|((?:\\.|[^.\[])+)", path):
        item, name = step[0], step[1].replace("\\.", ".")
        if name:
            value = value[name]
        elif item.isdigit():
            value = value[int(item)]
        else:
            value = next(each for each in value if each["name"] == item)
    return value


def test_the_table_has_every_field() -> None:
    assert set(FIELDS) | set(ELSEWHERE) == set(leaves(SPEC))
    for file in ELSEWHERE.values():
        assert (ROOT / "tests" / "scoring_operator" / file).exists()


@pytest.mark.parametrize("field", FIELDS)
def test_the_field_reaches_its_child(field: str) -> None:
    text, where, expected = FIELDS[field]
    child, _, path = where.partition(": ")
    children = build(text)
    if expected is None:
        assert child not in children
        assert child in build("{}")
        return
    assert find(children[child], path) == expected


def test_every_field_is_used_by_an_example_of_its_page_or_named_there() -> None:
    used: set[str] = set()

    def note(value: Any, path: str) -> None:
        used.add(path)
        if isinstance(value, dict):
            for name, inner in value.items():
                note(inner, f"{path}.{name}".lstrip("."))
        elif isinstance(value, list):
            for inner in value:
                note(inner, f"{path}[]")

    # Lines that an example offers as the other choice count as well.
    page = re.sub(r"^(\s*)# (\w+:)", r"\1\2", PAGE, flags=re.MULTILINE)
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        note(yaml.safe_load(block)["spec"], "")
    named = set(re.findall(r"`([\w.\[\]]+)`", PAGE))
    missing = [f for f in leaves(SPEC) if f not in used and f.replace("[]", "") not in named]
    assert missing == []
