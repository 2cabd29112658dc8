"""The JSONPath of printer columns: ``.a.b``, ``['a']``, ``[0]``, ``[*]``, ``[?(@.type=="Ready")]``.

The grammar is the subset of https://kubernetes.io/docs/reference/kubectl/jsonpath/ that CRD columns use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

Step = Callable[[Any], Iterable[Any]]

_TOKEN = re.compile(
    r"""
    \.\.(?P<deep>[\w-]+)
  | \.(?P<field>(?:\\.|[^.\[\]\\])+)
  | \[\?\((?P<filter>.+?)\)\]
  | \[(?P<quote>['"])(?P<key>.*?)(?P=quote)\]
  | \[(?P<star>\*)\]
  | \[(?P<slice>-?\d*:-?\d*)\]
  | \[(?P<index>-?\d+)\]
    """,
    re.VERBOSE,
)
_FILTER = re.compile(r"^\s*@((?:\.[\w\\./-]+)+)\s*(?:(==|!=|>=|<=|>|<)\s*(.+?))?\s*$")


class JsonPathError(ValueError):
    """The text is no JSONPath of the supported subset."""


def _field(name: str) -> Step:
    if name == "*":
        return _children
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else []


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, list):
        return value
    return list(value.values()) if isinstance(value, dict) else []


def _deep(name: str) -> Step:
    def walk(value: Any) -> Iterable[Any]:
        if isinstance(value, dict):
            if name in value:
                yield value[name]
            for child in value.values():
                yield from walk(child)
        elif isinstance(value, list):
            for child in value:
                yield from walk(child)

    return walk


def _index(text: str) -> Step:
    at = int(text)
    return lambda value: value[at : at + 1 or None] if isinstance(value, list) else []


def _slice(text: str) -> Step:
    start, _, stop = text.partition(":")
    window = slice(int(start) if start else None, int(stop) if stop else None)
    return lambda value: value[window] if isinstance(value, list) else []


def _literal(text: str) -> Any:
    if text[:1] in "'\"" and text[-1:] == text[:1]:
        return text[1:-1]
    if text in {"true", "false"}:
        return text == "true"
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise JsonPathError(f"unrecognized value in filter: {text}") from None


def _compare(left: Any, operator: str, right: Any) -> bool:
    if operator == "==":
        return bool(left == right)
    if operator == "!=":
        return bool(left != right)
    try:
        if operator == ">":
            return bool(left > right)
        if operator == "<":
            return bool(left < right)
        return bool(left >= right) if operator == ">=" else bool(left <= right)
    except TypeError:
        return False


def _filter(text: str) -> Step:
    match = _FILTER.match(text)
    if match is None:
        raise JsonPathError(f"unrecognized filter: {text}")
    path, operator, literal = match.groups()
    find = compile_path(path)
    wanted = _literal(literal) if operator else None

    def select(value: Any) -> Iterable[Any]:
        if not isinstance(value, list):
            return
        for item in value:
            found = find(item)
            if found and (not operator or _compare(found[0], operator, wanted)):
                yield item

    return select


@lru_cache(maxsize=4096)
def compile_path(path: str) -> Callable[[Any], list[Any]]:
    """Compile a path.

    Args:
        path: such as ``.status.conditions[?(@.type=="Ready")].status``; a leading ``$`` or braces are allowed.

    Returns:
        A function that lists all matches in an object, in document order.

    Raises:
        JsonPathError: the path is not of the supported subset.
    """
    text = path.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = text.removeprefix("$")
    if text and text[0] not in ".[":
        text = "." + text
    steps: list[Step] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            if text[at:] == ".":
                break
            raise JsonPathError(f"cannot parse {path!r} at {text[at:]!r}")
        at = match.end()
        kind = match.lastgroup
        if match["deep"] is not None:
            steps.append(_deep(match["deep"]))
        elif match["field"] is not None:
            steps.append(_field(re.sub(r"\\(.)", r"\1", match["field"])))
        elif match["filter"] is not None:
            steps.append(_filter(match["filter"]))
        elif match["quote"] is not None:
            steps.append(_field(match["key"]))
        elif match["star"] is not None:
            steps.append(_children)
        elif match["slice"] is not None:
            steps.append(_slice(match["slice"]))
        elif kind is not None:
            steps.append(_index(match["index"]))

    def find(obj: Any) -> list[Any]:
        values = [obj]
        for step in steps:
            values = [found for value in values for found in step(value)]
        return values

    return find
