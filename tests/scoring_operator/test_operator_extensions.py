"""cert-manager and the Gateway API, as far as the operator sees of them; and what it may do at all."""

from __future__ import annotations

import re

import pytest
import yaml
from operator_cluster import (
    CRDS,
    ROOT,
    at_rest,
    eventually,
    running_api,
    running_operator,
    scoring_model,
)

from scoring_operator.api import Kind, Kinds


def definition(kind: Kind) -> dict:
    group, version = kind.api_version.split("/")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "listKind": f"{kind.name}List",
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


async def install(api, kind):
    await api.client.call("POST", CRDS.path(), body=definition(kind))

    async def served():
        try:
            return await api.list(kind) == []
        except Exception:
            return False

    await eventually(served)


@pytest.fixture
async def api(tmp_path):
    async with running_api(tmp_path) as api:
        yield api


async def condition(api, type_):
    model = await api.must_get(Kinds.SCORING_MODEL, "faq")
    conditions = model.get("status", {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == type_), None)


ISSUER = {"host": "faq.example.com", "tls": {"issuerRef": {"name": "letsencrypt"}}}
GATEWAY = {"parentRef": {"name": "public", "namespace": "infra"}, "hostname": "faq.example.com"}


async def test_a_certificate_of_cert_manager_is_asked_for_and_mirrored(api):
    await install(api, Kinds.CERTIFICATE)
    async with running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model(ingress=ISSUER))
        certificate = await eventually(lambda: api.get(Kinds.CERTIFICATE, "faq-tls"))
        assert certificate["spec"]["dnsNames"] == ["faq.example.com"]
        assert certificate["spec"]["issuerRef"] == {
            "name": "letsencrypt",
            "kind": "ClusterIssuer",
            "group": "cert-manager.io",
        }
        await at_rest(operator)
        assert (await condition(api, "Certificate"))["reason"] == "CertificatePending"
        assert await api.get(Kinds.SECRET, "faq-tls") is None
        ready = {"type": "Ready", "status": "True", "message": "Certificate is up to date"}
        patch = {"status": {"conditions": [ready]}}
        await api.patch(Kinds.CERTIFICATE, "faq-tls", patch, subresource="status")

        async def issued():
            return (await condition(api, "Certificate"))["reason"] == "Issued"

        await eventually(issued)
        # Going back to a self-signed one takes the Certificate away.
        await api.patch(Kinds.SCORING_MODEL, "faq", {"spec": {"ingress": {"tls": None}}})
        await eventually(lambda: api.get(Kinds.SECRET, "faq-tls"))

        async def pruned():
            return await api.get(Kinds.CERTIFICATE, "faq-tls") is None

        await eventually(pruned)


async def test_a_cluster_without_cert_manager_is_told(api):
    async with running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model(ingress=ISSUER))
        await eventually(lambda: condition(api, "Certificate"))
        await at_rest(operator)
        found = await condition(api, "Certificate")
        assert found["reason"] == "CertificatePending"
        assert "cert-manager" in found["message"]


async def test_a_route_is_written_and_its_status_read_back(api):
    await install(api, Kinds.HTTP_ROUTE)
    async with running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model(gateway=GATEWAY))
        route = await eventually(lambda: api.get(Kinds.HTTP_ROUTE, "faq"))
        assert route["spec"]["hostnames"] == ["faq.example.com"]
        assert await api.get(Kinds.INGRESS, "faq") is None
        await at_rest(operator)
        assert (await condition(api, "Exposed"))["reason"] == "IngressPending"
        accepted = [
            {"type": t, "status": "True", "reason": t, "message": ""}
            for t in ("Accepted", "ResolvedRefs")
        ]
        patch = {"status": {"parents": [{"conditions": accepted}]}}
        await api.patch(Kinds.HTTP_ROUTE, "faq", patch, subresource="status")

        async def exposed():
            return (await condition(api, "Exposed"))["status"] == "True"

        await eventually(exposed)


_PATH = re.compile(
    r"^/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)(?:/namespaces/[^/]+)?/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)


def permission(method: str, path: str) -> tuple[str, str, str] | None:
    """The permission that a call needs; None for discovery, which everybody has."""
    match = _PATH.match(path)
    if match is None:
        return None
    resource = match["resource"] + (f"/{match['sub']}" if match["sub"] else "")
    verb = {"GET": "get" if match["name"] else "list", "POST": "create"}.get(method, method.lower())
    return match["group"] or "", resource, verb


async def test_the_role_covers_every_call_that_the_operator_makes(api, monkeypatch):
    calls = set()
    monkeypatch.setattr(
        "scoring_operator.metrics.Metrics.observe_call",
        lambda self, method, path, status: calls.add(permission(method, path)),
    )
    await install(api, Kinds.CERTIFICATE)
    await install(api, Kinds.HTTP_ROUTE)
    async with running_operator(api.kubeconfig) as operator:
        everything = {"autoscaling": {"minReplicas": 2, "maxReplicas": 3}, "ingress": ISSUER}
        await api.create(scoring_model(**everything))
        await eventually(lambda: api.get(Kinds.CERTIFICATE, "faq-tls"))
        await api.create(scoring_model("routed", gateway=GATEWAY))
        await eventually(lambda: api.get(Kinds.HTTP_ROUTE, "routed"))
        await api.create(scoring_model("plain"))
        await eventually(lambda: api.get(Kinds.INGRESS, "plain"))
        await at_rest(operator)
        less = {"autoscaling": None, "ingress": None, "exposure": "ClusterInternal"}
        await api.patch(Kinds.SCORING_MODEL, "faq", {"spec": less})
        await at_rest(operator)
    documents = yaml.safe_load_all((ROOT / "deploy/base/rbac.yaml").read_text())
    rules = next(d for d in documents if d["kind"] == "ClusterRole")["rules"]
    granted = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert calls - {None} <= granted
    kinds = {(resource, verb) for _, resource, verb in calls - {None}}
    assert {("deployments", "patch"), ("ingresses", "delete")} <= kinds
