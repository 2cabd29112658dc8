"""NetworkPolicies: only where the settings ask for them, and never in the way of what a model needs."""

from __future__ import annotations

import pytest

from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.settings import Settings, SettingsError

SETTINGS = Settings(
    base_domain="models.example.com",
    network_policy="Ingress",
    network_policy_from=("gateways", "10.0.1.0/24"),
    network_policy_metrics_from=("kube-system",),
    operator_namespace="scoring-system",
)


def policies(model, settings):
    children = build_children(model, settings, plan_exposure(model, settings), Wishes())
    return [m for m in children.manifests if m["kind"] == "NetworkPolicy"]


def test_by_default_there_is_none(model):
    assert policies(model(), Settings()) == []


def test_only_proxies_score_and_only_monitoring_reads_metrics(model, golden):
    golden("network", policies(model(), SETTINGS))


def test_the_policy_selects_the_pods_of_model_and_canary(model):
    given = model(canary={"modelURI": "https://h/m2", "weight": 5})
    children = build_children(given, SETTINGS, plan_exposure(given, SETTINGS), Wishes())
    selector = policies(given, SETTINGS)[0]["spec"]["podSelector"]["matchLabels"]
    deployments = [m for m in children.manifests if m["kind"] == "Deployment"]
    assert len(deployments) == 2
    for deployment in deployments:
        assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_a_model_inside_the_cluster_can_be_scored_from_every_namespace(model):
    (policy,) = policies(model(exposure="ClusterInternal"), SETTINGS)
    assert policy["spec"]["ingress"][0]["from"] == [{"namespaceSelector": {}}]


def test_egress_is_denied_but_for_names_and_https_only_when_asked_for(model):
    assert "egress" not in policies(model(), SETTINGS)[0]["spec"]
    settings = Settings(network_policy="IngressAndEgress", network_policy_from=("gateways",))
    spec = policies(model(), settings)[0]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    ports = {(p["port"], p["protocol"]) for rule in spec["egress"] for p in rule["ports"]}
    assert ports == {(53, "UDP"), (53, "TCP"), (443, "TCP")}


def test_settings_are_read():
    settings = Settings.from_env(
        {
            "NETWORK_POLICY": "IngressAndEgress",
            "NETWORK_POLICY_FROM": "gateways, 10.0.1.0/24",
            "NETWORK_POLICY_METRICS_FROM": "kube-system",
            "POD_NAMESPACE": "scoring-system",
        }
    )
    assert settings.network_policy_from == ("gateways", "10.0.1.0/24")
    assert settings.network_policy_metrics_from == ("kube-system",)
    assert settings.operator_namespace == "scoring-system"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"NETWORK_POLICY": "Ingress"}, "nobody could score"),
        ({"NETWORK_POLICY": "All", "NETWORK_POLICY_FROM": "a"}, "IngressAndEgress"),
        ({"NETWORK_POLICY_FROM": "10.0.0.1/8"}, "host bits"),
        ({"NETWORK_POLICY_FROM": "Ingress System"}, "namespaces or address ranges"),
    ],
)
def test_settings_that_make_no_sense_are_refused(environ, said):
    with pytest.raises(SettingsError, match=said):
        Settings.from_env(environ)
