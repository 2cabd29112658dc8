"""What many cached objects have in common is kept once; the parser makes all of it anew for every document."""

from __future__ import annotations

import sys
from typing import Any

import orjson

# Longer texts are seldom equal.
_SHARED_LENGTH = 64
# What a thousand models have in common are a few hundred sets. When there are more than this, something else than
# ScoringModels fills the table, and it begins anew.
_MOST_SETS = 20_000
_sets: dict[bytes, dict[str, Any]] = {}
# The owner's uid, and with it all around it, is another for each model.
_OWNER = b'"k:{\\"uid\\":'


def share(value: Any) -> Any:
    """Copy a JSON value so that equal field names, short texts and sets of managed fields are one object in memory.

    With managed fields, most of a cached object is names of fields. The sets must not be edited.
    """
    if isinstance(value, dict):
        return {
            sys.intern(name): _share_set(child) if name == "fieldsV1" else share(child)
            for name, child in value.items()
        }
    if isinstance(value, list):
        return [share(child) for child in value]
    if isinstance(value, str) and len(value) <= _SHARED_LENGTH:
        return sys.intern(value)
    return value


def _share_set(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    text = orjson.dumps(fields)
    found = _sets.get(text)
    if found is None:
        found = {sys.intern(name): _share_set(part) for name, part in fields.items()}
        if _OWNER not in text:
            if len(_sets) > _MOST_SETS:
                _sets.clear()
            _sets[text] = found
    return found
