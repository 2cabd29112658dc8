"""Strategic merge patch, the patch that knows which lists are maps.

The directives: https://github.com/kubernetes/design-proposals-archive/blob/main/api-machinery/strategic-merge-patch.md (`$patch`,
`$retainKeys`, `$deleteFromPrimitiveList/…`, `$setElementOrder/…`).
"""

from __future__ import annotations

from typing import Any

from local_cluster.schema.errors import PatchError
from local_cluster.schema.node import Schema

_DELETE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"
_RETAIN = "$retainKeys"


def strategic_merge_patch(
    obj: dict[str, Any], patch: dict[str, Any], schema: Schema
) -> dict[str, Any]:
    """Return `obj` with a strategic merge patch applied.

    Args:
        obj: the live object.
        patch: the patch, directives included.
        schema: the schema of a built-in kind; custom resources do not support this patch.

    Raises:
        PatchError: the patch is malformed.
    """
    if not isinstance(patch, dict):
        raise PatchError(
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        )
    merged = _merge_map(obj, patch, schema)
    return merged if merged is not None else {}


def _merge_map(
    obj: dict[str, Any], patch: dict[str, Any], node: Schema | None
) -> dict[str, Any] | None:
    directive = patch.get("$patch")
    if directive is not None:
        if directive == "replace":
            return {key: value for key, value in patch.items() if key != "$patch"}
        if directive == "delete":
            return {}
        if directive != "merge":
            raise PatchError(f"unknown patch type: {directive} in map: {_go_text(patch)}")
    out = dict(obj)
    retain = patch.get(_RETAIN)
    if retain is not None:
        if not isinstance(retain, list):
            raise PatchError("invalid patch format of retainKeys list")
        out = {key: value for key, value in out.items() if key in retain}
    for key, value in patch.items():
        if key in ("$patch", _RETAIN):
            continue
        if key.startswith((_DELETE, _ORDER)):
            continue
        if value is None:
            out.pop(key, None)
            continue
        child = node.child(key) if node is not None else None
        mine = out.get(key)
        if isinstance(value, dict):
            replace = child is not None and "replace" in child.strategies
            if replace and "$patch" not in value:
                out[key] = value
            else:
                below = _merge_map(mine if isinstance(mine, dict) else {}, value, child)
                out[key] = below
        elif isinstance(value, list):
            out[key] = _merge_list(
                mine if isinstance(mine, list) else [], value, child, patch.get(_ORDER + key)
            )
        else:
            out[key] = value
    for key, value in patch.items():
        if key.startswith(_DELETE):
            name = key[len(_DELETE) :]
            if isinstance(out.get(name), list):
                out[name] = [item for item in out[name] if item not in value]
        elif key.startswith(_ORDER):
            name = key[len(_ORDER) :]
            if name not in patch and isinstance(out.get(name), list):
                child = node.child(name) if node is not None else None
                out[name] = _in_order(out[name], value, obj.get(name) or [], _merge_key(child))
    return out


def _merge_key(node: Schema | None) -> str:
    return node.merge_key if node is not None else ""


def _merge_list(
    obj: list[Any], patch: list[Any], node: Schema | None, order: list[Any] | None
) -> list[Any]:
    if node is None or "merge" not in node.strategies:
        return [item for item in patch if not (isinstance(item, dict) and "$patch" in item)]
    key = node.merge_key
    if not key:
        out = list(obj)
        out.extend(item for item in patch if item not in out)
        return _in_order(out, order, obj, key) if order is not None else out
    items = [item for item in patch if item.get("$patch") != "replace" or len(item) > 1]
    if len(items) != len(
        patch
    ):  # `{"$patch": "replace"}` among the items: the rest is the new list
        return items
    merged: list[Any] = list(obj)
    for item in items:
        if key not in item:
            raise PatchError(f"map: {_go_text(item)} does not contain declared merge key: {key}")
        found = next(
            (n for n, old in enumerate(merged) if isinstance(old, dict) and old.get(key) == item[key]), None
        )  # fmt: skip
        if item.get("$patch") == "delete":
            merged = [old for old in merged if old.get(key) != item[key]]
        elif found is None:
            fresh = _merge_map({}, item, node.items)
            merged.append(fresh)
        else:
            merged[found] = _merge_map(merged[found], item, node.items)
    kept = [item for item in items if item.get("$patch") != "delete"]
    return _in_order(merged, order if order is not None else kept, obj, key)


def _go_text(value: Any) -> str:
    """Print a value as Go's %v does, which is how messages show it."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{_go_text(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_go_text(item) for item in value) + "]"
    return str(value)


def _identity(item: Any, key: str) -> Any:
    return item.get(key) if key and isinstance(item, dict) else item


def _in_order(items: list[Any], order: list[Any], live: list[Any], key: str) -> list[Any]:
    """Sort patched items as the patch has them, and put those that only the server has between them.

    One of the latter comes before a patched item only if it did so before; a new item comes before all of them.
    """
    wanted = [_identity(item, key) for item in order]
    ranked = [item for item in items if _identity(item, key) in wanted]
    ranked.sort(key=lambda item: wanted.index(_identity(item, key)))
    others = [item for item in items if _identity(item, key) not in wanted]
    places = [_identity(item, key) for item in live]

    def place(item: Any) -> int:
        name = _identity(item, key)
        return places.index(name) if name in places else -1

    out: list[Any] = []
    while ranked or others:
        if not ranked or (others and 0 <= place(others[0]) < place(ranked[0])):
            out.append(others.pop(0))
        else:
            out.append(ranked.pop(0))
    return out
