from __future__ import annotations

import json

import pytest

from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.settings import Settings

SETTINGS = Settings(base_domain="models.example.com")
NGINX = "k8s.io/ingress-nginx"


def build(model, settings=SETTINGS, **wishes):
    return build_children(model, settings, plan_exposure(model, settings), Wishes(**wishes))


def one(children, kind, name="faq"):
    found = [m for m in children.manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    assert len(found) == 1, [(m["kind"], m["metadata"]["name"]) for m in children.manifests]
    return found[0]


def pod(children, name="faq"):
    return one(children, "Deployment", name)["spec"]["template"]["spec"]


def environment(container):
    return {e["name"]: e.get("value") for e in container["env"]}


def test_three_fields_give_a_whole_service(model, golden):
    children = build(
        model(),
        keys={"primary": "a-key", "secondary": "another"},
        certificate=(b"certificate", b"key"),
        ingress_controller=NGINX,
    )
    golden("minimal", children.manifests)


def test_every_field_of_the_spec_reaches_a_child(model, golden):
    children = build(model(**FULL), replicas=None, ingress_controller=NGINX, canary_serves=True)
    golden("full", children.manifests)


FULL = {
    "modelURI": "abfss://models@acct.dfs.core.windows.net/resnet",
    "framework": "pytorch",
    "device": "gpu",
    "sha256": "ab" * 32,
    "storage": {
        "secretName": "storage-key",
        "serviceAccountName": "reader",
        "sizeLimit": "20Gi",
    },
    "trustPickle": True,
    "precision": "float16",
    "gpu": {"resourceName": "nvidia.com/mig-1g.10gb"},
    "image": "registry.example.com/scorer@sha256:" + "0" * 64,
    "imagePullSecrets": [{"name": "registry"}],
    "env": [
        {"name": "LABELS", "value": "en"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ],
    "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi"}},
    "nodeSelector": {"kubernetes.azure.com/agentpool": "gpunp"},
    "tolerations": [{"key": "team", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "serving",
    "automountServiceAccountToken": True,
    "podMetadata": {
        "labels": {"azure.workload.identity/use": "true"},
        "annotations": {"team": "vision"},
    },
    "caBundle": {"configMapName": "company-ca"},
    "autoscaling": {
        "minReplicas": 2,
        "maxReplicas": 6,
        "targetCPUUtilizationPercent": 60,
        "targetInFlightRequests": 8,
        "scaleDownDelaySeconds": 60,
    },
    "rollout": {"strategy": "InPlace", "progressDeadlineSeconds": 900},
    "probes": {"startupSeconds": 120},
    "batching": {"maxSize": 16, "maxDelayMilliseconds": 5},
    "limits": {"requestBytes": 4194304, "timeoutSeconds": 30, "queuedRequests": 64},
    "test": {"request": {"input": "hi"}, "expect": {"result": 1}},
    "ingress": {
        "host": "resnet.example.com",
        "className": "public",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "5m"},
        "tls": {"issuerRef": {"name": "letsencrypt"}},
    },
    "auth": {"mode": "APIKey", "secretName": "my-keys"},
    "canary": {"modelURI": "abfss://models@acct.dfs.core.windows.net/resnet2", "weight": 10},
}


def test_equal_input_gives_equal_output_and_input_is_not_changed(model):
    first, second = model(**FULL), model(**FULL)
    assert build(first).manifests == build(second).manifests
    assert first == second


def test_selectors_leave_out_labels_set_by_the_user(model):
    children = build(model(podMetadata={"labels": {"mlscoring.io/scoringmodel": "other"}}))
    deployment = one(children, "Deployment")
    selector = {"mlscoring.io/scoringmodel": "faq"}
    assert deployment["spec"]["selector"]["matchLabels"] == selector
    assert one(children, "Service")["spec"]["selector"] == selector
    assert one(children, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == selector
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["mlscoring.io/scoringmodel"] == "faq"


def test_stable_and_canary_share_no_selector(model):
    children = build(model(canary={"modelURI": "https://h/m2", "weight": 5}))
    stable = one(children, "Service")["spec"]["selector"]
    labels = one(children, "Deployment", "faq-canary")["spec"]["template"]["metadata"]["labels"]
    assert not stable.items() <= labels.items()


def test_pods_meet_the_restricted_standard(model):
    spec = pod(build(model(device="gpu")))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    allowed = {"emptyDir", "secret", "configMap"}
    assert all(set(v) - {"name"} <= allowed for v in spec["volumes"])


def test_storage_credentials_are_for_the_fetcher_alone(model):
    spec = pod(build(model(storage={"secretName": "key"})))
    assert spec["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "key"}}]
    assert "envFrom" not in spec["containers"][0]


def test_the_model_is_read_only_where_it_is_served(model):
    spec = pod(build(model()))
    mount = next(m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "model")
    assert mount["readOnly"] is True


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (
            "Surge",
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        ),
        (
            "InPlace",
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        ),
        ("Recreate", {"type": "Recreate"}),
    ],
)
def test_rollout_strategies(model, strategy, expected):
    children = build(model(rollout={"strategy": strategy}))
    assert one(children, "Deployment")["spec"]["strategy"] == expected


def test_a_gpu_is_asked_for_once_and_only_where_the_model_runs(model):
    spec = pod(build(model(device="gpu")))
    scorer, fetch = spec["containers"][0]["resources"], spec["initContainers"][0]["resources"]
    assert scorer["requests"]["nvidia.com/gpu"] == scorer["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in fetch["limits"]
    assert {t["key"] for t in spec["tolerations"]} == {"sku", "nvidia.com/gpu"}


def test_a_limit_of_the_user_is_also_the_request(model):
    resources = pod(build(model(resources={"limits": {"cpu": "4"}})))["containers"][0]["resources"]
    assert resources["requests"]["cpu"] == "4"


def test_a_default_limit_never_undercuts_a_request_of_the_user(model):
    spec = pod(build(model(resources={"requests": {"memory": "16Gi"}})))
    assert spec["containers"][0]["resources"]["limits"]["memory"] == "16Gi"


def test_a_pod_may_finish_its_longest_request(model):
    spec = pod(build(model(limits={"timeoutSeconds": 300})))
    sleep = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= sleep + 300


def test_the_startup_probe_waits_as_long_as_the_spec_says(model):
    probe = pod(build(model(probes={"startupSeconds": 77})))["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 77


def test_the_sample_request_reaches_the_scorer_untouched(model):
    sample = {"request": {"input": "costs $(PATH) ü"}, "expect": None}
    env = environment(pod(build(model(test=sample)))["containers"][0])
    assert json.loads(env["SCORER_SAMPLE"].replace("$$(", "$(")) == sample


def test_a_variable_of_the_user_occurs_once(model):
    spec = pod(build(model(env=[{"name": "SCORER_DRAIN_SECONDS", "value": "9"}])))
    names = [e["name"] for e in spec["containers"][0]["env"]]
    assert names.count("SCORER_DRAIN_SECONDS") == 1
    assert environment(spec["containers"][0])["SCORER_DRAIN_SECONDS"] == "9"


def test_without_auth_there_are_no_keys(model):
    spec = pod(build(model(auth={"mode": "None"})))
    assert environment(spec["containers"][0])["SCORER_AUTH_MODE"] == "None"
    assert all(v["name"] != "keys" for v in spec["volumes"])


def test_a_private_authority_reaches_both_containers(model):
    spec = pod(build(model(caBundle={"secretName": "ca", "key": "root.pem"})))
    for container in (spec["initContainers"][0], spec["containers"][0]):
        assert environment(container)["SSL_CERT_FILE"] == "/etc/scorer/ca/root.pem"
        assert any(m["mountPath"] == "/etc/scorer/ca" for m in container["volumeMounts"])


def test_no_replicas_under_an_autoscaler(model):
    children = build(model(autoscaling={"maxReplicas": 3}), replicas=None)
    assert "replicas" not in one(children, "Deployment")["spec"]
    metrics = one(children, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metrics[0]["resource"]["target"]["averageUtilization"] == 70


def test_the_revision_follows_what_a_pod_serves_and_nothing_else(model):
    base = build(model()).revision
    assert build(model(replicas=5)).revision == base
    assert build(model(ingress={"host": "other.example.com"})).revision == base
    assert build(model(modelURI="https://models.example.com/faq2.joblib")).revision != base
    assert build(model(limits={"timeoutSeconds": 5})).revision != base


def test_without_host_and_base_domain_there_is_no_ingress(model):
    kinds = {m["kind"] for m in build(model(), Settings()).manifests}
    assert "Ingress" not in kinds


def test_cluster_internal_models_have_no_ingress(model):
    kinds = {m["kind"] for m in build(model(exposure="ClusterInternal")).manifests}
    assert "Ingress" not in kinds


def test_the_url_names_a_port_only_when_it_is_unusual(model):
    assert plan_exposure(model(), SETTINGS).url == "https://faq.default.models.example.com"
    settings = Settings(base_domain="models.localhost", url_port=8443)
    assert plan_exposure(model(), settings).url == "https://faq.default.models.localhost:8443"


@pytest.mark.parametrize(
    ("controller", "annotation", "value"),
    [
        (NGINX, "nginx.ingress.kubernetes.io/proxy-body-size", "10485760"),
        (
            "webapprouting.kubernetes.azure.com/nginx",
            "nginx.ingress.kubernetes.io/ssl-redirect",
            "true",
        ),
        ("nginx.org/ingress-controller", "nginx.org/redirect-to-https", "true"),
        ("haproxy.org/ingress-controller", "haproxy.org/timeout-server", "65s"),
        ("haproxy-ingress.github.io/controller", "haproxy-ingress.github.io/ssl-redirect", "true"),
        (
            "azure/application-gateway",
            "appgw.ingress.kubernetes.io/request-timeout",
            "65",
        ),
    ],
)
def test_the_dialect_follows_from_the_controller(model, controller, annotation, value):
    ingress = one(build(model(), ingress_controller=controller), "Ingress")
    assert ingress["metadata"]["annotations"][annotation] == value


@pytest.mark.parametrize("controller", [None, "example.com/unknown"])
def test_an_unknown_controller_gets_portable_fields_only(model, controller):
    ingress = one(build(model(), ingress_controller=controller), "Ingress")
    assert "annotations" not in ingress["metadata"]
    assert ingress["spec"]["tls"][0]["secretName"] == "faq-tls"


def test_annotations_of_the_user_win(model):
    name = "nginx.ingress.kubernetes.io/proxy-body-size"
    given = model(ingress={"annotations": {name: "1m"}})
    ingress = one(build(given, ingress_controller=NGINX), "Ingress")
    assert ingress["metadata"]["annotations"][name] == "1m"


@pytest.mark.parametrize(("serves", "weight"), [(False, "0"), (True, "25")])
def test_a_canary_gets_its_share_only_when_it_serves(model, serves, weight):
    given = model(canary={"modelURI": "https://h/m2", "weight": 25})
    children = build(given, ingress_controller=NGINX, canary_serves=serves)
    annotations = one(children, "Ingress", "faq-canary")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/canary-weight"] == weight
    assert children.canary_routed


def test_a_canary_without_a_way_to_split_gets_no_ingress(model):
    given = model(canary={"modelURI": "https://h/m2", "weight": 25})
    children = build(given, ingress_controller="example.com/unknown", canary_serves=True)
    assert not children.canary_routed
    assert [m["metadata"]["name"] for m in children.manifests if m["kind"] == "Ingress"] == ["faq"]


def test_a_gateway_gets_a_route_with_weights(model, golden):
    given = model(
        gateway={
            "parentRef": {"name": "public", "namespace": "infra", "sectionName": "https"},
            "hostname": "faq.example.com",
        },
        canary={"modelURI": "https://h/m2", "weight": 25},
    )
    children = build(given, canary_serves=True)
    golden("route", [one(children, "HTTPRoute")])
    assert all(m["kind"] != "Ingress" for m in children.manifests)


def test_a_framework_image_wins_over_a_device_image(model):
    settings = Settings(images={"cpu": "scorer:cpu", "sklearn-cpu": "scorer:sklearn"})
    assert pod(build(model(), settings))["containers"][0]["image"] == "scorer:sklearn"
    assert pod(build(model(framework="onnx"), settings))["containers"][0]["image"] == "scorer:cpu"


@pytest.mark.parametrize("version", ["1.35", "1.36", "1.37"])
def test_manifests_are_valid_in_every_supported_kubernetes(model, version):
    validator = pytest.importorskip("kubernetes_validate")
    extensions = {"Certificate", "HTTPRoute"}
    cases = [
        build(model(), keys={"primary": "a"}, certificate=(b"c", b"k"), ingress_controller=NGINX),
        build(model(**FULL), replicas=None, ingress_controller=NGINX, canary_serves=True),
        build(model(caBundle={"secretName": "ca"}, rollout={"strategy": "Recreate"})),
    ]
    for children in cases:
        for manifest in children.manifests:
            if manifest["kind"] not in extensions:
                validator.validate(manifest, version, strict=True)
