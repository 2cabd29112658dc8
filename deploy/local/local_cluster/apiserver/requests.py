"""What a request asks for: its path and query taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from local_cluster.apiserver.auth import User
from local_cluster.apiserver.cluster import WriteOptions
from local_cluster.apiserver.errors import bad_request, invalid, no_such_path
from local_cluster.apiserver.negotiation import Form
from local_cluster.apiserver.resources import Registry, Resource, Subresource

_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """A request on a resource.

    Attributes:
        method: HTTP method.
        resource: the type that the path names.
        subresource: None for the object itself.
        namespace: empty for cluster scope or all namespaces.
        name: empty for collections.
        query: query parameters, the first of each name.
        form: what the answer should look like.
        content_type: of the body.
        user_agent: of the client.
        user: who asks.
        body: the whole body.
    """

    method: str
    resource: Resource
    subresource: Subresource | None
    namespace: str
    name: str
    query: Mapping[str, str]
    form: Form
    content_type: str
    user_agent: str
    user: User
    body: bytes

    def flag(self, name: str) -> bool:
        """Read a query parameter as Go's ParseBool does; absent is false."""
        return self.query.get(name, "") in {"1", "t", "T", "true", "TRUE", "True"}

    def number(self, name: str) -> int | None:
        """Read a query parameter that is a whole number.

        Raises:
            ApiError: 400.
        """
        text = self.query.get(name, "")
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None

    def write_options(self, *, kind: str = "CreateOptions") -> WriteOptions:
        """Read the options of a write.

        Args:
            kind: ``CreateOptions``, ``UpdateOptions`` or ``PatchOptions``, for messages.

        Raises:
            ApiError: 422, a value that is none of those allowed.
        """
        causes = []
        dry_run = self.query.get("dryRun", "")
        if dry_run not in {"", "All"}:
            causes.append(_unsupported("dryRun", f'["{dry_run}"]', ["All"]))
        validation = self.query.get("fieldValidation") or "Warn"
        if validation not in {"Ignore", "Warn", "Strict"}:
            allowed = ["", "Ignore", "Strict", "Warn"]
            causes.append(_unsupported("fieldValidation", f'"{validation}"', allowed))
        manager = self.query.get("fieldManager", "")
        if len(manager) > 128:
            text = "Too long: may not be more than 128 bytes"
            causes.append({"reason": "FieldValueTooLong", "message": text, "field": "fieldManager"})
        apply = self.content_type.startswith("application/apply-patch")
        if apply and not manager:
            text = "Required value: is required for apply patch"
            causes.append(
                {"reason": "FieldValueRequired", "message": text, "field": "fieldManager"}
            )
        if not apply and self.query.get("force"):
            text = "Forbidden: may not be specified for non-apply patch"
            causes.append({"reason": "FieldValueForbidden", "message": text, "field": "force"})
        if causes:
            raise invalid("meta.k8s.io", kind, "", causes)
        return WriteOptions(
            manager=manager or self.user_agent.partition("/")[0][:128] or "unknown",
            dry_run=bool(dry_run),
            field_validation=validation,
            force=self.flag("force"),
            subresource=self.subresource.name if self.subresource else "",
        )


def _unsupported(field: str, value: str, allowed: list[str]) -> dict[str, str]:
    listed = ", ".join(f'"{item}"' for item in allowed)
    message = f"Unsupported value: {value}: supported values: {listed}"
    return {"reason": "FieldValueNotSupported", "message": message, "field": field}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    resource: Resource
    subresource: Subresource | None
    namespace: str
    name: str


def parse_path(parts: list[str], registry: Registry) -> Target:
    """Find what a path below ``/api/VERSION`` or ``/apis/GROUP/VERSION`` names.

    Args:
        parts: the path split at slashes, without empty ends.
        registry: what is served.

    Raises:
        ApiError: 404.
    """
    if parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    else:
        group, version, rest = parts[1], parts[2], parts[3:]
    namespace = ""
    if (
        rest[0] == "namespaces"
        and len(rest) >= 3
        and not (group == "" and len(rest) == 3 and rest[2] in _NAMESPACE_SUBRESOURCES)
    ):
        namespace, rest = rest[1], rest[2:]
    resource = registry.lookup(group, version, rest[0])
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise no_such_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = None
    if len(rest) == 3:
        subresource = resource.subresources.get(rest[2])
        if subresource is None:
            raise no_such_path()
    if name and resource.namespaced and not namespace:
        raise no_such_path()
    return Target(resource, subresource, namespace, name)
