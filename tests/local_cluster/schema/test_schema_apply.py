"""Server-side apply and managed fields: ownership rules, and properties that hold for any object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_cluster.schema import (
    ApplyConflict,
    Catalog,
    PatchError,
    Schema,
    apply_defaults,
    keep_unchanged,
    server_side_apply,
    track_update,
)

SchemaOf = Callable[[str, str], Schema]
_EARLY, _LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def _deployment_schema() -> Schema:
    schema = Catalog.builtin().schema("apps", "v1", "Deployment")
    assert schema is not None
    return schema


def _apply(
    live: dict[str, Any] | None,
    applied: dict[str, Any],
    manager: str = "a",
    *,
    force: bool = False,
    now: str = _EARLY,
) -> dict[str, Any]:
    schema = _deployment_schema()
    merged = server_side_apply(
        live, applied, manager=manager, force=force, schema=schema, api_version="apps/v1", now=now
    )
    stored = apply_defaults(merged, schema, "apps", "v1", "Deployment")
    return keep_unchanged(live, stored) if live is not None else stored


def _deployment(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": spec,
    }


def _pod(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": list(containers)}}


def _fields(obj: dict[str, Any], manager: str) -> dict[str, Any]:
    entries = [e for e in obj["metadata"].get("managedFields", ()) if e["manager"] == manager]
    return entries[0]["fieldsV1"] if entries else {}


def test_field_that_is_no_longer_applied_goes_away() -> None:
    live = _apply(
        None,
        _deployment(minReadySeconds=5, template=_pod({"name": "c", "image": "x", "args": ["a"]})),
    )
    after = _apply(live, _deployment(template=_pod({"name": "c", "image": "x"})))
    assert "minReadySeconds" not in after["spec"]
    assert "args" not in after["spec"]["template"]["spec"]["containers"][0]


def test_field_that_another_manager_owns_too_stays() -> None:
    live = _apply(None, _deployment(minReadySeconds=5))
    live = _apply(live, _deployment(minReadySeconds=5), "b")
    after = _apply(live, _deployment(paused=True))
    assert after["spec"]["minReadySeconds"] == 5
    assert _fields(after, "b") == {"f:spec": {"f:minReadySeconds": {}}}


def test_removed_list_item_leaves_the_items_of_others_in_place() -> None:
    live = _apply(
        None, _deployment(template=_pod({"name": "a", "image": "1"}, {"name": "b", "image": "2"}))
    )
    live = _apply(live, _deployment(template=_pod({"name": "side", "image": "3"})), "mesh")
    after = _apply(live, _deployment(template=_pod({"name": "b", "image": "2"})))
    assert [c["name"] for c in after["spec"]["template"]["spec"]["containers"]] == ["b", "side"]


def test_applied_item_order_wins_over_the_live_order() -> None:
    live = _apply(
        None, _deployment(template=_pod({"name": "a", "image": "1"}, {"name": "b", "image": "2"}))
    )
    after = _apply(
        live, _deployment(template=_pod({"name": "b", "image": "2"}, {"name": "a", "image": "1"}))
    )
    assert [c["name"] for c in after["spec"]["template"]["spec"]["containers"]] == ["b", "a"]


def test_conflicts_with_two_managers_are_all_named() -> None:
    live = _apply(None, _deployment(replicas=1))
    live = _apply(live, _deployment(minReadySeconds=3), "b")
    with pytest.raises(ApplyConflict) as caught:
        _apply(live, _deployment(replicas=2, minReadySeconds=4), "c")
    assert {(c.field, c.message) for c in caught.value.causes} == {
        (".spec.replicas", 'conflict with "a"'),
        (".spec.minReadySeconds", 'conflict with "b"'),
    }
    assert str(caught.value).startswith("Apply failed with 2 conflicts: conflicts with")


def test_force_takes_the_field_from_its_owner() -> None:
    live = _apply(None, _deployment(replicas=1))
    after = _apply(live, _deployment(replicas=2), "b", force=True)
    assert after["spec"]["replicas"] == 2
    assert _fields(after, "a") == {}
    assert _fields(after, "b") == {"f:spec": {"f:replicas": {}}}


def test_apply_of_empty_collections_settles() -> None:
    applied = _deployment(
        template=_pod({"name": "c", "image": "x", "args": [], "resources": {"limits": {}}})
    )
    applied["metadata"]["labels"] = {}
    live = _apply(None, applied)
    assert "labels" not in live["metadata"]
    assert _apply(live, applied, now=_LATE) is live


def test_apply_that_changes_nothing_returns_the_live_object_with_its_times() -> None:
    live = _apply(None, _deployment(replicas=1), now=_EARLY)
    schema = _deployment_schema()
    again = server_side_apply(
        live,
        _deployment(replicas=1),
        manager="a",
        force=False,
        schema=schema,
        api_version="apps/v1",
        now=_LATE,
    )
    assert again is live


def test_kubectl_takes_over_what_its_client_side_apply_set(schema_of: SchemaOf) -> None:
    last = '{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":1}}\n'
    new = _deployment(replicas=1)
    new["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": last}
    schema = schema_of("apps/v1", "Deployment")
    live = track_update(
        None,
        new,
        manager="kubectl-client-side-apply",
        subresource="",
        schema=schema,
        api_version="apps/v1",
        now=_EARLY,
    )
    after = _apply(live, _deployment(replicas=3), "kubectl")
    assert after["spec"]["replicas"] == 3
    with pytest.raises(ApplyConflict):
        _apply(live, _deployment(replicas=3), "somebody-else")


def test_first_apply_to_an_untracked_object_conflicts_with_what_was_there() -> None:
    live = {**_deployment(replicas=1), "metadata": {"name": "web", "uid": "u"}}
    with pytest.raises(ApplyConflict, match="before-first-apply"):
        _apply(live, _deployment(replicas=2))


def test_status_in_a_main_apply_is_ignored() -> None:
    applied = {**_deployment(replicas=1), "status": {"replicas": 7}}
    after = _apply(None, applied)
    assert "f:status" not in _fields(after, "a")


@pytest.mark.parametrize(
    ("applied", "message"),
    [
        (_deployment(replica=1), r".spec.replica: field not declared in schema"),
        (
            _deployment(template=_pod({"name": "a", "image": "1"}, {"name": "a", "image": "2"})),
            r'duplicate entries for key \[name="a"\]',
        ),
        (_deployment(template=[]), "expected map, got"),
    ],
)
def test_object_that_does_not_fit_the_schema_cannot_be_applied(
    applied: dict[str, Any], message: str
) -> None:
    with pytest.raises(PatchError, match=message) as caught:
        _apply(None, applied)
    assert str(caught.value).startswith(
        "failed to create typed patch object (/web; apps/v1, Kind=Deployment): "
    )


def test_list_item_without_its_keys_cannot_be_applied(schema_of: SchemaOf) -> None:
    applied = {"metadata": {"name": "m"}, "status": {"conditions": [{"status": "True"}]}}
    with pytest.raises(PatchError, match="omits all key fields"):
        server_side_apply(
            None,
            applied,
            manager="a",
            force=False,
            schema=schema_of("mlscoring.io/v1", "ScoringModel"),
            api_version="mlscoring.io/v1",
            now=_EARLY,
        )


def test_applied_managed_fields_are_refused() -> None:
    applied = _deployment()
    applied["metadata"]["managedFields"] = [{"manager": "x"}]
    with pytest.raises(PatchError, match=r"metadata\.managedFields must be nil"):
        _apply(None, applied)


def test_oldest_update_managers_are_thrown_together(schema_of: SchemaOf) -> None:
    schema = schema_of("v1", "ConfigMap")
    live: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c"},
        "data": {},
    }
    old: dict[str, Any] | None = None
    for n in range(12):
        new = {**live, "data": {**live["data"], f"k{n}": "v"}}
        old = live = track_update(
            old,
            new,
            manager=f"m{n:02}",
            subresource="",
            schema=schema,
            api_version="v1",
            now=f"2026-01-01T00:00:{n:02}Z",
        )
    managers = [entry["manager"] for entry in live["metadata"]["managedFields"]]
    assert len(managers) == 10
    assert "ancient-changes" in managers
    assert "m00" not in managers


def test_clients_can_forget_all_owners(schema_of: SchemaOf) -> None:
    schema = schema_of("v1", "ConfigMap")
    args: dict[str, Any] = {"subresource": "", "schema": schema, "api_version": "v1", "now": _EARLY}
    new = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    live = track_update(None, new, manager="m", **args)
    reset = {**live, "metadata": {**live["metadata"], "managedFields": [{}]}}
    assert "managedFields" not in track_update(live, reset, manager="m", **args)["metadata"]


_names = st.sampled_from(["a", "b", "c"])
_labels = st.dictionaries(_names, st.sampled_from(["1", "2"]), min_size=1, max_size=3)
_container = st.fixed_dictionaries(
    {"name": _names},
    optional={
        "image": st.sampled_from(["x:1", "x:2"]),
        "args": st.lists(st.sampled_from(["p", "q"]), min_size=1, max_size=2),
        "env": st.lists(
            st.fixed_dictionaries({"name": _names, "value": st.sampled_from(["1", "2"])}),
            min_size=1,
            max_size=3,
            unique_by=lambda item: item["name"],
        ),
        "ports": st.lists(
            st.fixed_dictionaries(
                {"containerPort": st.sampled_from([80, 443])}, optional={"name": _names}
            ),
            min_size=1,
            max_size=2,
            unique_by=lambda item: item["containerPort"],
        ),
        "resources": st.fixed_dictionaries(
            {"limits": st.dictionaries(_names, st.just("1"), min_size=1, max_size=2)}
        ),
    },
)
_configs = st.builds(
    lambda labels, containers, spec: {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "labels": labels},
        "spec": {
            **spec,
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    },
    _labels,
    st.lists(_container, min_size=1, max_size=3, unique_by=lambda item: item["name"]),
    st.fixed_dictionaries({}, optional={"replicas": st.integers(0, 3), "paused": st.booleans()}),
)


def _contains(obj: Any, part: Any) -> bool:
    """Tell whether every applied value is in the object, lists of maps by any matching item."""
    if isinstance(part, dict):
        return isinstance(obj, dict) and all(
            key in obj and _contains(obj[key], part[key]) for key in part
        )
    if isinstance(part, list):
        return isinstance(obj, list) and all(any(_contains(o, p) for o in obj) for p in part)
    return bool(obj == part)


@given(first=_configs)
@settings(max_examples=60, deadline=None)
def test_apply_is_idempotent(first: dict[str, Any]) -> None:
    live = _apply(None, first)
    assert _apply(live, first, now=_LATE) == live


@given(first=_configs, second=_configs, third=_configs)
@settings(max_examples=80, deadline=None)
def test_forced_apply_always_ends_with_the_applied_values(
    first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]
) -> None:
    live = _apply(None, first, "a")
    live = _apply(live, second, "b", force=True)
    live = _apply(live, third, "a", force=True)
    assert _contains(live, third)


@given(first=_configs, second=_configs)
@settings(max_examples=80, deadline=None)
def test_two_managers_that_agree_converge_whoever_applies_last(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    live = _apply(None, first, "a")
    live = _apply(live, second, "b", force=True)
    mine = _apply(live, second, "a", force=True)
    settled = _apply(mine, second, "b", force=True)
    assert _apply(settled, second, "a", force=True) == settled
    assert settled["spec"] == mine["spec"]
    assert _fields(settled, "a") == _fields(settled, "b")


@given(first=_configs, second=_configs)
@settings(max_examples=80, deadline=None)
def test_sole_manager_gets_what_a_fresh_apply_would_give(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    live = _apply(None, first)
    after = _apply(live, second, now=_LATE)
    fresh = _apply(None, second)
    assert _fields(after, "a") == _fields(fresh, "a")
    labels = second["metadata"]["labels"]
    assert (after["metadata"].get("labels") or {}) == labels
    kept = [c["name"] for c in after["spec"]["template"]["spec"].get("containers") or []]
    assert sorted(kept) == sorted(
        c["name"] for c in second["spec"]["template"]["spec"]["containers"]
    )


@given(first=_configs, second=_configs)
@settings(max_examples=80, deadline=None)
def test_update_that_changes_nothing_keeps_times_and_owners(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    schema = _deployment_schema()
    args: dict[str, Any] = {"subresource": "", "schema": schema, "api_version": "apps/v1"}
    old = track_update(None, first, manager="a", now=_EARLY, **args)
    new = {
        **second,
        "metadata": {
            **second["metadata"],
            "managedFields": old["metadata"].get("managedFields", []),
        },
    }
    live = track_update(old, new, manager="b", now=_LATE, **args)
    assert track_update(live, live, manager="c", now="2027-01-01T00:00:00Z", **args) is live
