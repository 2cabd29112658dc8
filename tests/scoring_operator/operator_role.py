"""What calls need in the words of RBAC, and what the operator's roles grant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

RBAC = Path(__file__).resolve().parents[2] / "deploy" / "base" / "rbac.yaml"
_PATH = re.compile(
    r"^/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)(?:/namespaces/[^/]+)?/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)


@dataclass(frozen=True, slots=True)
class Permission:
    """What a call needs: the words of an RBAC rule."""

    group: str
    resource: str
    verb: str


def needed(method: str, path: str, *, watching: bool, status: int) -> set[Permission]:
    """What a call needed; nothing for discovery, which everybody may do.

    Args:
        method: HTTP method.
        path: URL path.
        watching: whether it was a watch.
        status: of the answer: an apply that made something new needs `create` beside `patch`.
    """
    match = _PATH.match(path)
    if match is None:
        return set()
    resource = match["resource"] + (f"/{match['sub']}" if match["sub"] else "")
    verbs = {method.lower()}
    if method == "GET":
        verbs = {"watch" if watching else "get" if match["name"] else "list"}
    elif method == "POST":
        verbs = {"create"}
    elif method == "PUT":
        verbs = {"update"}
    elif method == "PATCH" and status == 201:
        verbs = {"create", "patch"}
    return {Permission(match["group"] or "", resource, verb) for verb in verbs}


@cache
def granted() -> frozenset[Permission]:
    """Every permission of the operator's own roles."""
    return frozenset(
        Permission(group, resource, verb)
        for document in yaml.safe_load_all(RBAC.read_text())
        if document["kind"] in {"Role", "ClusterRole"}
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )
