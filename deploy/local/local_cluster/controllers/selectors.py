"""Label selectors: which objects a controller, Service or budget means. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Labels = Mapping[str, str]


def matches_labels(wanted: Labels | None, labels: Labels | None) -> bool:
    """Whether all wanted labels are there; no wanted label matches everything."""
    have = labels or {}
    return all(have.get(name) == value for name, value in (wanted or {}).items())


def matches_selector(selector: Mapping[str, Any] | None, labels: Labels | None) -> bool:
    """Whether labels match a LabelSelector; an absent one matches nothing, an empty one all."""
    if selector is None:
        return False
    if not matches_labels(selector.get("matchLabels"), labels):
        return False
    return all(
        matches_expression(expression, labels)
        for expression in selector.get("matchExpressions") or []
    )


def matches_expression(expression: Mapping[str, Any], labels: Labels | None) -> bool:
    """Whether labels meet one requirement, node affinity's Gt and Lt included."""
    have = labels or {}
    key, operator = expression["key"], expression["operator"]
    values = expression.get("values") or []
    match operator:
        case "In":
            return have.get(key) in values
        case "NotIn":
            return have.get(key) not in values
        case "Exists":
            return key in have
        case "DoesNotExist":
            return key not in have
        case "Gt" | "Lt":
            try:
                value, bound = int(have[key]), int(values[0])
            except (KeyError, IndexError, ValueError):
                return False
            return value > bound if operator == "Gt" else value < bound
    return False


def is_empty_selector(selector: Mapping[str, Any] | None) -> bool:
    """Whether a selector would match everything."""
    return selector is not None and not (
        selector.get("matchLabels") or selector.get("matchExpressions")
    )


def format_selector(selector: Mapping[str, Any]) -> str:
    """The selector as text, as the scale subresource and queries carry it."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or []:
        key, operator = expression["key"], expression["operator"]
        values = ",".join(expression.get("values") or [])
        parts.append(
            {
                "In": f"{key} in ({values})",
                "NotIn": f"{key} notin ({values})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }[operator]
        )
    return ",".join(parts)


_REQUIREMENT = re.compile(
    r"\s*(?:(?P<not>!)\s*)?(?P<key>[\w./-]+)\s*"
    r"(?:(?P<eq>==?|!=)\s*(?P<value>[\w.-]*)|(?P<op>in|notin)\s*\((?P<values>[^)]*)\))?\s*(?:,|$)"
)


def parse_selector(text: str) -> dict[str, Any]:
    """A selector as text back to a LabelSelector.

    Raises:
        ValueError: the text is no selector.
    """
    expressions: list[dict[str, Any]] = []
    position = 0
    while position < len(text):
        match = _REQUIREMENT.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is no label selector")
        position = match.end()
        expression: dict[str, Any] = {"key": match["key"]}
        if match["op"]:
            expression["operator"] = "In" if match["op"] == "in" else "NotIn"
            expression["values"] = [value.strip() for value in match["values"].split(",")]
        elif match["eq"]:
            expression["operator"] = "NotIn" if match["eq"] == "!=" else "In"
            expression["values"] = [match["value"]]
        else:
            expression["operator"] = "DoesNotExist" if match["not"] else "Exists"
        expressions.append(expression)
    return {"matchExpressions": expressions}
