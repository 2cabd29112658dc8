"""Children are created by one call that cannot overwrite anything, and what was not known of is looked at first."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from operator_cluster import (
    at_rest,
    eventually,
    running_api,
    running_operator,
    scoring_model,
    writes,
)

from scoring_operator.api import Kinds
from scoring_operator.cluster import Client, ConflictError

LABEL = "app.kubernetes.io/managed-by"
UNLABEL = {"metadata": {"labels": {LABEL: None}}}
CHILDREN = [
    (Kinds.SERVICE_ACCOUNT, "faq"),
    (Kinds.SECRET, "faq-keys"),
    (Kinds.SECRET, "faq-tls"),
    (Kinds.SERVICE, "faq"),
    (Kinds.DEPLOYMENT, "faq"),
    (Kinds.DISRUPTION_BUDGET, "faq"),
    (Kinds.INGRESS, "faq"),
]


async def test_a_new_child_takes_one_call(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api, running_operator(api.kubeconfig) as operator:
        await api.create(scoring_model())
        await eventually(lambda: api.get(Kinds.INGRESS, "faq"))
        await at_rest(operator)
        made = {
            (s.labels["verb"], s.labels["resource"], s.labels["code"]): s.value
            for metric in operator.metrics.calls.collect()
            for s in metric.samples
            if s.name.endswith("_total")
        }
        for kind, _ in CHILDREN:
            assert made["POST", kind.plural, "201"] == (2 if kind is Kinds.SECRET else 1)
            assert ("GET", kind.plural, "404") not in made


async def test_children_that_lost_their_label_are_found_again_with_all_that_they_hold(
    tmp_path: Path,
) -> None:
    async with running_api(tmp_path) as api:
        await api.create(scoring_model())
        async with running_operator(api.kubeconfig) as operator:
            await eventually(lambda: api.get(Kinds.INGRESS, "faq"))
            await at_rest(operator)
        before = {child: await api.must_get(*child) for child in CHILDREN}
        for kind, name in CHILDREN:
            await api.patch(kind, name, UNLABEL)
        async with running_operator(api.kubeconfig):

            async def back() -> bool:
                found = [await api.must_get(*child) for child in CHILDREN]
                return all(LABEL in each["metadata"]["labels"] for each in found)

            await eventually(back, "the labels are back")
        for child in CHILDREN:
            after = await api.must_get(*child)
            assert after["metadata"]["uid"] == before[child]["metadata"]["uid"]
            for part in ("spec", "data"):
                assert after.get(part) == before[child].get(part), child


async def test_a_created_child_loses_what_its_spec_no_longer_names(tmp_path: Path) -> None:
    """Nothing but our own fields counts as applied afterwards, and what somebody else added stays."""
    model = scoring_model(env=[{"name": "OLD", "value": "1"}, {"name": "KEPT", "value": "2"}])
    async with running_api(tmp_path) as api, running_operator(api.kubeconfig) as operator:
        await api.create(model)
        await eventually(lambda: api.get(Kinds.INGRESS, "faq"))
        await at_rest(operator)
        stranger = {"metadata": {"annotations": {"of/somebody": "else"}}}
        await api.patch(Kinds.DEPLOYMENT, "faq", stranger)
        env = {"spec": {"env": [{"name": "KEPT", "value": "2"}]}}
        await api.patch(Kinds.SCORING_MODEL, "faq", env)

        async def follows() -> bool:
            return names_of(await api.must_get(Kinds.DEPLOYMENT, "faq")) == {"KEPT"}

        await eventually(follows, "the variable is gone")
        deployment = await api.must_get(Kinds.DEPLOYMENT, "faq")
        metadata = deployment["metadata"]
        assert metadata["annotations"]["of/somebody"] == "else"
        ways = {(e["manager"], e["operation"]) for e in metadata["managedFields"]}
        assert {("scoring-operator", "Apply"), ("kubectl-edit", "Update")} <= ways
        assert ("scoring-operator", "Update") not in ways


async def test_empty_values_that_a_server_does_not_store_are_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real API server does so with built-in kinds: an empty value of a variable has no owner after a create."""
    real = Client._call_once

    async def forgetful(
        self: Client, method: str, path: str, query: Any, body: Any, type_: str
    ) -> Any:
        if method == "POST" and path.endswith("/deployments"):
            body = copy.deepcopy(body)
            for variable in variables_of(body):
                if variable.get("value") == "":
                    del variable["value"]
        return await real(self, method, path, query, body, type_)

    monkeypatch.setattr(Client, "_call_once", forgetful)
    async with running_api(tmp_path) as api:
        async with running_operator(api.kubeconfig) as operator:
            await api.create(scoring_model(env=[{"name": "EMPTY", "value": ""}]))
            await eventually(lambda: api.get(Kinds.INGRESS, "faq"))
            await at_rest(operator)
            assert names_of(await api.must_get(Kinds.DEPLOYMENT, "faq")) == {"EMPTY"}
        async with running_operator(api.kubeconfig) as operator:
            await at_rest(operator)
            assert writes(operator) == 0


async def test_a_name_that_is_free_again_when_it_is_looked_at_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Client._call_once
    taken = True

    async def taken_once(
        self: Client, method: str, path: str, query: Any, body: Any, type_: str
    ) -> Any:
        nonlocal taken
        if taken and method == "POST" and path.endswith("/services"):
            taken = False
            raise ConflictError("services faq already exists", status=409)
        return await real(self, method, path, query, body, type_)

    monkeypatch.setattr(Client, "_call_once", taken_once)
    async with running_api(tmp_path) as api, running_operator(api.kubeconfig):
        await api.create(scoring_model())
        for child in CHILDREN:
            await eventually(lambda c=child: api.get(*c))


def variables_of(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return [variable for container in containers for variable in container.get("env", ())]


def names_of(deployment: dict[str, Any]) -> set[str]:
    return {v["name"] for v in variables_of(deployment)} & {"OLD", "KEPT", "EMPTY"}
