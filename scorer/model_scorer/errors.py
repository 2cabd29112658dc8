"""The scorer's error tree: what ends the process, and what ends one request.

`ScorerError` and its subclasses stop `fetch` or `serve`; each has a `reason` from the closed list in `docs/reasons.md`,
a message that says what happened with the offending value, and a hint that says the way out. They become the
termination message that the operator shows in status.

`RequestError` and its subclasses end one request; each has an HTTP status and, where a class of failures is counted,
a `reason` for the metrics. A dialect turns them into its own error body.
"""

# ruff: noqa: N818 - the names are the reasons that users read in status, where "Error" would only be noise.

from __future__ import annotations

from typing import ClassVar


class ScorerError(Exception):
    """A failure that ends `fetch` or `serve`.

    Args:
        message: what happened, with the offending value; one sentence or two, no stack trace.
        hint: what the user can do about it.
    """

    reason: ClassVar[str] = "LoadFailed"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ModelNotFound(ScorerError):
    """Nothing lies at the model URI."""

    reason = "ModelNotFound"


class ModelForbidden(ScorerError):
    """The store refused to hand out the model."""

    reason = "ModelForbidden"


class ModelUnreachable(ScorerError):
    """The store did not answer, or not in time."""

    reason = "ModelUnreachable"


class DiskFull(ScorerError):
    """The model does not fit on the volume."""

    reason = "DiskFull"


class DigestMismatch(ScorerError):
    """The bytes are not those that the spec's sha256 names, or that the revision began with.

    Args:
        message: as everywhere.
        hint: as everywhere.
        found: hexadecimal SHA-256 of the bytes that are there; empty when they are not the whole model.
    """

    reason = "DigestMismatch"

    def __init__(self, message: str, hint: str = "", *, found: str = "") -> None:
        super().__init__(message, hint)
        self.found = found


class SignatureInvalid(ScorerError):
    """The model is not signed, or not as the given public key says."""

    reason = "SignatureInvalid"


class UnsafePickle(ScorerError):
    """A pickle names functions outside the import allow-list; it was not unpickled."""

    reason = "UnsafePickle"


class VersionMismatch(ScorerError):
    """The model was saved by a library version that the installed one cannot read."""

    reason = "VersionMismatch"


class MissingDependency(ScorerError):
    """A module that the model or its score script needs is not installed."""

    reason = "MissingDependency"


class LoadFailed(ScorerError):
    """The file is no model of this framework, or loading it failed."""

    reason = "LoadFailed"


class ScriptFailed(ScorerError):
    """`score.py` cannot be imported, has no `run`, or its `init()` raised."""

    reason = "ScriptFailed"


class SampleFailed(ScorerError):
    """The sample request did not give the expected answer."""

    reason = "SampleFailed"


class InvalidSpec(ScorerError):
    """A setting or `model.yaml` has a value that makes no sense."""

    reason = "InvalidSpec"


class NoGPU(ScorerError):
    """`device: gpu`, and no usable GPU is there."""

    reason = "NoGPU"


class OutOfMemory(ScorerError):
    """The process ran out of memory, or was killed for it."""

    reason = "OutOfMemory"


class RequestError(Exception):
    """A failure of one request.

    Args:
        message: what the client is told; never a stack trace, never a secret.
        headers: response headers beside the dialect's own.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"

    def __init__(self, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers


class BadRequest(RequestError):
    """The body or a parameter is malformed."""

    status = 400
    reason = "bad_request"


class InvalidInput(BadRequest):
    """The body is well formed, and does not fit the model's signature."""

    reason = "invalid_input"


class Unprocessable(RequestError):
    """The payload was read, and its content cannot be used (a broken image, say)."""

    status = 422
    reason = "unprocessable"


class PlainHttp(RequestError):
    """The request came to the proxy by plain HTTP; it belongs to HTTPS (RFC 9110 section 15.4.9)."""

    status = 308
    reason = "plain_http"

    def __init__(self, location: str) -> None:
        super().__init__("use HTTPS", (("Location", location),))


class Unauthorized(RequestError):
    """No API key, or a wrong one."""

    status = 401
    reason = "unauthorized"


class RouteNotFound(RequestError):
    """No such path, model or version."""

    status = 404
    reason = "not_found"


class MethodNotAllowed(RequestError):
    """The path exists, with other methods."""

    status = 405
    reason = "method_not_allowed"


class RequestTimeout(RequestError):
    """The client took too long to send its request."""

    status = 408
    reason = "slow_client"


class PayloadTooLarge(RequestError):
    """The body exceeds the limit."""

    status = 413
    reason = "payload_too_large"


class UriTooLong(RequestError):
    """The request target exceeds the limit."""

    status = 414
    reason = "uri_too_long"


class UnsupportedMedia(RequestError):
    """The content type or encoding is not one that this route reads."""

    status = 415
    reason = "unsupported_media"


class HeadersTooLarge(RequestError):
    """The request's header section exceeds the limit."""

    status = 431
    reason = "headers_too_large"


class ModelFailed(RequestError):
    """The model or its script raised on this request: not the client's mistake."""

    status = 500
    reason = "model_failed"


class DeviceLost(ModelFailed):
    """The GPU failed for good in this process, which ends; the request is not to blame, and may be sent again."""

    status = 503

    def __init__(self) -> None:
        super().__init__(
            "the GPU failed; the process that used it is replaced, and the model is loaded again",
            (("Retry-After", "10"),),
        )


class NotSupported(RequestError):
    """The protocol has it, this model has not."""

    status = 501
    reason = "not_supported"


class Overloaded(RequestError):
    """The queue is full; the client should come back after `retry_after_seconds`."""

    status = 503
    reason = "overloaded"

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message, (("Retry-After", str(retry_after_seconds)),))
        self.retry_after_seconds = retry_after_seconds


class NotReady(RequestError):
    """The model is not ready to answer."""

    status = 503
    reason = "not_ready"


class DeadlineExceeded(RequestError):
    """The request's deadline passed before its answer was there."""

    status = 504
    reason = "deadline_exceeded"
