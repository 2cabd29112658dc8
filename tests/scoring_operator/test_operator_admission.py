"""What the API server refuses by the CRD alone: the message names the field and the way out."""

from __future__ import annotations

import pytest
from operator_cluster import running_api, scoring_model

from scoring_operator.api import Kinds
from scoring_operator.cluster import InvalidError

FILE = "file:///models/faq"
SHA = "a" * 64

REFUSED = [
    ({"modelURI": None}, "spec.modelURI"),
    ({"framework": None}, "spec.framework"),
    ({"framework": "excel"}, 'supported values: "sklearn"'),
    ({"device": "tpu"}, "spec.device"),
    ({"modelURI": "models/faq"}, "must begin with a scheme"),
    ({"modelURI": "https://user:pw@host/m"}, "must not hold a user name or password"),
    ({"modelURI": "https://token@host/m"}, "must not hold a user name or password"),
    ({"modelURI": "https://h/m?sv=1&sig=abc"}, "must not hold a signature or token"),
    ({"modelURI": "https://h/m?access_token=abc"}, "must not hold a signature or token"),
    ({"sha256": "ABC"}, "64 lower-case hexadecimal digits"),
    ({"replicas": -1}, "spec.replicas"),
    ({"replicas": 2, "autoscaling": {"maxReplicas": 3}}, "exclude each other"),
    ({"autoscaling": {"minReplicas": 4, "maxReplicas": 3}}, "autoscaling.minReplicas must not be"),
    ({"autoscaling": {"minReplicas": 0, "maxReplicas": 3}}, "spec.autoscaling.minReplicas"),
    ({"ingress": {"host": "no host"}}, "host must be a DNS name"),
    ({"ingress": {"host": "https://faq.example.com"}}, "host must be a DNS name"),
    ({"ingress": {"host": "192.0.2.1"}}, "host must be a DNS name"),
    ({"ingress": {"host": "a.example.com"}, "gateway": {"parentRef": {"name": "g"}}}, "exclude"),
    ({"ingress": {"annotations": {"x/server-snippet": "y"}}}, "must not hold snippets"),
    (
        {"ingress": {"tls": {"secretName": "s", "issuerRef": {"name": "i"}}}},
        "exclude each other",
    ),
    ({"exposure": "ClusterInternal", "ingress": {}}, "spec.exposure ClusterInternal excludes"),
    ({"gpu": {"resourceName": "nvidia.com/gpu"}}, "spec.gpu needs spec.device gpu"),
    ({"device": "gpu", "gpu": {"resourceName": "gpu"}}, "vendor/resource"),
    ({"precision": "float16"}, "spec.precision applies"),
    ({"auth": {"mode": "None", "secretName": "s"}}, "no use with auth.mode None"),
    ({"caBundle": {}}, "exactly one of configMapName and secretName"),
    ({"env": [{"name": "SCORER_PORT", "value": "1"}]}, "set by the operator"),
    ({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "spec.env[1]"),
    ({"test": {"expect": 1}}, "spec.test.request"),
    ({"canary": {"modelURI": FILE, "weight": 101}}, "spec.canary.weight"),
    ({"canary": {"modelURI": "m", "weight": 1}}, "must begin with a scheme"),
    ({"podMetadata": {"labels": {"mlscoring.io/x": "y"}}}, "the operator sets them"),
    ({"batching": {"maxDelayMilliseconds": 9999}, "limits": {"timeoutSeconds": 5}}, "shorter"),
]

ACCEPTED = [
    {"modelURI": "abfss://models@account.dfs.core.windows.net/faq"},
    {"modelURI": "azureml://registries/r/models/m/versions/3"},
    {"modelURI": "azureml:faq:3"},
    {"modelURI": "https://h/assign?design=3"},
    {"sha256": SHA},
    {"test": {"request": [1, {"a": None}], "expect": None}},
    {"device": "gpu", "gpu": {}},
    {"env": [{"name": "SCORER_WORKERS", "value": "2"}]},
    {"resources": {"limits": {"cpu": 2, "memory": "1.5Gi", "nvidia.com/gpu": "1"}}},
    {"ingress": {}},
]


@pytest.fixture
async def api(tmp_path):
    async with running_api(tmp_path) as api:
        yield api


async def test_what_is_wrong_is_refused_with_a_message_that_names_it(api):
    for number, (spec, words) in enumerate(REFUSED):
        given = scoring_model(f"m{number}", **spec)
        given["spec"] = {k: v for k, v in given["spec"].items() if v is not None}
        with pytest.raises(InvalidError) as caught:
            await api.create(given)
        assert words in str(caught.value), (spec, str(caught.value))


async def test_what_is_right_is_stored_with_its_defaults(api):
    for number, spec in enumerate(ACCEPTED):
        await api.create(scoring_model(f"m{number}", **spec))
    stored = (await api.must_get(Kinds.SCORING_MODEL, "m0"))["spec"]
    assert stored["limits"] == {
        "requestBytes": 10485760,
        "timeoutSeconds": 60,
        "queuedRequests": 256,
    }
    assert stored["auth"] == {"mode": "APIKey"}
    assert stored["rollout"] == {"strategy": "Surge", "progressDeadlineSeconds": 1200}


@pytest.mark.parametrize("name", ["1faq", "faq.example", "a" * 54])
async def test_a_name_that_no_service_can_have_is_refused(api, name):
    with pytest.raises(InvalidError, match=r"metadata\.name becomes the name of a Service"):
        await api.create(scoring_model(name))
