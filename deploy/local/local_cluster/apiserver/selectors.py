"""Label and field selectors: query text in, predicates over objects out.

Grammar and messages follow k8s.io/apimachinery/pkg/labels and pkg/fields; which fields a type can be selected by
follows its registry in the real server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from local_cluster.apiserver.errors import bad_request
from local_cluster.apiserver.resources import Resource

Manifest = dict[str, Any]
Predicate = Callable[[Manifest], bool]

_SET = re.compile(r"^\s*([^\s!=,()]+)\s+(in|notin)\s+\(([^()]*)\)\s*$")
_COMPARE = re.compile(r"^\s*([^\s!=,()<>]+)\s*(==|!=|=|<|>)\s*([^\s!=,()<>]*)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([^\s!=,()<>]+)\s*$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")

_FIELDS: dict[str, tuple[str, ...]] = {
    "/pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "/events": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    "/secrets": ("type",),
    "/services": ("spec.clusterIP", "spec.type"),
    "/namespaces": ("status.phase",),
    "/nodes": ("spec.unschedulable",),
    "/replicationcontrollers": ("status.replicas",),
    "apps/replicasets": ("status.replicas",),
    "batch/jobs": ("status.successful",),
}
_EVENT_RENAMES = {"regarding": "involvedObject", "reportingController": "reportingComponent"}


def split_requirements(text: str) -> list[str]:
    """Split a selector at the commas that are not inside parentheses."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return parts


def _label_requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    if match := _SET.match(text):
        key, operator, listed = match.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if match := _COMPARE.match(text):
        key, operator, value = match.groups()
        if operator in "<>":
            try:
                bound = int(value)
            except ValueError:
                raise bad_request(
                    f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": '
                    "for 'Gt', 'Lt' operators, the value must be an integer"
                ) from None
            sign = 1 if operator == ">" else -1

            def compare(labels: Mapping[str, str]) -> bool:
                try:
                    return (int(labels[key]) - bound) * sign > 0
                except (KeyError, ValueError):
                    return False

            return compare
        if not _LABEL_VALUE.match(value) or len(value) > 63:
            raise bad_request(
                f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": a valid label must be '
                "an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end "
                "with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
                "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            )
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match := _EXISTS.match(text):
        absent, key = match.groups()
        if absent:
            return lambda labels: key not in labels
        return lambda labels: key in labels
    raise bad_request(f"unable to parse requirement: found '{text.strip()}', expected: identifier")


def parse_label_selector(text: str) -> Predicate | None:
    """Parse a ``labelSelector``.

    Returns:
        A predicate over objects, or None if the selector selects everything.

    Raises:
        ApiError: 400, the text is no selector.
    """
    if not text.strip():
        return None
    tests = [_label_requirement(part) for part in split_requirements(text)]

    def matches(obj: Manifest) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return matches


def build_label_predicate(selector: Manifest | None) -> Callable[[Mapping[str, str]], bool]:
    """Build the predicate of a ``LabelSelector`` object (matchLabels, matchExpressions).

    Args:
        selector: None selects nothing; an empty selector selects everything.
    """
    if selector is None:
        return lambda labels: False
    wanted = dict(selector.get("matchLabels") or {})
    expressions = list(selector.get("matchExpressions") or ())

    def matches(labels: Mapping[str, str]) -> bool:
        if any(labels.get(key) != value for key, value in wanted.items()):
            return False
        for expression in expressions:
            key, values = expression["key"], expression.get("values") or ()
            match expression["operator"]:
                case "In":
                    if labels.get(key) not in values:
                        return False
                case "NotIn":
                    if labels.get(key) in values:
                        return False
                case "Exists":
                    if key not in labels:
                        return False
                case "DoesNotExist":
                    if key in labels:
                        return False
        return True

    return matches


def format_label_selector(selector: Manifest | None) -> str:
    """Format a ``LabelSelector`` object as tables and scales show it."""
    if selector is None:
        return "<none>"
    parts = [f"{k}={v}" for k, v in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression["key"], ",".join(sorted(expression.get("values") or ()))
        match expression["operator"]:
            case "In":
                parts.append(f"{key} in ({values})")
            case "NotIn":
                parts.append(f"{key} notin ({values})")
            case "Exists":
                parts.append(key)
            case "DoesNotExist":
                parts.append(f"!{key}")
    return ",".join(parts) if parts else "<none>"


def _read_field(obj: Manifest, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        if not isinstance(value, dict):
            return ""
        value = value.get(part)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):  # "source" of an event is its component
        return str(value.get("component", ""))
    return str(value)


def _selectable(resource: Resource) -> tuple[str, ...]:
    if resource.crd is not None:
        declared = resource.version_schema.get("selectableFields") or ()
        return tuple(field["jsonPath"].removeprefix(".") for field in declared)
    return _FIELDS.get(resource.storage_key, ())


def parse_field_selector(text: str, resource: Resource) -> Predicate | None:
    """Parse a ``fieldSelector``.

    Args:
        text: requirements ``path=value`` or ``path!=value``, joined by commas.
        resource: what is selected; decides which fields may be named.

    Raises:
        ApiError: 400, the text is no selector, or names a field that cannot be selected by.
    """
    if not text.strip():
        return None
    allowed = ("metadata.name", "metadata.namespace", *_selectable(resource))
    tests: list[tuple[str, str, bool]] = []
    for part in re.split(r"(?<!\\),", text):
        if not part.strip():
            continue
        match = re.match(r"^\s*([^=!]+?)\s*(!=|==|=)\s*(.*?)\s*$", part)
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        path, operator, value = match.groups()
        if resource.group == "events.k8s.io":
            head, _, tail = path.partition(".")
            path = ".".join(filter(None, (_EVENT_RENAMES.get(head, head), tail)))
        if path not in allowed:
            own = resource.crd is not None or resource.storage_key in _FIELDS
            raise bad_request(
                f"field label not supported: {path}"
                if own
                else f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'
            )
        value = re.sub(r"\\([\\,=])", r"\1", value)
        tests.append((path, value, operator == "!="))

    def matches(obj: Manifest) -> bool:
        return all(
            (_read_field(obj, path) == value) is not negated for path, value, negated in tests
        )

    return matches


def both(first: Predicate | None, second: Predicate | None) -> Predicate | None:
    """Join two predicates; None stands for everything."""
    if first is None or second is None:
        return first or second
    return lambda obj: first(obj) and second(obj)
