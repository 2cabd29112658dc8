"""What can go wrong between the operator and the API server."""

from __future__ import annotations

import json
from typing import Any


class ClusterError(Exception):
    """An API call failed.

    Args:
        message: what the API server said.
        status: HTTP status; 0 without an answer.
        doing: the call in words, such as `patch deployments default/faq`.
    """

    def __init__(self, message: str, *, status: int = 0, doing: str = "") -> None:
        super().__init__(f"{doing}: {message}" if doing else message)
        self.message = message
        self.status = status
        self.doing = doing


class NotFoundError(ClusterError):
    """404: no such object, or no such kind in this cluster."""


class ConflictError(ClusterError):
    """409: somebody else was faster; look again and retry."""


class GoneError(ClusterError):
    """410: the resource version is too old; list again."""


class ForbiddenError(ClusterError):
    """401 or 403: the operator lacks a permission."""


class QuotaError(ForbiddenError):
    """403 because a ResourceQuota is used up."""


class NamespaceTerminatingError(ClusterError):
    """403 because the namespace is being deleted: nothing new can be made in it."""


class InvalidError(ClusterError):
    """400, 413 or 422: the object is not what the API server accepts."""


class TransientError(ClusterError):
    """429, 5xx, a timeout or a broken connection: weather.

    Args:
        message: what the API server said.
        status: HTTP status; 0 without an answer.
        doing: the call in words.
        retry_after_seconds: what the server asked for, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        doing: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, status=status, doing=doing)
        self.retry_after_seconds = retry_after_seconds


class NameTakenError(ClusterError):
    """A child's name belongs to an object that the ScoringModel does not own."""


class StaleOwnerError(ClusterError):
    """A child still belongs to a deleted ScoringModel of the same name and is about to be collected."""


_BY_STATUS: dict[int, type[ClusterError]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    405: InvalidError,
    409: ConflictError,
    410: GoneError,
    413: InvalidError,
    415: InvalidError,
    422: InvalidError,
}


def error_from_answer(
    status: int, body: bytes, *, doing: str, retry_after: str | None = None
) -> ClusterError:
    """Translate an answer that is not 2xx.

    Args:
        status: HTTP status.
        body: usually a `Status` object.
        doing: the call in words.
        retry_after: the header of that name.
    """
    message = _message(body) or f"HTTP {status}"
    if status == 429 or status >= 500:
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
        return TransientError(message, status=status, doing=doing, retry_after_seconds=seconds)
    if status == 403 and "exceeded quota" in message:
        return QuotaError(message, status=status, doing=doing)
    if status == 403 and "because it is being terminated" in message:
        return NamespaceTerminatingError(message, status=status, doing=doing)
    return _BY_STATUS.get(status, ClusterError)(message, status=status, doing=doing)


def _message(body: bytes) -> str:
    try:
        value: Any = json.loads(body)
    except ValueError:
        return body.decode(errors="replace").strip()[:500]
    return str(value.get("message", "")) if isinstance(value, dict) else ""
