"""Sets of field paths: the set algebra, and the keys of list items."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from local_cluster.schema import Schema
from local_cluster.schema.fieldset import difference, intersection, item_key, paths, union

_steps = st.sampled_from(["f:a", "f:b", 'k:{"name":"c"}'])
_paths = st.lists(st.lists(_steps, min_size=1, max_size=3).map(tuple), max_size=5).map(set)


def _build(members: set[tuple[str, ...]]) -> dict[str, Any]:
    """Build the trie of a set of paths, as FieldsV1 writes it."""
    out: dict[str, Any] = {}
    for head in sorted({path[0] for path in members}):
        below = _build({path[1:] for path in members if path[0] == head and len(path) > 1})
        out[head] = {".": {}, **below} if below and (head,) in members else below
    return out


@given(left=_paths, right=_paths)
def test_tries_obey_the_algebra_of_the_sets_they_stand_for(
    left: set[tuple[str, ...]], right: set[tuple[str, ...]]
) -> None:
    a, b = _build(left), _build(right)
    assert union(a, b) == _build(left | right)
    assert difference(a, b) == _build(left - right)
    assert intersection(a, b) == _build(left & right)
    assert (a, b) == (_build(left), _build(right)), "sets are shared and must not change"


def test_paths_are_printed_as_conflicts_name_them() -> None:
    fields = {
        "f:spec": {
            "f:containers": {'k:{"name":"c","port":80}': {".": {}, "f:image": {}}},
            "f:set": {'v:"x"': {}},
        }
    }
    assert list(paths(fields)) == [
        '.spec.containers[name="c",port=80]',
        '.spec.containers[name="c",port=80].image',
        '.spec.set[="x"]',
    ]


def test_item_keys_tell_true_from_one() -> None:
    node, item, field = Schema(), Schema(), Schema()
    node.list_type, node.map_keys, node.items = "map", ("k",), item
    item.properties = {"k": field}
    keys = [item_key({"k": value}, node) for value in (1, True, 1.0, "1", [1])]
    assert keys == ['k:{"k":1}', 'k:{"k":true}', 'k:{"k":1.0}', 'k:{"k":"1"}', 'k:{"k":[1]}']
    field.has_default, field.default = True, "TCP"
    assert item_key({}, node) == 'k:{"k":"TCP"}'
