"""HTTPS on every way in: what each ingress controller and a Gateway are told, and who redirects."""

from __future__ import annotations

import pytest
from operator_cluster import at_rest, eventually, running_api, running_operator, scoring_model

from scoring_operator.api import Gateway, Kinds
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.settings import Settings, SettingsError
from scoring_operator.status import Observed, Reason, derive_status

SETTINGS = Settings(base_domain="models.example.com", ingress_class="public")
CONTROLLERS = {
    "ingress-nginx": "k8s.io/ingress-nginx",
    "app-routing": "webapprouting.kubernetes.azure.com/nginx",
    "app-routing-extra": "approuting.kubernetes.azure.com/internal",
    "f5-nginx": "nginx.org/ingress-controller",
    "haproxy-technologies": "haproxy.org/ingress-controller/haproxy",
    "haproxy-ingress": "haproxy-ingress.github.io/controller",
    "traefik": "traefik.io/ingress-controller",
    "application-gateway-for-containers": "alb.networking.azure.io/alb-controller",
    "application-gateway": "azure/application-gateway",
    "local": "mlscoring.io/local-ingress",
    "unknown": "example.com/controller",
}
INSTALLED = frozenset({Kinds.MIDDLEWARE, Kinds.INGRESS_EXTENSION})
OWN = {"Ingress", "HTTPRoute", "Middleware", "IngressExtension"}


def build(model, settings=SETTINGS, **wishes):
    return build_children(model, settings, plan_exposure(model, settings), Wishes(**wishes))


def ways_in(children):
    return [m for m in children.manifests if m["kind"] in OWN]


def redirect_condition(model, settings=SETTINGS, **wishes):
    exposure = plan_exposure(model, settings)
    children = build_children(model, settings, exposure, Wishes(**wishes))
    status = derive_status(model, children, exposure, Observed())
    return next((c for c in status.conditions if c.type == "HTTPSRedirect"), None)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_what_each_controller_is_told(model, golden, name):
    children = build(model(), ingress_controller=CONTROLLERS[name], installed=INSTALLED)
    golden(f"ways-in/{name}", ways_in(children))


@pytest.mark.parametrize("name", sorted(set(CONTROLLERS) - {"unknown"}))
def test_every_known_controller_redirects(model, name):
    found = redirect_condition(model(), ingress_controller=CONTROLLERS[name], installed=INSTALLED)
    assert (found.status, found.reason) == ("True", Reason.PROXY_REDIRECTS)


@pytest.mark.parametrize("controller", [None, CONTROLLERS["unknown"]])
def test_with_an_unknown_controller_the_scorer_redirects_and_status_says_so(model, controller):
    found = redirect_condition(model(), ingress_controller=controller)
    assert (found.status, found.reason) == ("True", Reason.SCORER_REDIRECTS)
    assert "spec.ingress.annotations" in found.message


@pytest.mark.parametrize("name", ["traefik", "application-gateway-for-containers"])
def test_without_the_kind_that_redirects_nothing_of_it_is_written(model, name):
    children = build(model(), ingress_controller=CONTROLLERS[name])
    assert [m["kind"] for m in ways_in(children)] == ["Ingress"]
    assert not children.proxy_redirects


def test_an_ingress_that_only_redirects_has_no_certificate_and_cannot_be_made_to_serve(model):
    name = "traefik.ingress.kubernetes.io/router.middlewares"
    given = model(ingress={"annotations": {name: "none"}, "host": "faq.example.com"})
    children = build(given, ingress_controller=CONTROLLERS["traefik"], installed=INSTALLED)
    plain = next(
        m
        for m in ways_in(children)
        if m["metadata"]["name"] == "faq-redirect" and m["kind"] == "Ingress"
    )
    assert "tls" not in plain["spec"]
    assert plain["metadata"]["annotations"][name] == "default-faq-redirect@kubernetescrd"


def test_annotations_of_the_platform_reach_every_ingress_and_those_of_the_user_win(model):
    settings = Settings(
        base_domain="models.example.com",
        ingress_annotations={"alb.networking.azure.io/alb-name": "ours", "a/b": "platform"},
    )
    controller = CONTROLLERS["application-gateway-for-containers"]
    given = model(ingress={"annotations": {"a/b": "user"}})
    children = build(given, settings, ingress_controller=controller, installed=INSTALLED)
    ingresses = [m for m in ways_in(children) if m["kind"] == "Ingress"]
    assert len(ingresses) == 2
    for ingress in ingresses:
        annotations = ingress["metadata"]["annotations"]
        assert annotations["alb.networking.azure.io/alb-name"] == "ours"
        assert annotations["a/b"] == "user"


GATEWAY = {
    "parentRef": {"name": "public", "namespace": "infra", "sectionName": "https"},
    "hostname": "faq.example.com",
}


def test_a_named_plain_listener_gets_a_route_that_redirects(model, golden):
    given = model(gateway={**GATEWAY, "httpSectionName": "http"})
    golden("ways-in/gateway", ways_in(build(given)))
    assert redirect_condition(given).reason is Reason.PROXY_REDIRECTS


def test_a_redirect_leads_to_the_port_of_the_url(model):
    settings = Settings(url_port=8443)
    given = model(gateway={**GATEWAY, "httpSectionName": "http"})
    (_, redirect) = ways_in(build(given, settings))
    rule = redirect["spec"]["rules"][0]
    assert rule["filters"][0]["requestRedirect"]["port"] == 8443
    assert "backendRefs" not in rule


def test_without_a_named_plain_listener_the_scorer_redirects(model):
    found = redirect_condition(model(gateway=GATEWAY))
    assert found.reason is Reason.SCORER_REDIRECTS
    assert "httpSectionName" in found.message


def test_a_default_gateway_serves_models_that_name_no_way_in(model):
    settings = Settings(
        base_domain="models.example.com", gateway=Gateway("public", "infra", "https", None, "http")
    )
    kinds = [m["kind"] for m in ways_in(build(model(), settings))]
    assert kinds == ["HTTPRoute", "HTTPRoute"]
    route = ways_in(build(model(), settings))[0]
    assert route["spec"]["hostnames"] == ["faq.default.models.example.com"]
    assert route["spec"]["parentRefs"][0]["sectionName"] == "https"
    own = model(ingress={"host": "faq.example.com"})
    assert [m["kind"] for m in ways_in(build(own, settings))] == ["Ingress"]


def test_a_model_without_a_url_has_no_redirect_condition(model):
    assert redirect_condition(model(exposure="ClusterInternal")) is None


def test_settings_of_the_way_in_are_read():
    settings = Settings.from_env(
        {
            "GATEWAY_NAME": "public",
            "GATEWAY_NAMESPACE": "infra",
            "GATEWAY_SECTION": "https",
            "GATEWAY_HTTP_SECTION": "http",
            "INGRESS_CONTROLLER": "k8s.io/ingress-nginx",
            "INGRESS_ANNOTATIONS": '{"a/b": "c"}',
        }
    )
    assert settings.gateway == Gateway("public", "infra", "https", None, "http")
    assert settings.ingress_controller == "k8s.io/ingress-nginx"
    assert settings.ingress_annotations == {"a/b": "c"}


def test_settings_that_would_serve_plain_http_or_inject_are_refused():
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(
            {
                "GATEWAY_NAME": "public",
                "GATEWAY_HTTP_SECTION": "http",
                "INGRESS_ANNOTATIONS": '{"nginx.ingress.kubernetes.io/server-snippet": "x"}',
            }
        )
    assert "GATEWAY_SECTION" in str(caught.value)
    assert "snippet" in str(caught.value)


async def test_a_class_that_comes_later_gives_the_ingress_its_annotations(tmp_path):
    async with running_api(tmp_path) as api, running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model())
        ingress = await eventually(lambda: api.get(Kinds.INGRESS, "faq"))
        redirect = "nginx.ingress.kubernetes.io/ssl-redirect"
        assert redirect not in ingress["metadata"]["annotations"]
        await at_rest(operator)
        body = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": "local"},
            "spec": {"controller": CONTROLLERS["ingress-nginx"]},
        }
        await api.client.call("POST", Kinds.INGRESS_CLASS.path(), body=body)

        async def annotated():
            found = await api.must_get(Kinds.INGRESS, "faq")
            return found["metadata"]["annotations"].get(redirect) == "true"

        await eventually(annotated)
