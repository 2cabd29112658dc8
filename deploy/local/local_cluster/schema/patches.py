"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902), with a real server's errors."""

from __future__ import annotations

from typing import Any

import jsonpatch
import jsonpointer

from local_cluster.schema.errors import PatchError

# A real server's limit on the operations of one JSON patch.
_MAX_OPERATIONS = 10_000


def json_merge_patch(obj: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Return `obj` with a JSON merge patch applied; null removes a field, lists are replaced.

    Raises:
        PatchError: the patch is no JSON object.
    """
    if not isinstance(patch, dict):
        raise PatchError(
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        )
    return _merge(obj, patch)


def _merge(obj: Any, patch: dict[str, Any]) -> dict[str, Any]:
    out = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict):
            out[key] = _merge(out.get(key), value)
        else:
            out[key] = value
    return out


def json_patch(obj: dict[str, Any], ops: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `obj` with the operations of a JSON patch applied.

    Raises:
        PatchError: the patch is malformed (400), a path is missing or a test fails (422).
    """
    if not isinstance(ops, list) or not all(isinstance(op, dict) for op in ops):
        raise PatchError(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        )
    if len(ops) > _MAX_OPERATIONS:
        raise PatchError(
            f"The allowed maximum operations in a JSON patch is {_MAX_OPERATIONS}, got {len(ops)}",
            code=413,
            reason="RequestEntityTooLarge",
        )
    current: Any = obj
    for op in ops:
        current = _operate(current, op)
    if not isinstance(current, dict):
        raise PatchError("the patch result is not an object", code=422, reason="Invalid")
    return current


def _operate(obj: Any, op: dict[str, Any]) -> Any:
    try:
        # The library edits a deep copy; the stored object must stay as it is.
        return jsonpatch.apply_patch(obj, [op], in_place=False)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as err:
        # A real server says no more than this; what went wrong is the cause of this exception.
        raise PatchError(
            "the server rejected our request due to an error in our request",
            code=422,
            reason="Invalid",
        ) from err
