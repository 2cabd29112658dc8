"""The operator against a real API server, without kopf around it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from operator_cluster import (
    SETTINGS,
    Weather,
    at_rest,
    eventually,
    running_api,
    running_operator,
    scoring_model,
    writes,
)

from scoring_operator.api import Key, Kinds
from scoring_operator.certificates import read_certificate
from scoring_operator.cluster import Client
from scoring_operator.cluster.errors import error_from_answer
from scoring_operator.keys import read_keys


@pytest.fixture
async def api(tmp_path):
    async with running_api(tmp_path) as api:
        yield api


@pytest.fixture
async def operator(api):
    async with running_operator(api.kubeconfig) as operator:
        yield operator


CHILDREN = [
    (Kinds.DEPLOYMENT, "faq"),
    (Kinds.SERVICE, "faq"),
    (Kinds.INGRESS, "faq"),
    (Kinds.DISRUPTION_BUDGET, "faq"),
    (Kinds.SERVICE_ACCOUNT, "faq"),
    (Kinds.SECRET, "faq-keys"),
    (Kinds.SECRET, "faq-tls"),
]


async def complete(api, name="faq"):
    async def check():
        for kind, child in CHILDREN:
            if await api.get(kind, child.replace("faq", name)) is None:
                return False
        return (await api.ready_condition(name)) != {}

    await eventually(check, "all children exist")


async def test_a_model_gets_its_children_and_a_status(api, operator):
    await api.create(scoring_model())
    await complete(api)
    model = await api.must_get(Kinds.SCORING_MODEL, "faq")
    status = model["status"]
    assert status["url"] == "https://faq.default.models.localhost:8443"
    assert status["observedGeneration"] == 1
    assert status["selector"] == "mlscoring.io/scoringmodel=faq"
    assert {c["type"] for c in status["conditions"]} == {
        "Ready",
        "ModelLoaded",
        "Available",
        "HTTPSRedirect",
        "Exposed",
        "Certificate",
    }
    for kind, name in CHILDREN:
        (owner,) = (await api.must_get(kind, name))["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (model["metadata"]["uid"], True)
    assert "finalizers" not in model["metadata"]
    assert "annotations" not in model["metadata"]


async def test_steady_state_writes_nothing(api, operator):
    await api.create(scoring_model())
    await complete(api)
    await at_rest(operator)
    before = writes(operator)
    for model in await api.list(Kinds.SCORING_MODEL):
        operator.queue.add((model["metadata"]["namespace"], model["metadata"]["name"]))
    await at_rest(operator)
    assert writes(operator) == before


async def test_a_restart_writes_nothing(api):
    async with running_operator(api.kubeconfig) as first:
        await api.create(scoring_model(autoscaling={"minReplicas": 2, "maxReplicas": 4}))
        await api.create(scoring_model("other", canary={"modelURI": "file:///m2", "weight": 5}))
        await complete(api)
        await complete(api, "other")
        await at_rest(first)
    async with running_operator(api.kubeconfig) as second:
        await at_rest(second)
        assert writes(second) == 0


@pytest.mark.parametrize(("kind", "name"), CHILDREN, ids=[k.name + n for k, n in CHILDREN])
async def test_a_deleted_child_comes_back(api, operator, kind, name):
    await api.create(scoring_model())
    await complete(api)
    uid = (await api.must_get(kind, name))["metadata"]["uid"]
    await api.delete(kind, name)

    async def back():
        found = await api.get(kind, name)
        return found and found["metadata"]["uid"] != uid

    await eventually(back, f"{kind.name} comes back")


@pytest.mark.parametrize(
    ("kind", "name", "patch", "path", "wanted"),
    [
        (Kinds.DEPLOYMENT, "faq", {"spec": {"replicas": 9}}, ("spec", "replicas"), 1),
        (
            Kinds.SERVICE,
            "faq",
            {"spec": {"selector": {"mlscoring.io/scoringmodel": "x"}}},
            ("spec", "selector"),
            {"mlscoring.io/scoringmodel": "faq"},
        ),
        (
            Kinds.DEPLOYMENT,
            "faq",
            {"metadata": {"labels": {"app.kubernetes.io/name": "x"}}},
            ("metadata", "labels", "app.kubernetes.io/name"),
            "scoringmodel",
        ),
        (
            Kinds.DISRUPTION_BUDGET,
            "faq",
            {"spec": {"maxUnavailable": "50%"}},
            ("spec", "maxUnavailable"),
            1,
        ),
    ],
)
async def test_an_edited_child_is_put_right(api, operator, kind, name, patch, path, wanted):
    await api.create(scoring_model())
    await complete(api)
    await at_rest(operator)
    await api.patch(kind, name, patch)

    async def right():
        value = await api.must_get(kind, name)
        for step in path:
            value = value[step]
        return value == wanted

    await eventually(right, "the edit is undone")


async def test_a_field_of_another_owner_is_left_alone(api, operator):
    await api.create(scoring_model())
    await complete(api)
    await at_rest(operator)
    before = writes(operator)
    await api.patch(Kinds.SERVICE, "faq", {"metadata": {"annotations": {"team": "search"}}})
    await at_rest(operator)
    service = await api.must_get(Kinds.SERVICE, "faq")
    assert service["metadata"]["annotations"]["team"] == "search"
    assert writes(operator) == before


async def test_a_field_removed_from_the_spec_disappears(api, operator):
    await api.create(
        scoring_model(
            nodeSelector={"disk": "ssd"},
            priorityClassName=None,
            env=[{"name": "A", "value": "b"}],
            podMetadata={"labels": {"team": "x"}},
        )
    )
    await complete(api)
    patch = {"spec": {"nodeSelector": None, "env": None, "podMetadata": None}}
    await api.patch(Kinds.SCORING_MODEL, "faq", patch)

    async def gone():
        deployment = await api.must_get(Kinds.DEPLOYMENT, "faq")
        template = deployment["spec"]["template"]
        names = {e["name"] for e in template["spec"]["containers"][0]["env"]}
        labels = template["metadata"]["labels"]
        return "nodeSelector" not in template["spec"] and "A" not in names and "team" not in labels

    await eventually(gone, "the removed fields are gone")


async def test_a_child_that_is_no_longer_wanted_is_deleted(api, operator):
    await api.create(
        scoring_model(autoscaling={"maxReplicas": 3}, canary={"modelURI": "file:///2", "weight": 9})
    )
    await complete(api)
    await eventually(lambda: api.get(Kinds.AUTOSCALER, "faq"))
    await eventually(lambda: api.get(Kinds.DEPLOYMENT, "faq-canary"))
    patch = {"spec": {"autoscaling": None, "canary": None, "exposure": "ClusterInternal"}}
    await api.patch(Kinds.SCORING_MODEL, "faq", patch)

    async def gone():
        return not any(
            [
                await api.get(Kinds.AUTOSCALER, "faq"),
                await api.get(Kinds.DEPLOYMENT, "faq-canary"),
                await api.get(Kinds.SERVICE, "faq-canary"),
                await api.get(Kinds.INGRESS, "faq"),
                await api.get(Kinds.SECRET, "faq-tls"),
            ]
        )

    await eventually(gone, "unwanted children are gone")
    assert await api.get(Kinds.DEPLOYMENT, "faq")


async def test_a_deleted_model_takes_everything_with_it(api, operator):
    await api.create(scoring_model())
    await complete(api)
    await api.delete(Kinds.SCORING_MODEL, "faq")

    async def gone():
        return not any([await api.get(kind, name) for kind, name in CHILDREN])

    await eventually(gone, "all children are gone")
    await at_rest(operator)
    assert await gone()


async def test_a_model_can_be_deleted_while_the_operator_is_away(api):
    async with running_operator(api.kubeconfig):
        await api.create(scoring_model())
        await complete(api)
    await api.delete(Kinds.SCORING_MODEL, "faq")
    assert await api.get(Kinds.SCORING_MODEL, "faq") is None


async def test_an_object_of_somebody_else_is_never_touched(api, operator):
    foreign = await api.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "faq", "namespace": "default"},
            "spec": {"selector": {"app": "mine"}, "ports": [{"port": 1234}]},
        }
    )
    await api.create(scoring_model())

    async def told():
        return (await api.ready_condition("faq")).get("reason") == "NameTaken"

    await eventually(told, "NameTaken is told")
    assert "Service faq" in (await api.ready_condition("faq"))["message"]
    assert await api.must_get(Kinds.SERVICE, "faq") == foreign
    await api.delete(Kinds.SCORING_MODEL, "faq")
    await at_rest(operator)
    assert await api.must_get(Kinds.SERVICE, "faq") == foreign


async def test_keys_are_made_once_and_survive_everything_but_their_deletion(api, operator):
    await api.create(scoring_model())
    await complete(api)
    first = read_keys(await api.must_get(Kinds.SECRET, "faq-keys"))
    assert set(first) == {"primary", "secondary"}
    assert len(first["primary"]) >= 40
    await api.patch(Kinds.SCORING_MODEL, "faq", {"spec": {"modelURI": "https://h/other"}})
    await at_rest(operator)
    assert read_keys(await api.must_get(Kinds.SECRET, "faq-keys")) == first

    await api.patch(Kinds.SECRET, "faq-keys", {"data": {"primary": None}})

    async def replaced():
        return read_keys(await api.must_get(Kinds.SECRET, "faq-keys")).get("primary")

    assert await eventually(replaced) != first["primary"]
    after = read_keys(await api.must_get(Kinds.SECRET, "faq-keys"))
    assert after["secondary"] == first["secondary"]


async def test_an_annotation_rotates_a_key_once(api, operator):
    await api.create(scoring_model())
    await complete(api)
    await at_rest(operator)
    first = read_keys(await api.must_get(Kinds.SECRET, "faq-keys"))
    rotate = {"metadata": {"annotations": {"mlscoring.io/rotate": "secondary"}}}
    await api.patch(Kinds.SECRET, "faq-keys", rotate)

    async def rotated():
        secret = await api.must_get(Kinds.SECRET, "faq-keys")
        return read_keys(secret)["secondary"] != first["secondary"] and secret

    secret = await eventually(rotated)
    assert "mlscoring.io/rotate" not in secret["metadata"]["annotations"]
    assert read_keys(secret)["primary"] == first["primary"]
    await at_rest(operator)
    assert read_keys(await api.must_get(Kinds.SECRET, "faq-keys")) == read_keys(secret)


async def test_the_self_signed_certificate_is_for_the_host_and_follows_it(api, operator):
    await api.create(scoring_model())
    await complete(api)
    view = read_certificate(await api.must_get(Kinds.SECRET, "faq-tls"))
    assert view.hosts == ("faq.default.models.localhost",)
    host = {"spec": {"ingress": {"host": "faq.example.com"}}}
    await api.patch(Kinds.SCORING_MODEL, "faq", host)

    async def followed():
        return read_certificate(await api.must_get(Kinds.SECRET, "faq-tls")).covers(
            "faq.example.com"
        )

    await eventually(followed)


async def test_a_certificate_is_renewed_before_it_ends(api):
    start = datetime.now(UTC)
    async with running_operator(api.kubeconfig, now=lambda: start) as operator:
        await api.create(scoring_model())
        await complete(api)
        await at_rest(operator)
    first = read_certificate(await api.must_get(Kinds.SECRET, "faq-tls"))
    later = start + timedelta(days=SETTINGS.certificate_days * 0.7)
    async with running_operator(api.kubeconfig, now=lambda: later) as operator:
        await at_rest(operator)
    second = read_certificate(await api.must_get(Kinds.SECRET, "faq-tls"))
    assert second.not_after > first.not_after
    expiry = (await api.must_get(Kinds.SCORING_MODEL, "faq"))["status"]["certificateExpiry"]
    assert expiry == second.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_a_given_certificate_is_checked(api, operator):
    await api.create(scoring_model(ingress={"host": "a.example.com", "tls": {"secretName": "own"}}))

    async def certificate():
        model = await api.must_get(Kinds.SCORING_MODEL, "faq")
        conditions = model.get("status", {}).get("conditions", ())
        return next((c for c in conditions if c["type"] == "Certificate"), None)

    assert (await eventually(certificate))["reason"] == "CertificatePending"
    assert await api.get(Kinds.SECRET, "faq-tls") is None


async def test_the_number_of_pods_survives_the_hand_over_to_the_autoscaler(api, operator):
    await api.create(scoring_model(replicas=3))
    await complete(api)
    seen = []
    patch = {"spec": {"replicas": None, "autoscaling": {"maxReplicas": 5}}}
    await api.patch(Kinds.SCORING_MODEL, "faq", patch)
    await eventually(lambda: api.get(Kinds.AUTOSCALER, "faq"))
    await at_rest(operator)
    deployment = await api.must_get(Kinds.DEPLOYMENT, "faq")
    seen.append(deployment["spec"]["replicas"])
    # The autoscaler takes over, and the operator does not interfere.
    await api.patch(Kinds.DEPLOYMENT, "faq", {"spec": {"replicas": 4}}, subresource="scale")
    await at_rest(operator)
    seen.append((await api.must_get(Kinds.DEPLOYMENT, "faq"))["spec"]["replicas"])
    # And back to a fixed number, without a detour.
    await api.patch(Kinds.SCORING_MODEL, "faq", {"spec": {"replicas": 2, "autoscaling": None}})

    async def fixed():
        return (await api.must_get(Kinds.DEPLOYMENT, "faq"))["spec"]["replicas"] == 2

    await eventually(fixed)
    assert seen == [3, 4]


async def test_the_scale_subresource_sets_the_number_of_pods(api, operator):
    await api.create(scoring_model())
    await complete(api)
    await api.patch(Kinds.SCORING_MODEL, "faq", {"spec": {"replicas": 4}}, subresource="scale")

    async def scaled():
        return (await api.must_get(Kinds.DEPLOYMENT, "faq"))["spec"]["replicas"] == 4

    await eventually(scaled)


async def test_applying_the_old_spec_gives_the_old_revision(api, operator):
    await api.create(scoring_model())
    await complete(api)

    async def revision():
        return (await api.must_get(Kinds.SCORING_MODEL, "faq"))["status"]["revision"]

    first = await revision()
    await api.patch(Kinds.SCORING_MODEL, "faq", {"spec": {"modelURI": "https://h/other"}})

    async def other():
        return await revision() != first

    await eventually(other)
    old = {"spec": {"modelURI": scoring_model()["spec"]["modelURI"]}}
    await api.patch(Kinds.SCORING_MODEL, "faq", old)

    async def same():
        return await revision() == first

    await eventually(same)


async def test_a_child_that_the_api_server_refuses_becomes_a_condition(api, operator):
    await api.create(scoring_model(affinity={"nodeAffinity": {"requiredDuring": "x", "bad": 1}}))

    async def told():
        condition = await api.ready_condition("faq")
        return condition.get("reason") == "InvalidSpec" and condition

    condition = await eventually(told)
    assert "Deployment faq" in condition["message"]


async def test_a_pod_tells_why_it_is_not_ready(api, operator):
    await api.create(scoring_model())
    await complete(api)
    deployment = await api.must_get(Kinds.DEPLOYMENT, "faq")
    template = deployment["spec"]["template"]
    owner = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "faq",
        "uid": deployment["metadata"]["uid"],
        "controller": True,
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": "faq-abc", "ownerReferences": [owner]},
        "spec": template["spec"],
    }
    await api.create(pod)
    words = {"reason": "ModelNotFound", "message": "404 for https://h/m", "hint": "Correct it."}
    ended = {"exitCode": 1, "reason": "Error", "message": json.dumps(words)}
    status = {
        "phase": "Pending",
        "initContainerStatuses": [
            {
                "name": "fetch",
                "image": "i",
                "imageID": "i",
                "ready": False,
                "restartCount": 1,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": ended},
            }
        ],
    }
    await api.patch(Kinds.POD, "faq-abc", {"status": status}, subresource="status")

    async def told():
        condition = await api.ready_condition("faq")
        return condition.get("reason") == "ModelNotFound" and condition

    condition = await eventually(told)
    assert condition["message"] == "pod faq-abc: 404 for https://h/m. Correct it."

    async def posted():
        return [e for e in await api.list(Kinds.EVENT) if e["reason"] == "ModelNotFound"]

    assert [e["type"] for e in await eventually(posted)] == ["Warning"]


async def test_only_its_own_namespace_is_looked_after(api):
    async with running_operator(api.kubeconfig, namespace="elsewhere") as operator:
        await api.create(scoring_model())
        await at_rest(operator)
        assert writes(operator) == 0


@pytest.mark.parametrize("seed", range(3))
async def test_bad_weather_converges(api, tmp_path, seed):
    weather = Weather(api.kubeconfig, seed=seed, trouble=0.15)
    async with (
        weather.blowing(tmp_path) as kubeconfig,
        running_operator(kubeconfig) as operator,
    ):
        for number in range(4):
            await api.create(scoring_model(f"m{number}"))
        await api.delete(Kinds.SCORING_MODEL, "m3")
        for number in range(3):
            await complete(api, f"m{number}")
        await api.patch(Kinds.SCORING_MODEL, "m0", {"spec": {"replicas": 3}})

        async def scaled():
            return (await api.must_get(Kinds.DEPLOYMENT, "m0"))["spec"]["replicas"] == 3

        await eventually(scaled)
        await api.delete(Kinds.SERVICE, "m1")
        await eventually(lambda: api.get(Kinds.SERVICE, "m1"))
        assert weather.troubles
        weather.trouble = 0.0
        await at_rest(operator)
    assert await api.get(Kinds.DEPLOYMENT, "m3") is None
    # What was written in bad weather is what good weather would have written.
    async with running_operator(api.kubeconfig) as fair:
        await at_rest(fair)
        assert writes(fair) == 0


async def test_nothing_secret_is_in_status_events_annotations_or_logs(api, operator, caplog):
    caplog.set_level("DEBUG")
    await api.create(scoring_model())
    await complete(api)
    secret = await api.must_get(Kinds.SECRET, "faq-keys")
    keys = [base64.b64decode(v).decode() for v in secret["data"].values()]
    seen = json.dumps(
        [
            await api.must_get(Kinds.SCORING_MODEL, "faq"),
            await api.list(Kinds.EVENT),
            await api.must_get(Kinds.DEPLOYMENT, "faq"),
            secret["metadata"],
            caplog.text,
        ]
    )
    assert not any(key in seen for key in keys)


# The first twenty calls fill the caches.
@pytest.mark.parametrize("calls", [20, 22, 24, 27, 30, 33, 36])
async def test_an_operator_that_dies_at_any_call_is_finished_by_the_next(api, monkeypatch, calls):
    """The connection breaks for good after so many calls, as seen by a process that is killed there."""
    left = calls
    real = Client._call_once

    async def dying(self, *arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise asyncio.CancelledError
        return await real(self, *arguments)

    await api.create(scoring_model(autoscaling={"minReplicas": 2, "maxReplicas": 3}))
    with monkeypatch.context() as patch:
        patch.setattr(Client, "_call_once", dying)
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.timeout(30), running_operator(api.kubeconfig) as operator:
                await _until_dead(operator, lambda: left < 0)
    before = read_keys(await api.get(Kinds.SECRET, "faq-keys"))
    async with running_operator(api.kubeconfig) as operator:
        await complete(api)
        await at_rest(operator)
    after = read_keys(await api.must_get(Kinds.SECRET, "faq-keys"))
    assert before in ({}, after)
    async with running_operator(api.kubeconfig) as operator:
        await at_rest(operator)
        assert writes(operator) == 0


async def _until_dead(operator, dead):
    while not dead() and not operator.liveness_problem():
        if operator.queue.is_idle and writes(operator) and not dead():
            await at_rest(operator)
            return
        await asyncio.sleep(0.01)


async def test_a_namespace_that_is_being_deleted_is_told_and_not_fought(api, operator, monkeypatch):
    """Children go one after the other; each of them made again would be refused each time."""
    real = Client._call_once
    terminating = True
    refused = []

    async def while_terminating(self, method, path, query, body, type_):
        if terminating and method == "POST" and not path.endswith("/scoringmodels"):
            refused.append(path)
            text = (
                'serviceaccounts "faq" is forbidden: unable to create new content in namespace default '
                "because it is being terminated"
            )
            raise error_from_answer(403, json.dumps({"message": text}).encode(), doing="post")
        return await real(self, method, path, query, body, type_)

    monkeypatch.setattr(Client, "_call_once", while_terminating)
    await api.create(scoring_model())
    await eventually(lambda: api.ready_condition("faq"))
    await at_rest(operator)
    condition = await api.ready_condition("faq")
    assert (condition["status"], condition["reason"]) == ("False", "Progressing")
    assert condition["message"].startswith("namespace default is being deleted")
    children = [path for path in refused if not path.endswith("/events")]
    reconciles = operator.metrics.registry.get_sample_value(
        "scoring_operator_reconcile_seconds_count"
    )
    assert 1 <= len(children) <= reconciles
    assert len(set(children)) == 1
    terminating = False
    operator.queue.add(Key("default", "faq"))
    await complete(api)


async def test_a_change_in_the_moment_of_a_status_write_is_not_missed(api, monkeypatch):
    """The watch is late: the answer to the status write brings the change before its own event does."""
    call, watch = Client._call_once, Client.watch
    of_model, of_children = asyncio.Event(), asyncio.Event()
    of_model.set()
    changed = False

    async def late(self, path, **options):
        async for event in watch(self, path, **options):
            await (of_model if path.endswith("/scoringmodels") else of_children).wait()
            yield event

    async def change_before(self, method, path, query, body, type_):
        nonlocal changed
        if changed or not path.endswith("/status"):
            return await call(self, method, path, query, body, type_)
        changed = True
        of_model.clear()
        await api.patch(Kinds.SCORING_MODEL, "faq", {"spec": {"replicas": 3}})
        answer = await call(self, method, path, query, body, type_)
        for held in (of_model, of_children):
            asyncio.get_running_loop().call_soon(held.set)
        return answer

    monkeypatch.setattr(Client, "_call_once", change_before)
    monkeypatch.setattr(Client, "watch", late)
    async with running_operator(api.kubeconfig):
        await api.create(scoring_model())

        async def followed():
            deployment = await api.get(Kinds.DEPLOYMENT, "faq")
            return deployment and deployment["spec"]["replicas"] == 3

        await eventually(followed, "the change is followed", 10)
