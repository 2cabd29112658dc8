"""All pods of a revision run the same bytes, and a change behind the URI is rolled out only where the spec says so."""

from __future__ import annotations

import json

import pytest
from operator_cluster import (
    NAMESPACE,
    at_rest,
    eventually,
    running_api,
    running_operator,
    scoring_model,
)

from scoring_operator.api import Kinds
from scoring_operator.manifests import Wishes, build_children, plan_exposure
from scoring_operator.manifests.revision import derive_revision
from scoring_operator.settings import Settings
from scoring_operator.status.pins import derive_pins

SETTINGS = Settings()
A, B, C = "a" * 64, "b" * 64, "c" * 64


def pod(revision, *, fetched=None, found=None, at="10:00:00", name="p", leaving=False):
    """A pod whose fetch succeeded with a digest, or failed because it found another one."""
    reason = "Fetched" if fetched else "DigestMismatch"
    message = json.dumps({"reason": reason, "message": "m", "digest": f"sha256:{fetched or found}"})
    ended = {
        "exitCode": 0 if fetched else 1,
        "message": message,
        "finishedAt": f"2026-01-01T{at}Z",
    }
    metadata = {"name": name, "labels": {"mlscoring.io/revision": revision}}
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T11:00:00Z"
    status = {"initContainerStatuses": [{"name": "fetch", "state": {"terminated": ended}}]}
    return {"metadata": metadata, "status": status}


def pins(model, *pods, stored=None, replica_sets=()):
    return derive_pins(model, SETTINGS, stored=stored or {}, pods=pods, replica_sets=replica_sets)


def test_the_first_pod_decides_what_a_revision_runs(model):
    given = model()
    revision = derive_revision(given, SETTINGS)
    first = pod(revision, fetched=A, at="10:00:01", name="first")
    second = pod(revision, fetched=B, at="10:00:02", name="second")
    found = pins(given, second, first)
    assert found.data == {revision: A}
    assert found.model == given
    # Both began before anything was known; the later one must not stay.
    assert [p["metadata"]["name"] for p in found.strays] == ["second"]


def test_a_record_outlives_the_pods_and_stays_while_its_revision_can_come_back(model):
    given = model()
    revision = derive_revision(given, SETTINGS)
    stored = {revision: A, "old": B, "older": C}
    old = {"metadata": {"name": "rs", "labels": {"mlscoring.io/revision": "old"}}}
    assert pins(given, stored=stored, replica_sets=[old]).data == {revision: A, "old": B}


def test_a_digest_in_the_spec_needs_no_record(model):
    given = model(sha256=A)
    revision = derive_revision(given, SETTINGS)
    assert pins(given, pod(revision, fetched=A)).data == {}


def test_a_pod_that_is_leaving_decides_nothing(model):
    given = model()
    revision = derive_revision(given, SETTINGS)
    assert pins(given, pod(revision, fetched=A, leaving=True)).data == {}


def test_pinned_bytes_stay_when_others_appear(model):
    given = model()
    revision = derive_revision(given, SETTINGS)
    found = pins(given, pod(revision, found=B), stored={revision: A})
    assert found.data == {revision: A}
    assert found.model.sha256 is None


def test_always_makes_a_revision_of_the_new_bytes_and_keeps_it(model):
    given = model(updatePolicy="Always")
    base = derive_revision(given, SETTINGS)
    found = pins(given, pod(base, found=B), stored={base: A})
    assert found.data == {base: A, f"{base}.update": B}
    assert found.model.sha256 == B
    updated = derive_revision(found.model, SETTINGS)
    assert updated != base
    # Nothing new: the same again, whatever the policy is by now, for the old bytes are gone.
    for policy in ("Always", "Pinned"):
        assert pins(model(updatePolicy=policy), stored=found.data).model.sha256 == B
    # The next change is found by a pod of the new revision; what the old one's pods say is stale.
    stale = pod(base, found=B, at="10:00:09")
    news = pod(updated, found=C, at="10:00:08")
    assert pins(given, stale, news, stored=found.data).model.sha256 == C
    assert pins(given, stale, stored=found.data).data == found.data


def test_the_canary_has_its_own_record(model):
    given = model(canary={"modelURI": "https://h/2", "weight": 1}, updatePolicy="Always")
    base = derive_revision(given, SETTINGS)
    canary = derive_revision(given, SETTINGS, given.canary)
    stored = {base: A, canary: A}
    found = pins(given, pod(canary, found=B), stored=stored)
    assert found.data == {**stored, f"{canary}.update": B}
    assert (found.model.sha256, found.model.canary.sha256) == (None, B)


def test_a_later_pod_of_the_same_template_learns_the_digest(model):
    given = model()
    children = build_children(
        given, SETTINGS, plan_exposure(given, SETTINGS), Wishes(pins={"r": A})
    )
    deployment = next(m for m in children.manifests if m["kind"] == "Deployment")
    fetch = deployment["spec"]["template"]["spec"]["initContainers"][0]
    variable = next(v for v in fetch["env"] if v["name"] == "SCORER_PINNED_SHA256")
    reference = variable["valueFrom"]["configMapKeyRef"]
    config = next(m for m in children.manifests if m["kind"] == "ConfigMap")
    assert reference["name"] == config["metadata"]["name"]
    assert reference["key"] == children.revision
    # The very first pod starts without it.
    assert reference["optional"] is True


@pytest.fixture
async def api(tmp_path):
    async with running_api(tmp_path) as api:
        yield api


async def make_pod(api, name, revision, **fetch):
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {
                "app.kubernetes.io/managed-by": "scoring-operator",
                "app.kubernetes.io/instance": "faq",
                "mlscoring.io/scoringmodel": "faq",
                "mlscoring.io/revision": revision,
            },
        },
        "spec": {"containers": [{"name": "scorer", "image": "i"}]},
    }
    await api.create(body)
    status = pod(revision, **fetch)["status"]
    for container in status["initContainerStatuses"]:
        container |= {"image": "i", "imageID": "", "ready": True, "restartCount": 0}
        container["state"]["terminated"]["reason"] = "Completed"
    await api.patch(Kinds.POD, name, {"status": status}, subresource="status")


async def test_from_the_first_fetch_to_a_changed_blob(api):
    async with running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model())
        model = await eventually(lambda: has(api, "revision"))
        revision = model["status"]["revision"]
        await make_pod(api, "first", revision, fetched=A)
        config = await eventually(lambda: api.get(Kinds.CONFIG_MAP, "faq-pins"))
        assert config["data"] == {revision: A}
        await at_rest(operator)
        status = (await api.must_get(Kinds.SCORING_MODEL, "faq"))["status"]
        assert (status["modelDigest"], status["revision"]) == (f"sha256:{A}", revision)

        # Somebody overwrites the blob; the next pod of this revision finds it out.
        await make_pod(api, "second", revision, found=B, at="10:05:00")

        async def reported():
            condition = await api.ready_condition("faq")
            return condition.get("reason") == "DigestMismatch"

        await eventually(reported)
        await at_rest(operator)
        assert (await has(api, "revision"))["status"]["revision"] == revision

        await api.patch(Kinds.SCORING_MODEL, "faq", {"spec": {"updatePolicy": "Always"}})

        async def rolled_out():
            deployment = await api.must_get(Kinds.DEPLOYMENT, "faq")
            env = deployment["spec"]["template"]["spec"]["initContainers"][0]["env"]
            return {"name": "SCORER_MODEL_SHA256", "value": B} in env

        await eventually(rolled_out)
        await at_rest(operator)
        assert (await has(api, "revision"))["status"]["revision"] != revision


async def test_a_pod_with_other_bytes_than_its_revision_is_replaced(api):
    async with running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model())
        revision = (await eventually(lambda: has(api, "revision")))["status"]["revision"]
        await make_pod(api, "first", revision, fetched=A)
        await eventually(lambda: api.get(Kinds.CONFIG_MAP, "faq-pins"))
        await make_pod(api, "stray", revision, fetched=B, at="10:00:01")

        async def gone():
            found = await api.get(Kinds.POD, "stray")
            return found is None or "deletionTimestamp" in found["metadata"]

        await eventually(gone)
        await at_rest(operator)
        assert "deletionTimestamp" not in (await api.must_get(Kinds.POD, "first"))["metadata"]


async def has(api, field):
    model = await api.must_get(Kinds.SCORING_MODEL, "faq")
    return model if field in (model.get("status") or {}) else None
