"""Sets of field paths, in the very form in which `managedFields` stores them (FieldsV1).

A set is a trie of dicts: `{"f:spec": {"f:replicas": {}}}` holds `.spec.replicas`. A key with an empty dict is a member; a
key whose dict has the key `.` is a member with members below it; other keys are only on the way. The root is no member.
Sets are never changed in place, because stored objects share them.

Which paths a value has is decided as in https://github.com/kubernetes-sigs/structured-merge-diff: maps are granular unless the
schema calls them atomic, lists are atomic unless the schema calls them `map` or `set`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from local_cluster.schema.node import Schema

Fields = dict[str, Any]
LEAF: Fields = {}
_DOT: Fields = {}
# True equals 1 and 1.0 as a key of the cache, but is printed otherwise; lists cannot be keys at all.
_CACHED_KEYS = frozenset({str, int})


def union(left: Fields, right: Fields) -> Fields:
    """Return the set of what is in either."""
    if not left or left is right:
        return right
    if not right:
        return left
    out = dict(left)
    for key, theirs in right.items():
        mine = out.get(key)
        if mine is None:
            out[key] = theirs
        elif mine is not theirs and mine != theirs:
            if not mine:
                out[key] = {".": _DOT, **theirs}
            elif not theirs:
                out[key] = {".": _DOT, **mine}
            else:
                out[key] = union(mine, theirs)
    return out


def difference(left: Fields, right: Fields) -> Fields:
    """Return the members of `left` that are no members of `right`; a parent does not stand for its children."""
    out: Fields = {}
    for key, mine in left.items():
        theirs = right.get(key)
        if theirs is None or key == ".":
            if theirs is None:
                out[key] = mine
            continue
        if not mine:  # a member alone
            if theirs and "." not in theirs:
                out[key] = mine
            continue
        if not theirs:  # only the parent is taken away
            rest = {name: value for name, value in mine.items() if name != "."}
        else:
            rest = difference(mine, theirs)
        if rest.keys() == {"."}:
            out[key] = LEAF
        elif rest:
            out[key] = rest
    return out


def intersection(left: Fields, right: Fields) -> Fields:
    """Return the set of what is in both."""
    out: Fields = {}
    for key, mine in left.items():
        theirs = right.get(key)
        if theirs is None or key == ".":
            continue
        member = (not mine or "." in mine) and (not theirs or "." in theirs)
        below = intersection(mine, theirs) if mine and theirs else LEAF
        if below:
            out[key] = {".": _DOT, **below} if member else below
        elif member:
            out[key] = LEAF
    return out


def without_subtrees(fields: Fields, keys: tuple[str, ...]) -> Fields:
    """Return the set without the given top-level keys and all below them."""
    if any(key in fields for key in keys):
        return {key: value for key, value in fields.items() if key not in keys}
    return fields


def ensure_named(fields: Fields, node: Schema | None) -> Fields:
    """Return the set with every declared field that has members below it made a member too."""
    out: Fields = {}
    for key, below in fields.items():
        if not below or key == ".":
            out[key] = below
            continue
        child = child_node(node, key)
        rest = ensure_named(below, child)
        declared = node is not None and key[:2] == "f:" and key[2:] in node.properties
        if declared and "." not in rest:
            rest = {".": _DOT, **rest}
        out[key] = rest
    return out


def child_node(node: Schema | None, key: str) -> Schema | None:
    """Return the schema below `node` that a path element leads to."""
    if node is None:
        return None
    return node.child(key[2:]) if key[:2] == "f:" else node.items


def item_key(item: Any, node: Schema) -> str:
    """Return the path element of an item of a `map` or `set` list, e.g. `k:{"name":"c"}`."""
    if node.list_type == "set":
        return "v:" + json.dumps(item, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    if not isinstance(item, dict):
        return "v:" + json.dumps(item, ensure_ascii=False, separators=(",", ":"))
    keys: list[tuple[str, Any]] = []
    for name in node.map_keys if len(node.map_keys) == 1 else sorted(node.map_keys):
        value = item.get(name)
        if value is None:
            field = node.items.properties.get(name) if node.items else None
            if name in item or field is None or not field.has_default:
                continue
            value = field.default  # `protocol: TCP` is part of the key of a port even when left out
        keys.append((name, value))
    if all(type(value) in _CACHED_KEYS for _, value in keys):
        return _map_key(tuple(keys))
    return _map_key.__wrapped__(tuple(keys))


@lru_cache(maxsize=16384)
def _map_key(keys: tuple[tuple[str, Any], ...]) -> str:
    return "k:" + json.dumps(dict(keys), ensure_ascii=False, separators=(",", ":"))


def is_granular(value: dict[str, Any], node: Schema | None) -> bool:
    """Tell whether the fields of this object have owners of their own."""
    return node is None or not node.atomic


def is_associative(node: Schema | None) -> bool:
    """Tell whether the items of this list have owners of their own."""
    return node is not None and node.list_type != "atomic"


def applied_fields(value: dict[str, Any], node: Schema | None) -> Fields:
    """Return the set that an apply of `value` owns."""
    out: Fields = {}
    properties = node.properties if node is not None else {}
    additional = node.additional if node is not None else None
    for name, child in value.items():
        declared = name in properties
        below = _applied(child, properties[name] if declared else additional, member=not declared)
        if below is not None:
            out["f:" + name] = below
    return out


def _applied(value: Any, node: Schema | None, *, member: bool) -> Fields | None:
    if isinstance(value, dict):
        if (node is not None and node.atomic) or not value:
            return LEAF
        below = applied_fields(value, node)
    elif isinstance(value, list) and is_associative(node):
        assert node is not None
        below = {}
        for item in value:
            rest = _applied(item, node.items, member=True) if isinstance(item, dict) else LEAF
            below[item_key(item, node)] = rest
    else:
        return LEAF
    if member:
        return {".": _DOT, **below} if below else LEAF
    return below or None


def whole(value: Any, node: Schema | None) -> Fields:
    """Return the set of a value that appeared or went as a whole: all its leaves and every parent of them."""
    if isinstance(value, dict):
        if not value or (node is not None and node.atomic):
            return LEAF
        out: Fields = {".": _DOT}
        for name, child in value.items():
            out["f:" + name] = whole(child, node.child(name) if node is not None else None)
        return out
    if isinstance(value, list) and value and is_associative(node):
        assert node is not None
        out = {".": _DOT}
        for item in value:
            out[item_key(item, node)] = whole(item, node.items)
        return out
    return LEAF


class Comparison:
    """What differs between two objects: `added`, `modified` and `removed` fields."""

    __slots__ = ("added", "modified", "removed")

    def __init__(self, added: Fields, modified: Fields, removed: Fields) -> None:
        self.added = added
        self.modified = modified
        self.removed = removed

    def without(self, keys: tuple[str, ...]) -> Comparison:
        """Leave out what lies under the given top-level keys."""
        return Comparison(
            *(without_subtrees(s, keys) for s in (self.added, self.modified, self.removed))
        )


def compare(old: dict[str, Any], new: dict[str, Any], node: Schema | None) -> Comparison:
    """Return what an update from `old` to `new` adds, changes and removes."""
    added: Fields = {}
    modified: Fields = {}
    removed: Fields = {}
    _compare_maps(old, new, node, added, modified, removed)
    return Comparison(added, modified, removed)


def _same(left: Any, right: Any) -> bool:
    return bool(left == right) and (
        left is right or isinstance(left, bool) is isinstance(right, bool)
    )


def _compare_maps(
    old: dict[str, Any], new: dict[str, Any], node: Schema | None, added: Fields, modified: Fields, removed: Fields
) -> None:  # fmt: skip
    properties = node.properties if node is not None else {}
    additional = node.additional if node is not None else None
    for name, theirs in new.items():
        child = properties.get(name, additional)
        if name not in old:
            added["f:" + name] = whole(theirs, child)
            continue
        mine = old[name]
        if mine is not theirs and not _same(mine, theirs):
            _compare_values("f:" + name, mine, theirs, child, added, modified, removed)
    for name, mine in old.items():
        if name not in new:
            removed["f:" + name] = whole(mine, properties.get(name, additional))


def _compare_values(
    key: str, old: Any, new: Any, node: Schema | None, added: Fields, modified: Fields, removed: Fields
) -> None:  # fmt: skip
    below: tuple[Fields, Fields, Fields] = ({}, {}, {})
    sample = new if new is not None else old
    if isinstance(sample, dict) and is_granular(sample, node) and (old or new):
        left, right = old or {}, new or {}
        if isinstance(left, dict) and isinstance(right, dict):
            _compare_maps(left, right, node, *below)
            _store(key, below, added, modified, removed)
            return
    elif isinstance(sample, list) and is_associative(node) and (old or new):
        left, right = old or [], new or []
        if isinstance(left, list) and isinstance(right, list):
            assert node is not None
            _compare_lists(left, right, node, *below)
            _store(key, below, added, modified, removed)
            return
    modified[key] = LEAF


def _compare_lists(
    old: list[Any], new: list[Any], node: Schema, added: Fields, modified: Fields, removed: Fields
) -> None:  # fmt: skip
    before = {item_key(item, node): item for item in old}
    after = {item_key(item, node): item for item in new}
    for key, item in after.items():
        if key not in before:
            added[key] = whole(item, node.items)
        elif not _same(before[key], item):
            _compare_values(key, before[key], item, node.items, added, modified, removed)
    for key, item in before.items():
        if key not in after:
            removed[key] = whole(item, node.items)


def _store(key: str, below: tuple[Fields, Fields, Fields], *targets: Fields) -> None:
    for part, target in zip(below, targets, strict=True):
        if part:
            target[key] = part


def paths(fields: Fields, prefix: str = "") -> Iterator[str]:
    """Yield the members as a real server prints them: `.spec.containers[name="c"].image`."""
    for key in sorted(key for key in fields if key != "."):
        below = fields[key]
        text = prefix + print_element(key)
        if not below or "." in below:
            yield text
        if below:
            yield from paths(below, text)


def print_element(key: str) -> str:
    """Return one path element as text."""
    kind, rest = key[:2], key[2:]
    if kind == "f:":
        return "." + rest
    if kind == "k:":
        parts = (
            f"{name}={json.dumps(value, ensure_ascii=False)}"
            for name, value in json.loads(rest).items()
        )
        return f"[{','.join(parts)}]"
    return f"[={rest}]" if kind == "v:" else f"[{rest}]"


def sort_fields(fields: Fields) -> Fields:
    """Return the set with its keys in the order in which a real server writes them."""
    return {key: sort_fields(fields[key]) if fields[key] else LEAF for key in sorted(fields)}
