"""An operator of another version, with another pod template, leaves serving pods alone until their inputs change."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from operator_cluster import (
    SETTINGS,
    Api,
    at_rest,
    eventually,
    running_api,
    running_operator,
    scoring_model,
    writes,
)

import scoring_operator.manifests.deployment as deployments
from scoring_operator.api import Kinds
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.manifests.names import TEMPLATE_ANNOTATION
from scoring_operator.manifests.pod import build_pod_template
from scoring_operator.manifests.revision import derive_inputs, derive_revision
from scoring_operator.manifests.template import read_template, record_template
from scoring_operator.settings import Settings

MARK = {"metadata": {"annotations": {"mlscoring.io/rollout": "once more"}}}


def newer(*arguments: Any, **options: Any) -> dict[str, Any]:
    """The pod template of a later version: one variable more."""
    template = copy.deepcopy(build_pod_template(*arguments, **options))
    template["spec"]["containers"][0]["env"].append({"name": "SCORER_NEWS", "value": "1"})
    return template


def has_news(deployment: dict[str, Any]) -> bool:
    variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return "SCORER_NEWS" in [v["name"] for v in variables]


async def serving(api: Api, name: str = "faq") -> dict[str, Any]:
    return await eventually(lambda: api.get(Kinds.DEPLOYMENT, name), f"Deployment {name}")


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch):
    return lambda: monkeypatch.setattr(deployments, "build_pod_template", newer)


async def serve_until(api: Api, upgrade: Any) -> dict[str, Any]:
    """Have a model served by an operator that is then replaced by a newer one; the Deployment it left."""
    await api.create(scoring_model())
    async with running_operator(api.kubeconfig) as operator:
        before = await serving(api)
        await at_rest(operator)
    upgrade()
    return before


async def test_a_newer_operator_writes_nothing_and_rolls_nothing(tmp_path: Path, upgrade) -> None:
    async with running_api(tmp_path) as api:
        canary = {"modelURI": "https://models.example.com/next.joblib", "weight": 10}
        await api.create(scoring_model(canary=canary))
        async with running_operator(api.kubeconfig) as operator:
            await serving(api, "faq-canary")
            await at_rest(operator)
        before = [await serving(api, name) for name in ("faq", "faq-canary")]
        upgrade()
        async with running_operator(api.kubeconfig) as operator:
            await at_rest(operator)
            assert writes(operator) == 0
        assert [await serving(api, name) for name in ("faq", "faq-canary")] == before


async def test_after_an_upgrade_other_wishes_are_met_with_the_template_that_is_there(
    tmp_path: Path, upgrade
) -> None:
    async with running_api(tmp_path) as api:
        before = await serve_until(api, upgrade)
        async with running_operator(api.kubeconfig):
            spec = {"replicas": 3, "rollout": {"strategy": "InPlace"}}
            await api.patch(Kinds.SCORING_MODEL, "faq", {"spec": spec})

            async def scaled() -> Any:
                now = await serving(api)
                return now if now["spec"]["replicas"] == 3 else None

            after = await eventually(scaled)
        assert after["spec"]["strategy"] != before["spec"]["strategy"]
        assert after["spec"]["template"] == before["spec"]["template"]


async def test_after_an_upgrade_a_change_by_hand_is_undone_with_the_template_that_was_there(
    tmp_path: Path, upgrade
) -> None:
    async with running_api(tmp_path) as api:
        before = await serve_until(api, upgrade)
        async with running_operator(api.kubeconfig):
            scorer = {"name": "scorer", "image": "elsewhere.example.com/scorer:1"}
            path = Kinds.DEPLOYMENT.path("default", "faq")
            await api.client.call(
                "PATCH",
                path,
                query={"fieldManager": "kubectl-edit"},
                body={"spec": {"template": {"spec": {"containers": [scorer]}}}},
                content_type="application/strategic-merge-patch+json",
            )

            async def undone() -> bool:
                return (await serving(api))["spec"]["template"] == before["spec"]["template"]

            await eventually(undone)


@pytest.mark.parametrize(
    "patch", [{"spec": {"limits": {"timeoutSeconds": 30}}}, MARK], ids=["spec", "annotation"]
)
async def test_a_change_of_the_inputs_brings_the_newer_template(
    tmp_path: Path, upgrade, patch: dict[str, Any]
) -> None:
    async with running_api(tmp_path) as api:
        await api.create(scoring_model())
        async with running_operator(api.kubeconfig) as operator:
            await serving(api)
            await at_rest(operator)
        upgrade()
        async with running_operator(api.kubeconfig) as operator:
            await at_rest(operator)
            assert not has_news(await serving(api))
            await api.patch(Kinds.SCORING_MODEL, "faq", patch)

            async def rolled() -> bool:
                return has_news(await serving(api))

            await eventually(rolled)


async def test_another_scorer_image_in_the_settings_brings_the_newer_template(
    tmp_path: Path, upgrade
) -> None:
    async with running_api(tmp_path) as api:
        await api.create(scoring_model())
        async with running_operator(api.kubeconfig) as operator:
            await serving(api)
            await at_rest(operator)
        upgrade()
        settings = replace(SETTINGS, images={"cpu": "mlscoring/scorer:0.2.0"})
        async with running_operator(api.kubeconfig, settings) as operator:
            await at_rest(operator)
        assert has_news(await serving(api))


async def test_a_record_that_somebody_else_wrote_is_not_believed(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.create(scoring_model())
        async with running_operator(api.kubeconfig) as operator:
            before = await serving(api)
            await at_rest(operator)
        forged = json.loads(before["metadata"]["annotations"][TEMPLATE_ANNOTATION])
        forged["spec"]["containers"][0]["image"] = "elsewhere.example.com/scorer:1"
        annotations = {TEMPLATE_ANNOTATION: json.dumps(forged)}
        await api.patch(Kinds.DEPLOYMENT, "faq", {"metadata": {"annotations": annotations}})
        async with running_operator(api.kubeconfig) as operator:
            await at_rest(operator)
        after = await serving(api)
        assert after["spec"]["template"] == before["spec"]["template"]
        assert after["metadata"]["annotations"] == before["metadata"]["annotations"]


def test_a_record_is_read_back_only_for_its_own_revision() -> None:
    template = {"metadata": {"labels": {"mlscoring.io/revision": "r1"}}, "spec": {"a": "ü"}}
    record = record_template(template)
    assert record is not None
    assert read_template(record, "r1") == template
    assert read_template(record, "r2") is None
    for nonsense in ("", "{", "[]", '{"metadata": 1}', "null"):
        assert read_template(nonsense, "r1") is None


def test_a_template_too_large_for_an_annotation_goes_without_a_record(model) -> None:
    large = model(test={"request": {"input": "x" * 300_000}})
    children = build_children(large, SETTINGS, plan_exposure(large, SETTINGS), Wishes())
    deployment = next(m for m in children.manifests if m["kind"] == "Deployment")
    assert "annotations" not in deployment["metadata"]


CANARY = {"modelURI": "https://h/2", "weight": 5}
#: Everything that can be said of a model, and whether its pods are others then.
SPECS: dict[str, tuple[dict[str, Any], bool]] = {
    "modelURI": ({"modelURI": "https://h/other"}, True),
    "framework": ({"framework": "onnx"}, True),
    "device": ({"device": "gpu"}, True),
    "sha256": ({"sha256": "a" * 64}, True),
    "storage.secretName": ({"storage": {"secretName": "s"}}, True),
    "storage.serviceAccountName": ({"storage": {"serviceAccountName": "s"}}, True),
    "storage.sizeLimit": ({"storage": {"sizeLimit": "1Gi"}}, True),
    "updatePolicy": ({"updatePolicy": "Always"}, False),
    "signatureKey": ({"signatureKey": {"secretName": "k"}}, True),
    "trustPickle": ({"trustPickle": True}, True),
    "precision": ({"precision": "float16"}, True),
    "gpu": ({"device": "gpu", "gpu": {"resourceName": "amd.com/gpu"}}, True),
    "image": ({"image": "i:1"}, True),
    "imagePullSecrets": ({"imagePullSecrets": [{"name": "p"}]}, True),
    "env": ({"env": [{"name": "A", "value": "b"}]}, True),
    "resources.requests": ({"resources": {"requests": {"cpu": "1"}}}, True),
    "resources.limits": ({"resources": {"limits": {"cpu": "1"}}}, True),
    "nodeSelector": ({"nodeSelector": {"a": "b"}}, True),
    "tolerations": ({"tolerations": [{"key": "a"}]}, True),
    "affinity": ({"affinity": {"nodeAffinity": {"a": 1}}}, True),
    "priorityClassName": ({"priorityClassName": "p"}, True),
    "automountServiceAccountToken": ({"automountServiceAccountToken": True}, True),
    "podMetadata.labels": ({"podMetadata": {"labels": {"a": "b"}}}, True),
    "podMetadata.annotations": ({"podMetadata": {"annotations": {"a": "b"}}}, True),
    "caBundle": ({"caBundle": {"secretName": "c"}}, True),
    "caBundle.key": ({"caBundle": {"secretName": "c", "key": "other.pem"}}, True),
    "replicas": ({"replicas": 2}, False),
    "autoscaling": ({"autoscaling": {"maxReplicas": 2}}, False),
    "rollout": ({"rollout": {"strategy": "Recreate", "progressDeadlineSeconds": 5}}, False),
    "probes": ({"probes": {"startupSeconds": 20}}, True),
    "batching.maxSize": ({"batching": {"maxSize": 1}}, True),
    "batching.maxDelayMilliseconds": ({"batching": {"maxDelayMilliseconds": 1}}, True),
    "limits.requestBytes": ({"limits": {"requestBytes": 1}}, True),
    "limits.timeoutSeconds": ({"limits": {"timeoutSeconds": 1}}, True),
    "limits.queuedRequests": ({"limits": {"queuedRequests": 1}}, True),
    "test.request": ({"test": {"request": 1}}, True),
    "test.request: null": ({"test": {"request": None}}, True),
    "test.expect": ({"test": {"request": 1, "expect": 2}}, True),
    "exposure": ({"exposure": "ClusterInternal"}, False),
    "ingress": ({"ingress": {"host": "a.example.com"}}, False),
    "gateway": ({"gateway": {"parentRef": {"name": "g"}}}, False),
    "auth.mode": ({"auth": {"mode": "None"}}, True),
    "auth.secretName": ({"auth": {"secretName": "mine"}}, True),
    "canary": ({"canary": CANARY}, False),
}
#: The same of the operator's settings; for a model that they are about.
SETTING_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "images": ({}, {"images": {"cpu": "i:2"}}, True),
    "images of others": ({}, {"images": {"gpu": "i:2", "onnx-cpu": "i:3"}}, False),
    "requests": ({}, {"requests": {"cpu": "1", "memory": "1Gi"}}, True),
    "requests that the spec overrides": (
        {"resources": {"requests": {"cpu": "2", "memory": "1Gi"}}},
        {"requests": {"cpu": "1"}},
        False,
    ),
    "limits": ({}, {"limits": {"memory": "3Gi"}}, True),
    "gpu_tolerations": ({"device": "gpu"}, {"gpu_tolerations": ({"key": "x"},)}, True),
    "gpu_tolerations without a GPU": ({}, {"gpu_tolerations": ({"key": "x"},)}, False),
    "workload_identity": (
        {"storage": {"serviceAccountName": "s"}},
        {"workload_identity": True},
        True,
    ),
    "workload_identity without an account": ({}, {"workload_identity": True}, False),
    "install_requirements": ({}, {"install_requirements": True}, True),
    "pip_index_url": ({}, {"install_requirements": True, "pip_index_url": "https://i"}, True),
    "pip_index_url unused": ({}, {"pip_index_url": "https://i"}, False),
    "model_cache_path": ({}, {"model_cache_path": "/var/m"}, True),
    "run_as_user": ({}, {"run_as_user": 7}, True),
    "pre_stop_seconds": ({}, {"pre_stop_seconds": 7}, True),
    "drain_seconds": ({}, {"drain_seconds": 7}, True),
    "ingress_class": ({}, {"ingress_class": "x", "base_domain": "b.example.com"}, False),
    "url_port": ({}, {"url_port": 8443}, False),
    "ingress_controller": ({}, {"ingress_controller": "x"}, False),
    "ingress_annotations": ({}, {"ingress_annotations": {"a": "b"}}, False),
    "network_policy": ({}, {"network_policy": "Ingress", "network_policy_from": ("a",)}, False),
    "network_policy_metrics_from": ({}, {"network_policy_metrics_from": ("a",)}, False),
    "operator_namespace": ({}, {"operator_namespace": "o"}, False),
    "prometheus_url": ({}, {"prometheus_url": "http://p", "keda_authentication": "k"}, False),
    "gateway, issuer": ({}, {"gateway": None, "issuer": None}, False),
    "certificate_days": ({}, {"certificate_days": 7}, False),
    "workers": ({}, {"workers": 2}, False),
    "revision_history": ({}, {"revision_history": 2}, False),
}


def compare(one: Any, other: Any, *, differ: bool) -> None:
    """The builder and the list of inputs agree on whether there are other pods."""
    templates = [
        build_pod_template(model, settings, revision="", canary=None)
        for model, settings in (one, other)
    ]
    assert (templates[0] != templates[1]) == differ, "the pod template"
    assert (derive_revision(*one) != derive_revision(*other)) == differ, "the revision"


@pytest.mark.parametrize("name", SPECS)
def test_the_inputs_of_a_revision_are_the_fields_that_shape_its_pods(model, name: str) -> None:
    spec, differ = SPECS[name]
    base = {"device": "gpu"} if name == "gpu" else {}
    base = {"caBundle": {"secretName": "c"}} if name == "caBundle.key" else base
    base = {"test": {"request": 1}} if name == "test.expect" else base
    compare((model(**base), Settings()), (model(**spec), Settings()), differ=differ)


@pytest.mark.parametrize("name", SETTING_CASES)
def test_the_inputs_of_a_revision_are_the_settings_that_shape_its_pods(model, name: str) -> None:
    spec, changed, differ = SETTING_CASES[name]
    base = Settings(install_requirements=name == "pip_index_url")
    compare((model(**spec), base), (model(**spec), replace(base, **changed)), differ=differ)


def test_every_setting_is_said_to_be_an_input_or_none() -> None:
    told = " ".join([*SETTING_CASES, *(k for _, c, _ in SETTING_CASES.values() for k in c)])
    assert [name for name in Settings.__dataclass_fields__ if name not in told] == []


def test_a_canary_is_a_revision_of_its_own(model) -> None:
    both = model(canary={"modelURI": model().model_uri, "weight": 5})
    assert derive_revision(both, SETTINGS) == derive_revision(model(), SETTINGS)
    assert derive_revision(both, SETTINGS, both.canary) != derive_revision(both, SETTINGS)
    assert both.canary is not None
    others = [replace(both.canary, model_uri="https://h/2"), replace(both.canary, sha256="a" * 64)]
    revisions = {derive_revision(both, SETTINGS, c) for c in (both.canary, *others)}
    assert len(revisions) == 3
    heavier = replace(both.canary, weight=50)
    assert derive_revision(both, SETTINGS, heavier) in revisions


def test_fields_that_a_later_version_adds_are_no_inputs_while_they_have_their_defaults(
    model,
) -> None:
    inputs = derive_inputs(model(), Settings(), None)
    assert set(inputs) == {"model_uri", "framework", "image", "resources", "keys"}
