"""Failures in the form that Kubernetes gives them: an HTTP status code and a ``Status`` object.

The texts follow k8s.io/apimachinery/pkg/api/errors, because people and programs match on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_cluster.apiserver.resources import Resource

Manifest = dict[str, Any]


class ApiError(Exception):
    """A request that is answered with a ``Status`` of failure.

    Attributes:
        code: HTTP status code.
        reason: the machine-readable reason, such as ``NotFound``.
        message: what the client shows.
        details: the ``details`` of the Status, or None.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Manifest | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = headers or {}

    def status(self) -> Manifest:
        """Build the Status object of the answer."""
        status: Manifest = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        status["code"] = self.code
        return status


def build_details(resource: Resource, name: str = "", **more: Any) -> Manifest:
    """Build the ``details`` that name an object by its resource (plural), as all but 422 do."""
    details: Manifest = {}
    if name:
        details["name"] = name
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    details.update(more)
    return details


def not_found(resource: Resource, name: str) -> ApiError:
    """404 for one object."""
    return ApiError(
        404,
        "NotFound",
        f'{resource.qualified} "{name}" not found',
        build_details(resource, name),
    )


def no_such_path() -> ApiError:
    """404 for a path or resource type that is not served."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> ApiError:
    """409 for a name that is taken."""
    return ApiError(
        409,
        "AlreadyExists",
        f'{resource.qualified} "{name}" already exists',
        build_details(resource, name),
    )


def conflict(resource: Resource, name: str, why: str) -> ApiError:
    """409 for a write that lost a race or failed a precondition."""
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}',
        build_details(resource, name),
    )


def modified(resource: Resource, name: str) -> ApiError:
    """409 for a stale resourceVersion."""
    return conflict(
        resource,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )


def forbidden(resource: Resource, name: str, why: str, **details: Any) -> ApiError:
    """403 from admission."""
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    return ApiError(
        403, "Forbidden", f"{subject} is forbidden: {why}", build_details(resource, name, **details)
    )


def bad_request(message: str) -> ApiError:
    """400 for a body or a query that cannot be understood."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401 without a valid token."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> ApiError:
    """405 for a verb that the resource does not have."""
    return ApiError(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        {},
    )


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    """415 for a body in a form that the server does not read."""
    return ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(accepted),
    )


def not_acceptable(accepted: Sequence[str]) -> ApiError:
    """406 for an answer asked for in a form that the server does not write."""
    return ApiError(
        406,
        "NotAcceptable",
        "only the following media types are accepted: " + ", ".join(accepted),
    )


def expired(requested: int, oldest: int) -> ApiError:
    """410 for a watch or a continued list from before the kept history."""
    return ApiError(410, "Expired", f"too old resource version: {requested} ({oldest})")


def too_new(requested: int, current: int) -> ApiError:
    """504 for a list that must not be older than what is not there yet."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {requested}, current: {current}",
        {"causes": [cause], "retryAfterSeconds": 1},
        {"Retry-After": "1"},
    )


def too_many_requests(message: str, details: Manifest | None = None) -> ApiError:
    """429 with the wish to try again."""
    seconds = (details or {}).get("retryAfterSeconds", 1)
    return ApiError(
        429,
        "TooManyRequests",
        message,
        details if details is not None else {"retryAfterSeconds": 1},
        {"Retry-After": str(seconds)} if seconds else {},
    )


def invalid(group: str, kind: str, name: str, causes: Sequence[Manifest]) -> ApiError:
    """422 with one message that lists all causes.

    Args:
        group: API group of the object, empty for core.
        kind: kind of the object, may be empty.
        name: name of the object, may be empty.
        causes: dicts with ``reason``, ``message`` and ``field``, in the order of the message.
    """
    texts: list[str] = []
    for cause in causes:
        text = f"{cause['field']}: {cause['message']}"
        if text not in texts:
            texts.append(text)
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    qualified = f"{kind}.{group}" if group else kind
    details: Manifest = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    if kind:
        details["kind"] = kind
    details["causes"] = list(causes)
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {joined}', details)


def invalid_field(
    resource: Resource, name: str, field: str, message: str, reason: str = "FieldValueInvalid"
) -> ApiError:
    """422 for one field that a rule of the server refuses."""
    return invalid(
        resource.group,
        resource.kind,
        name,
        [{"reason": reason, "message": message, "field": field}],
    )
