"""Autoscaling by a HorizontalPodAutoscaler or by KEDA, never by both."""

from __future__ import annotations

import pytest
from operator_cluster import at_rest, eventually, running_api, running_operator, scoring_model
from test_operator_extensions import install

from scoring_operator.api import Kinds
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.settings import Settings
from scoring_operator.status import Observed, Reason, derive_status

PROMETHEUS = Settings(prometheus_url="https://prometheus.example.com", keda_authentication="azure")
KEDA = {"autoscaler": "KEDA", "minReplicas": 2, "maxReplicas": 5}


def build(model, settings=PROMETHEUS):
    return build_children(model, settings, plan_exposure(model, settings), Wishes(replicas=None))


def kinds(model, settings=PROMETHEUS):
    found = [m["kind"] for m in build(model, settings).manifests]
    return {k for k in found if k in {"ScaledObject", "HorizontalPodAutoscaler"}}


def autoscaling_condition(model, **observed):
    exposure = plan_exposure(model, PROMETHEUS)
    status = derive_status(model, build(model), exposure, Observed(**observed))
    return next(c for c in status.conditions if c.type == "Autoscaling")


def test_there_is_one_autoscaler_or_the_other(model):
    assert kinds(model(autoscaling=KEDA)) == {"ScaledObject"}
    assert kinds(model(autoscaling={"maxReplicas": 5})) == {"HorizontalPodAutoscaler"}


def test_keda_gets_the_same_bounds_and_targets(model, golden):
    given = model(
        autoscaling={**KEDA, "targetCPUUtilizationPercent": 60, "targetInFlightRequests": 8}
    )
    golden("keda", [m for m in build(given).manifests if m["kind"] == "ScaledObject"])


def test_without_prometheus_keda_scales_by_cpu_and_status_says_so(model):
    given = model(autoscaling={**KEDA, "targetInFlightRequests": 8})
    scaled = next(m for m in build(given, Settings()).manifests if m["kind"] == "ScaledObject")
    assert [t["type"] for t in scaled["spec"]["triggers"]] == ["cpu"]
    found = autoscaling_condition(given, keda=True, prometheus=False)
    assert (found.status, found.reason) == ("False", Reason.METRICS_MISSING)
    assert "KEDA_PROMETHEUS_URL" in found.message


READY = {"status": {"conditions": [{"type": "Ready", "status": "True", "message": "all well"}]}}
FAILING = {"status": {"conditions": [{"type": "Ready", "status": "False", "message": "no query"}]}}


@pytest.mark.parametrize(
    ("observed", "status", "reason"),
    [
        ({"keda": False}, "False", Reason.KEDA_MISSING),
        ({"keda": True}, "Unknown", Reason.PROGRESSING),
        ({"keda": True, "scaled_object": READY}, "True", Reason.READY),
        ({"keda": True, "scaled_object": FAILING}, "False", Reason.METRICS_MISSING),
    ],
)
def test_what_keda_says_is_mirrored(model, observed, status, reason):
    found = autoscaling_condition(model(autoscaling=KEDA), **observed)
    assert (found.status, found.reason) == (status, reason)


def test_requests_in_flight_without_a_custom_metrics_api_are_missing(model):
    given = model(autoscaling={"maxReplicas": 5, "targetInFlightRequests": 8})
    found = autoscaling_condition(given, custom_metrics=False)
    assert (found.status, found.reason) == ("False", Reason.METRICS_MISSING)
    assert "custom.metrics.k8s.io" in found.message


@pytest.fixture
async def api(tmp_path):
    async with running_api(tmp_path) as api:
        yield api


async def condition(api):
    model = await api.must_get(Kinds.SCORING_MODEL, "faq")
    conditions = model.get("status", {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == "Autoscaling"), None)


async def test_changing_to_keda_and_back_keeps_pods_and_never_has_two_autoscalers(api):
    await install(api, Kinds.SCALED_OBJECT)
    async with running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model(autoscaling={"minReplicas": 2, "maxReplicas": 5}))
        await eventually(lambda: api.get(Kinds.AUTOSCALER, "faq"))
        await at_rest(operator)
        for change, wanted, other in (
            ("KEDA", Kinds.SCALED_OBJECT, Kinds.AUTOSCALER),
            ("HPA", Kinds.AUTOSCALER, Kinds.SCALED_OBJECT),
        ):
            patch = {"spec": {"autoscaling": {"autoscaler": change}}}
            await api.patch(Kinds.SCORING_MODEL, "faq", patch)
            found = await eventually(lambda kind=wanted: api.get(kind, "faq"))
            # The other one was deleted before this one was made, and stays away.
            assert await api.get(other, "faq") is None
            await at_rest(operator)
            assert await api.get(other, "faq") is None
            deployment = await api.must_get(Kinds.DEPLOYMENT, "faq")
            assert deployment["spec"]["replicas"] == 2
            assert found["metadata"]["ownerReferences"][0]["name"] == "faq"


async def test_a_cluster_without_keda_is_told(api):
    async with running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model(autoscaling=KEDA))
        await eventually(lambda: condition(api))
        await at_rest(operator)
        assert (await condition(api))["reason"] == "KEDAMissing"
        assert await api.get(Kinds.AUTOSCALER, "faq") is None


async def test_a_cluster_without_custom_metrics_is_told(api):
    async with running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model(autoscaling={"maxReplicas": 3, "targetInFlightRequests": 4}))
        await eventually(lambda: condition(api))
        await at_rest(operator)
        assert (await condition(api))["reason"] == "MetricsMissing"
