from __future__ import annotations

import pytest

from scoring_operator.api import IssuerRef, SpecError


def test_three_fields_are_enough(model):
    parsed = model()
    assert (parsed.framework, parsed.device, parsed.replicas) == ("sklearn", "cpu", 1)
    assert parsed.rollout.strategy == "Surge"
    assert parsed.limits.request_bytes == 10 * 1024 * 1024
    assert parsed.auth.mode == "APIKey"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"framework": "excel"}, "spec.framework"),
        ({"framework": None}, "spec.framework"),
        ({"device": "tpu"}, "spec.device"),
        ({"modelURI": "models/faq"}, "spec.modelURI"),
        ({"replicas": -1}, "spec.replicas"),
        ({"replicas": "two"}, "spec.replicas"),
        ({"replicas": True}, "spec.replicas"),
        ({"autoscaling": {}}, "spec.autoscaling.maxReplicas"),
        ({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "spec.autoscaling.minReplicas"),
        ({"replicas": 2, "autoscaling": {"maxReplicas": 3}}, "spec.replicas"),
        ({"ingress": {"host": "Not a host"}}, "spec.ingress.host"),
        ({"ingress": {"className": "c"}, "gateway": {"parentRef": {"name": "g"}}}, "spec.ingress"),
        ({"gateway": {"parentRef": {}}}, "spec.gateway.parentRef.name"),
        ({"caBundle": {}}, "spec.caBundle"),
        ({"test": {"expect": 1}}, "spec.test.request"),
        ({"canary": {"modelURI": "https://h/m", "weight": 101}}, "spec.canary.weight"),
        ({"canary": {"weight": 1}}, "spec.canary.modelURI"),
        ({"env": "A=B"}, "spec.env"),
        ({"resources": "much"}, "spec.resources"),
        ({"trustPickle": "yes"}, "spec.trustPickle"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(model, spec, path):
    with pytest.raises(SpecError) as caught:
        model(**spec)
    assert caught.value.path == path
    assert str(caught.value).startswith(path)


def test_an_issuer_reference_is_complete(model):
    parsed = model(ingress={"tls": {"issuerRef": {"name": "letsencrypt"}}})
    assert parsed.ingress.issuer == IssuerRef("letsencrypt", "ClusterIssuer", "cert-manager.io")


def test_a_sample_may_expect_null(model):
    sample = model(test={"request": {"a": 1}, "expect": None}).test
    assert sample.has_expectation
    assert sample.expect is None


def test_quantities_may_be_numbers(model):
    assert model(resources={"limits": {"cpu": 2}}).resource_limits == {"cpu": "2"}
