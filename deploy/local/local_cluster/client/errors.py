"""What can go wrong between this program and the API server."""

from __future__ import annotations

from typing import Any


class KubeconfigError(Exception):
    """The kubeconfig cannot be used; the message names the file, the entry and the way out."""


class ApiError(Exception):
    """The API server answered with a failure.

    Args:
        status: the HTTP status, 0 when the server could not be reached at all.
        reason: the machine-readable reason of the Status object, for example ``AlreadyExists``.
        message: the sentence of the Status object.
        body: the decoded body, a Status object where the server sent one.
    """

    def __init__(self, status: int, reason: str, message: str, body: Any = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.body = body

    @property
    def is_not_found(self) -> bool:
        """Whether the object (or its kind) does not exist."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """Whether the write was based on an outdated resourceVersion."""
        return self.status == 409 and self.reason != "AlreadyExists"

    @property
    def already_exists(self) -> bool:
        """Whether an object of that name exists already."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def is_expired(self) -> bool:
        """Whether a resourceVersion or continue token is too old: list again."""
        return self.status == 410


def build_api_error(status: int, body: Any, fallback: str) -> ApiError:
    """Turn an HTTP answer into an ApiError, with or without a Status object in its body."""
    if isinstance(body, dict) and body.get("kind") == "Status":
        code = body.get("code")
        return ApiError(
            code if isinstance(code, int) else status,
            str(body.get("reason") or fallback),
            str(body.get("message") or fallback),
            body,
        )
    text = body if isinstance(body, str) and body else fallback
    return ApiError(status, fallback, text.strip(), body)
