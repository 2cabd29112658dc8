"""What a dialect is, and the values it exchanges with the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from model_scorer.errors import BadRequest, RequestError, UnsupportedMedia
from model_scorer.json_text import is_json_type
from model_scorer.runtimes.protocol import Call, Output, RuntimeInfo, Signature

JSON = "application/json"
_SECRET_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"cookie"})


class HttpRequest:
    """A complete request.

    Attributes:
        method: upper case.
        path: the target without its query, as it came.
        query: without the question mark.
        headers: by lower-case name; of a repeated header the last.
        buffer: the complete body as it was received: bytes, or for a large one the memory that it was read into.
    """

    __slots__ = ("buffer", "headers", "method", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: dict[bytes, bytes],
        body: bytes | memoryview,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.buffer = body

    @property
    def body(self) -> bytes:
        """The complete body; a large one is copied when it is first asked for."""
        if not isinstance(self.buffer, bytes):
            self.buffer = bytes(self.buffer)
        return self.buffer

    def header(self, name: bytes) -> str:
        """A header's value, or the empty text."""
        return self.headers.get(name, b"").decode("latin-1")

    def public_headers(self) -> dict[str, str]:
        """All headers but those that carry secrets, for score scripts."""
        return {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in self.headers.items()
            if name not in _SECRET_HEADERS
        }

    def media_type(self) -> str:
        """The content type without parameters, lower case; empty when none was sent."""
        return self.header(b"content-type").split(";", 1)[0].strip().lower()


@dataclass(slots=True)
class Answer:
    """A complete response but for the headers that the server adds to all."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """The model as a dialect sees it.

    Attributes:
        name: the ScoringModel's name.
        version: the revision, or `1`.
        info: of the runtime.
        signature: of the runtime.
        config: `model.yaml`.
    """

    name: str
    version: str
    info: RuntimeInfo
    signature: Signature
    config: Mapping[str, Any] = field(default_factory=dict)


class Dialect(Protocol):
    """A codec for one family of clients. Instances are shared by all requests and hold no state of any."""

    name: str

    def decode(self, request: HttpRequest, target: Target) -> tuple[Call, Any]:
        """A request as a call, and whatever `encode` will need to know of it.

        Raises:
            RequestError: the client's mistake; nothing else for any bytes.
        """
        ...

    def encode(self, output: Output, context: Any, target: Target, exec_ms: float) -> Answer:
        """An output as the answer.

        Raises:
            TypeError: the model returned what this dialect cannot say (HTTP 500).
        """
        ...

    def error(self, error: RequestError) -> Answer:
        """A failure in the dialect's own form, status included."""
        ...


def require_json(request: HttpRequest) -> None:
    """Refuse a body that is declared to be something else than JSON.

    Raises:
        UnsupportedMedia: another content type, or a compressed body.
    """
    declared = request.headers.get(b"content-type")
    if declared is not None and declared != b"application/json":
        media = request.media_type()
        if not is_json_type(media):
            raise UnsupportedMedia(f"content type {media[:100]!r} is not supported; send {JSON}")
    if b"content-encoding" in request.headers:
        refuse_encoding(request)


def refuse_encoding(request: HttpRequest) -> None:
    """Compressed bodies are not accepted: their size says nothing about the memory they need."""
    encoding = request.header(b"content-encoding").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMedia(
            f"content encoding {encoding[:100]!r} is not supported; send it plain"
        )


def decode_text(body: bytes) -> str:
    """The body as text, for score scripts.

    Raises:
        BadRequest: no UTF-8.
    """
    try:
        return body.decode()
    except UnicodeDecodeError as err:
        raise BadRequest(f"the body is not UTF-8: {err.reason} at byte {err.start}") from None
