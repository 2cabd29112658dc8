"""The three kinds of patch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_cluster.schema import (
    PatchError,
    Schema,
    json_merge_patch,
    json_patch,
    strategic_merge_patch,
)

SchemaOf = Callable[[str, str], Schema]

_scalars = st.one_of(
    st.booleans(),
    st.integers(-5, 5),
    st.text("ab", max_size=2),
    st.lists(st.integers(0, 2), max_size=2),
)
_objects = st.recursive(
    st.dictionaries(st.sampled_from("abc"), _scalars, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.one_of(_scalars, inner), max_size=3),
    max_leaves=8,
)


def _merge_diff(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        mine = old.get(key)
        if isinstance(value, dict) and isinstance(mine, dict):
            patch[key] = _merge_diff(mine, value)
        elif key not in old or mine != value or type(mine) is not type(value):
            patch[key] = value
    return patch


@given(old=_objects, new=_objects)
def test_merge_patch_made_from_a_difference_restores_the_other_object(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    assert json_merge_patch(old, _merge_diff(old, new)) == new


def test_merge_patch_drops_nulls_below_new_objects() -> None:
    assert json_merge_patch({}, {"a": {"b": None, "c": 1}}) == {"a": {"c": 1}}


def test_json_patch_leaves_its_input_alone() -> None:
    live = {"spec": {"items": [1, 2]}}
    assert json_patch(live, [{"op": "add", "path": "/spec/items/-", "value": 3}]) == {
        "spec": {"items": [1, 2, 3]}
    }
    assert live == {"spec": {"items": [1, 2]}}


@pytest.mark.parametrize(
    ("op", "code"),
    [
        ({"op": "remove", "path": "/nope"}, 422),
        ({"op": "replace", "path": "/a/b/c", "value": 1}, 422),
        ({"op": "test", "path": "/spec", "value": 2}, 422),
        ({"op": "shuffle", "path": "/spec"}, 422),
        ("no object", 400),
    ],
)
def test_json_patch_that_cannot_be_applied_says_why(op: Any, code: int) -> None:
    with pytest.raises(PatchError) as caught:
        json_patch({"spec": 1}, [op])
    assert caught.value.code == code


@pytest.fixture
def pod(schema_of: SchemaOf) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    schema = schema_of("v1", "Pod")
    return lambda obj, patch: strategic_merge_patch(obj, patch, schema)


Patch = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def test_strategic_patch_merges_containers_by_name(pod: Patch) -> None:
    live = {
        "spec": {
            "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2", "args": ["x"]}]
        }
    }
    after = pod(
        live, {"spec": {"containers": [{"name": "b", "image": "3"}, {"name": "c", "image": "4"}]}}
    )
    assert after["spec"]["containers"] == [
        {"name": "a", "image": "1"},
        {"name": "b", "image": "3", "args": ["x"]},
        {"name": "c", "image": "4"},
    ]


def test_strategic_patch_deletes_an_item_by_its_key(pod: Patch) -> None:
    live = {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}
    after = pod(live, {"spec": {"containers": [{"$patch": "delete", "name": "a"}]}})
    assert after["spec"]["containers"] == [{"name": "b"}]


def test_strategic_patch_replaces_a_whole_list(pod: Patch) -> None:
    live = {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}
    after = pod(live, {"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}})
    assert after["spec"]["containers"] == [{"name": "z"}]


def test_strategic_patch_replaces_a_whole_map(pod: Patch) -> None:
    live = {"metadata": {"labels": {"a": "1"}}}
    assert pod(live, {"metadata": {"labels": {"$patch": "replace", "b": "2"}}}) == {
        "metadata": {"labels": {"b": "2"}}
    }


def test_strategic_patch_keeps_only_retained_keys(pod: Patch) -> None:
    live = {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}
    patch = {
        "spec": {
            "volumes": [
                {"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}
            ]
        }
    }
    assert pod(live, patch)["spec"]["volumes"] == [{"name": "v", "secret": {"secretName": "s"}}]


def test_strategic_patch_deletes_from_lists_of_plain_values(pod: Patch) -> None:
    live = {"metadata": {"finalizers": ["a/x", "b/x", "c/x"]}}
    after = pod(live, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b/x"]}})
    assert after["metadata"]["finalizers"] == ["a/x", "c/x"]


def test_strategic_patch_orders_items_as_told(pod: Patch) -> None:
    live = {"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "server-side"}]}}
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "a", "image": "1"}],
        }
    }
    assert [c["name"] for c in pod(live, patch)["spec"]["containers"]] == ["b", "a", "server-side"]


def test_strategic_patch_replaces_lists_without_a_key(pod: Patch) -> None:
    live = {"spec": {"containers": [{"name": "a", "args": ["1", "2"]}]}}
    after = pod(live, {"spec": {"containers": [{"name": "a", "args": ["3"]}]}})
    assert after["spec"]["containers"][0]["args"] == ["3"]


def test_strategic_patch_removes_with_null(pod: Patch) -> None:
    assert pod({"spec": {"nodeName": "n", "hostname": "h"}}, {"spec": {"nodeName": None}}) == {
        "spec": {"hostname": "h"}
    }


def test_strategic_item_without_its_key_is_refused(pod: Patch) -> None:
    with pytest.raises(PatchError, match="does not contain declared merge key: name"):
        pod({"spec": {"containers": []}}, {"spec": {"containers": [{"image": "x"}]}})
