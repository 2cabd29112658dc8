"""Merging an applied object into a live one and taking fields out again, as structured-merge-diff does."""

from __future__ import annotations

from typing import Any

from local_cluster.schema.fieldset import Fields, child_node, is_associative, item_key
from local_cluster.schema.node import Schema


def merge_objects(
    live: dict[str, Any], applied: dict[str, Any], node: Schema | None
) -> dict[str, Any]:
    """Return `live` with every field of `applied` set; atomic parts are replaced as a whole."""
    out = dict(live)
    for name, theirs in applied.items():
        mine = live.get(name)
        if mine is None or name not in live:
            out[name] = theirs
        elif mine is not theirs:
            out[name] = _merge(mine, theirs, node.child(name) if node is not None else None)
    return out


def _merge(live: Any, applied: Any, node: Schema | None) -> Any:
    if isinstance(applied, dict) and isinstance(live, dict):
        return applied if node is not None and node.atomic else merge_objects(live, applied, node)
    if isinstance(applied, list) and isinstance(live, list) and is_associative(node):
        assert node is not None
        return _merge_lists(live, applied, node)
    return applied


def _merge_lists(live: list[Any], applied: list[Any], node: Schema) -> list[Any]:
    """Interleave both lists: applied items in their order, live items keep their place between them."""
    left = [item_key(item, node) for item in live]
    right = [item_key(item, node) for item in applied]
    mine, theirs = dict(zip(left, live, strict=True)), dict(zip(right, applied, strict=True))

    def both(key: str) -> Any:
        return _merge(mine[key], theirs[key], node.items) if key in mine else theirs[key]

    if left == right:
        return [both(key) for key in right]
    shared = [key for key in right if key in mine]
    shared.reverse()
    following = shared.pop() if shared else None
    out: list[Any] = []
    done: set[str] = set()
    i = j = 0
    while i < len(left) or j < len(right):
        if i < len(left) and j < len(right):
            key = left[i]
            if key == right[j]:
                out.append(both(key))
                done.add(key)
                i, j = i + 1, j + 1
                following = shared.pop() if shared else None
                continue
            if key in theirs and following is not None and following != key:
                i += 1  # a shared item, but its turn comes later
                continue
        if i < len(left):
            key = left[i]
            if key not in theirs:
                out.append(live[i])
                i += 1
                continue
            if key in done:
                i += 1
        if j < len(right):
            key = right[j]
            out.append(both(key))
            done.add(key)
            j += 1
            if following == key:
                following = shared.pop() if shared else None
    return out


def remove_fields(value: Any, fields: Fields, node: Schema | None) -> Any:
    """Return `value` without the members of `fields`; what becomes empty becomes None, as in a real server."""
    if isinstance(value, dict):
        if not value or (node is not None and node.atomic):
            return value
        out: dict[str, Any] = {}
        for name, child in value.items():
            below = fields.get("f:" + name)
            if below is None:
                out[name] = child
            elif below and "." not in below:
                out[name] = remove_fields(child, below, child_node(node, "f:" + name))
        return out or None
    if isinstance(value, list) and value and is_associative(node):
        assert node is not None
        items: list[Any] = []
        for item in value:
            below = fields.get(item_key(item, node))
            if below is None:
                items.append(item)
            elif below and "." not in below:
                items.append(remove_fields(item, below, node.items))
        return items or None
    return value
