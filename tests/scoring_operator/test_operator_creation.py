"""Children are created by one call that cannot overwrite anything, and what was not known of is looked at first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from operator_cluster import at_rest, eventually, running_api, running_operator, scoring_model

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
            assert made["PATCH", kind.plural, "201"] == (2 if kind is Kinds.SECRET else 1)
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


async def test_a_server_that_wants_no_version_with_a_new_object_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Client._call_once

    async def strict(
        self: Client, method: str, path: str, query: Any, body: Any, type_: str
    ) -> Any:
        if body and body.get("metadata", {}).get("resourceVersion") == "1":
            raise ConflictError("no version, please", status=409)
        return await real(self, method, path, query, body, type_)

    monkeypatch.setattr(Client, "_call_once", strict)
    async with running_api(tmp_path) as api, running_operator(api.kubeconfig):
        await api.create(scoring_model())
        for child in CHILDREN:
            await eventually(lambda c=child: api.get(*c))
