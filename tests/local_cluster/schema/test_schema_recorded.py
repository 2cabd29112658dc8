"""What a real server stored and refused, replayed through the library."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from local_cluster.schema import (
    ApplyConflict,
    Schema,
    apply_defaults,
    decode_error,
    json_merge_patch,
    json_patch,
    keep_unchanged,
    prune,
    server_side_apply,
    strategic_merge_patch,
    track_update,
    validate,
)

SchemaOf = Callable[[str, str], Schema]
# What the server, not this library, chooses.
_CHOSEN = ("uid", "resourceVersion", "creationTimestamp", "generation", "name")
_ALLOCATED = ("clusterIP", "clusterIPs")


def _time(response: dict[str, Any], entry: dict[str, Any]) -> str:
    for owner in response["metadata"]["managedFields"]:
        same = (
            owner["manager"] == entry["manager"]
            and owner.get("subresource", "") == entry["subresource"]
        )
        if same and (owner["operation"] == "Apply") is ("apply" in entry["contentType"]):
            return str(owner.get("time"))
    return "2026-11-22T12:00:00Z"


def _replay(entry: dict[str, Any], schema: Schema, response: dict[str, Any]) -> dict[str, Any]:
    api_version, kind = response["apiVersion"], response["kind"]
    group, _, version = api_version.rpartition("/")
    live, request = entry["live"], entry["request"]
    common: dict[str, Any] = {
        "manager": entry["manager"],
        "schema": schema,
        "api_version": api_version,
        "now": _time(response, entry),
        "subresource": entry["subresource"],
    }
    if "apply" in entry["contentType"]:
        applied = {**request, "metadata": {**request["metadata"], "namespace": "default"}}
        merged = server_side_apply(live, applied, force=entry["force"], **common)
        merged = apply_defaults(merged, schema, group, version, kind)
        return keep_unchanged(live, merged) if live else merged
    if entry["method"] == "POST":
        new = {"apiVersion": api_version, "kind": kind, **request}
    elif "strategic" in entry["contentType"]:
        new = strategic_merge_patch(live, request, schema)
    elif "merge" in entry["contentType"]:
        new = json_merge_patch(live, request)
    else:
        new = json_patch(live, request)
    new, unknown = prune(new, schema)
    assert unknown == []
    new = apply_defaults(new, schema, group, version, kind)
    if entry["subresource"] == "status":
        new = {**live, "status": new["status"]}
    return track_update(live, new, **common)


def _comparable(obj: dict[str, Any], *, created: bool) -> dict[str, Any]:
    out = copy.deepcopy(obj)
    for field in (*_CHOSEN,) if created else ("resourceVersion", "generation"):
        out["metadata"].pop(field, None)
    for field in _ALLOCATED if created else ():
        out.get("spec", {}).pop(field, None)
    return out


def test_write_ends_as_the_real_server_stored_it(
    recorded_write: dict[str, Any], schema_of: SchemaOf
) -> None:
    response = recorded_write["response"]
    schema = schema_of(response["apiVersion"], response["kind"])
    before = copy.deepcopy(recorded_write)
    stored = _replay(recorded_write, schema, response)
    created = recorded_write["live"] is None
    assert _comparable(stored, created=created) == _comparable(response, created=created)
    assert recorded_write == before, "inputs must not be edited"


def test_stored_object_is_valid_and_fully_defaulted(
    recorded_write: dict[str, Any], schema_of: SchemaOf
) -> None:
    stored = recorded_write["response"]
    group, _, version = stored["apiVersion"].rpartition("/")
    schema = schema_of(stored["apiVersion"], stored["kind"])
    gvk = (group, version, stored["kind"])
    assert decode_error(stored, schema, *gvk) is None
    assert prune(stored, schema) == (stored, [])
    assert apply_defaults(stored, schema, *gvk) == stored
    assert validate(stored, schema, *gvk, None) == []


@pytest.mark.parametrize("step", [47, 57])
def test_refusal_has_the_causes_of_the_real_server(
    step: int, writes: dict[int, dict[str, Any]], schema_of: SchemaOf
) -> None:
    entry = writes[step]
    schema = schema_of("mlscoring.io/v1", "ScoringModel")
    gvk = ("mlscoring.io", "v1", "ScoringModel")
    new = apply_defaults(json_merge_patch(entry["live"], entry["request"]), schema, *gvk)
    causes = [
        {"field": error.field, "reason": error.reason, "message": error.message}
        for error in validate(new, schema, *gvk, entry["live"])
    ]
    assert causes == entry["response"]["details"]["causes"]


def test_misspelt_field_is_named_by_its_path(
    writes: dict[int, dict[str, Any]], schema_of: SchemaOf
) -> None:
    entry = writes[52]
    schema = schema_of("mlscoring.io/v1", "ScoringModel")
    new = json_merge_patch(entry["live"], entry["request"])
    pruned, unknown = prune(new, schema)
    assert unknown == ["spec.framwork"]
    assert "framwork" not in pruned["spec"]
    assert "framwork" in new["spec"]


def test_apply_conflict_reads_as_the_real_server_says_it(
    writes: dict[int, dict[str, Any]], schema_of: SchemaOf
) -> None:
    entry = writes[84]
    with pytest.raises(ApplyConflict) as caught:
        server_side_apply(
            entry["live"],
            entry["request"],
            manager="me",
            force=False,
            schema=schema_of("mlscoring.io/v1", "ScoringModel"),
            api_version="mlscoring.io/v1",
            now="2026-11-22T11:40:58Z",
        )
    assert str(caught.value) == entry["response"]["message"]
    causes = [
        {"reason": c.reason, "message": c.message, "field": c.field} for c in caught.value.causes
    ]
    assert causes == entry["response"]["details"]["causes"]


def test_scaling_takes_the_replicas_without_leaving_a_time(
    writes: dict[int, dict[str, Any]], schema_of: SchemaOf
) -> None:
    before, after = writes[69]["response"], writes[79]["live"]
    scaled = {**before, "spec": {**before["spec"], "replicas": 3}}
    stored = track_update(
        before,
        scaled,
        manager="kubectl",
        subresource="scale",
        schema=schema_of("mlscoring.io/v1", "ScoringModel"),
        api_version="mlscoring.io/v1",
        now="2026-11-22T11:40:57Z",
    )
    assert stored["metadata"]["managedFields"] == after["metadata"]["managedFields"]
