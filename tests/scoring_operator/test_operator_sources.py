"""Models that are volumes, the cache on the node, and the identity that reads storage."""

from __future__ import annotations

import pytest
from operator_cluster import at_rest, eventually, running_api, running_operator, scoring_model

from scoring_operator.api import Kinds
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.settings import Settings, SettingsError


def pod_of(model, settings=None, name="faq"):
    settings = settings or Settings()
    children = build_children(model, settings, plan_exposure(model, settings), Wishes())
    (deployment,) = [
        m for m in children.manifests if (m["kind"], m["metadata"]["name"]) == ("Deployment", name)
    ]
    return deployment["spec"]["template"]


def volume(template, name):
    return next((v for v in template["spec"]["volumes"] if v["name"] == name), None)


def mount(container, name):
    return next((m for m in container["volumeMounts"] if m["name"] == name), None)


def test_a_claim_is_mounted_read_only_and_for_the_fetcher_alone(model):
    template = pod_of(model(modelURI="pvc://models/faq/3"))
    assert volume(template, "source") == {
        "name": "source",
        "persistentVolumeClaim": {"claimName": "models", "readOnly": True},
    }
    fetch, scorer = template["spec"]["initContainers"][0], template["spec"]["containers"][0]
    assert mount(fetch, "source") == {
        "name": "source",
        "mountPath": "/mnt/source",
        "readOnly": True,
    }
    assert mount(scorer, "source") is None


def test_an_image_is_a_volume(model):
    uri = "oci://registry.example.com/models/faq@sha256:" + "0" * 64
    template = pod_of(model(modelURI=uri))
    assert volume(template, "source")["image"] == {
        "reference": uri.removeprefix("oci://"),
        "pullPolicy": "IfNotPresent",
    }


def test_the_canary_mounts_its_own_source(model):
    given = model(modelURI="pvc://a/1", canary={"modelURI": "pvc://b/1", "weight": 1})
    for name, claim in (("faq", "a"), ("faq-canary", "b")):
        source = volume(pod_of(given, name=name), "source")
        assert source["persistentVolumeClaim"]["claimName"] == claim


def test_other_uris_need_no_volume(model):
    assert volume(pod_of(model()), "source") is None


@pytest.mark.parametrize("version", ["1.36", "1.37"])
def test_volumes_of_models_are_valid(model, version):
    validator = pytest.importorskip("kubernetes_validate")
    settings = Settings(model_cache_path="/var/lib/mlscoring")
    for uri in ("pvc://models/faq", "oci://registry.example.com/faq:3"):
        given = model(modelURI=uri)
        children = build_children(given, settings, plan_exposure(given, settings), Wishes())
        for manifest in children.manifests:
            validator.validate(manifest, version, strict=True)


def test_a_cache_on_the_node_is_opt_in_and_for_the_fetcher_alone(model):
    assert volume(pod_of(model()), "cache") is None
    template = pod_of(model(), Settings(model_cache_path="/var/lib/mlscoring"))
    assert volume(template, "cache")["hostPath"] == {
        "path": "/var/lib/mlscoring",
        "type": "DirectoryOrCreate",
    }
    fetch, scorer = template["spec"]["initContainers"][0], template["spec"]["containers"][0]
    assert {"name": "SCORER_CACHE_DIR", "value": "/var/cache/scorer"} in fetch["env"]
    assert mount(fetch, "cache")["mountPath"] == "/var/cache/scorer"
    assert mount(scorer, "cache") is None


@pytest.mark.parametrize("path", ["relative", "/", "/a/../etc"])
def test_a_cache_anywhere_is_refused(path):
    with pytest.raises(SettingsError, match="MODEL_CACHE_PATH"):
        Settings.from_env({"MODEL_CACHE_PATH": path})


def test_pods_of_a_named_account_get_the_label_of_workload_identity_only_where_it_is_in_use(model):
    label = "azure.workload.identity/use"
    named = model(storage={"serviceAccountName": "reader"})
    azure = Settings(workload_identity=True)
    assert pod_of(named, azure)["metadata"]["labels"][label] == "true"
    assert label not in pod_of(named)["metadata"]["labels"]
    assert label not in pod_of(model(), azure)["metadata"]["labels"]


@pytest.fixture
async def api(tmp_path):
    async with running_api(tmp_path) as api:
        yield api


async def test_an_image_on_a_cluster_without_image_volumes_is_refused_and_the_old_model_serves_on(
    api, monkeypatch
):
    async def minor_version(self):
        return 35

    monkeypatch.setattr("scoring_operator.cluster.discovery.Discovery.minor_version", minor_version)
    async with running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model())
        before = await eventually(lambda: api.get(Kinds.DEPLOYMENT, "faq"))
        patch = {"spec": {"modelURI": "oci://registry.example.com/faq:3"}}
        await api.patch(Kinds.SCORING_MODEL, "faq", patch)

        async def refused():
            condition = await api.ready_condition("faq")
            return condition if condition.get("reason") == "InvalidSpec" else None

        condition = await eventually(refused)
        assert "1.36" in condition["message"]
        assert "1.35" in condition["message"]
        await at_rest(operator)
        after = await api.must_get(Kinds.DEPLOYMENT, "faq")
        assert after["spec"]["template"] == before["spec"]["template"]


async def test_an_image_on_a_cluster_with_image_volumes_is_mounted(api):
    async with running_operator(api.kubeconfig):
        await api.create(scoring_model(modelURI="oci://registry.example.com/faq:3"))
        deployment = await eventually(lambda: api.get(Kinds.DEPLOYMENT, "faq"))
        assert volume(deployment["spec"]["template"], "source")["image"]


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({"configMapName": "signing"}, {"configMap": {"name": "signing", "defaultMode": 0o444}}),
        (
            {"secretName": "signing", "key": "public.pem"},
            {"secret": {"secretName": "signing", "defaultMode": 0o444}},
        ),
    ],
)
def test_the_key_of_a_signature_reaches_the_fetcher_alone(model, given, source):
    template = pod_of(model(signatureKey=given))
    assert volume(template, "signature") == {"name": "signature", **source}
    fetch, scorer = template["spec"]["initContainers"][0], template["spec"]["containers"][0]
    path = "/etc/scorer/signature"
    assert {"name": "SCORER_SIGNATURE_KEY", "value": f"{path}/public.pem"} in fetch["env"]
    assert mount(fetch, "signature") == {"name": "signature", "mountPath": path, "readOnly": True}
    assert mount(scorer, "signature") is None


def test_the_size_limit_reaches_the_fetcher_where_the_spec_has_one(model):
    variable = {"name": "SCORER_MODEL_SIZE_LIMIT", "value": "5Gi"}
    limited = pod_of(model(storage={"sizeLimit": "5Gi"}))["spec"]
    assert variable in limited["initContainers"][0]["env"]
    assert variable not in limited["containers"][0]["env"]
    free = pod_of(model(storage={"secretName": "s"}))["spec"]["initContainers"][0]["env"]
    assert "SCORER_MODEL_SIZE_LIMIT" not in {entry["name"] for entry in free}


def test_packages_are_installed_only_where_the_platform_allows_it(model):
    variable = {"name": "SCORER_INSTALL_REQUIREMENTS", "value": "true"}
    for allowed in (False, True):
        template = pod_of(model(), Settings(install_requirements=allowed))
        assert (variable in template["spec"]["initContainers"][0]["env"]) is allowed
        assert variable not in template["spec"]["containers"][0]["env"]
    settings = Settings.from_env(
        {"INSTALL_REQUIREMENTS": "true", "PIP_INDEX_URL": "https://pypi.example.com/simple"}
    )
    index = {"name": "SCORER_PIP_INDEX_URL", "value": "https://pypi.example.com/simple"}
    assert index in pod_of(model(), settings)["spec"]["initContainers"][0]["env"]
