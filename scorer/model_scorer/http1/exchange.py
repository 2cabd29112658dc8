"""What a connection and its handler exchange: limits, a request on its way to its response, the handler's interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.errors import RequestError

if TYPE_CHECKING:
    from model_scorer.http1.connection import Connection


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one connection may take.

    Attributes:
        max_body_bytes: beyond it 413.
        max_head_bytes: request line and headers together; beyond it 431.
        max_target_bytes: beyond it 414.
        max_headers: number of header lines.
        head_seconds: from the first byte to the end of the headers.
        body_seconds: for the body, beside a second for each `body_rate` bytes already received.
        body_rate: bytes a second that a slow but honest client must reach.
        idle_seconds: between requests.
        write_seconds: for a client that does not read its answer.
    """

    max_body_bytes: int
    max_head_bytes: int = 16 * 1024
    max_target_bytes: int = 8 * 1024
    max_headers: int = 100
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    body_rate: float = 64 * 1024.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0


class Exchange:
    """A request and its way to the response; handlers derive their own from it.

    Attributes:
        connection: where it came from.
        request: complete.
        keep_alive: whether the client wants the connection to stay open.
        http_1_0: the client speaks HTTP/1.0.
        received_at: monotonic time of its last byte.
    """

    __slots__ = ("connection", "http_1_0", "keep_alive", "received_at", "request")

    def __init__(
        self,
        connection: Connection,
        request: HttpRequest,
        keep_alive: bool,
        http_1_0: bool,
        received_at: float,
    ) -> None:
        self.connection = connection
        self.request = request
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.received_at = received_at


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A request line and headers that were read before: clients on a kept connection send the same bytes again.

    Attributes:
        length: of the body that follows, in bytes.
        path: of the target.
        headers: by lower-case name; shared by all requests, never changed.
        context: whatever the handler wants to know again.
    """

    length: int
    path: str
    headers: dict[bytes, bytes]
    context: Any


# What a connection owes its client, told by `Connection.mark`: nothing, or an answer to what it has begun to read. Other
# values are the handler's.
NOTHING_DUE = 0
READING = 255


class Handler(Protocol):
    """Who answers requests.

    Attributes:
        closing: every answer ends its connection.
        limits: of each connection.
        paths: targets that need no parsing.
        known_heads: by their bytes, the empty line included; only what `learn_head` put there.
    """

    closing: bool
    limits: HttpLimits
    paths: dict[bytes, str]
    known_heads: dict[bytes, KnownHead]

    def begin(
        self,
        connection: Connection,
        request: HttpRequest,
        keep_alive: bool,
        http_1_0: bool,
        received_at: float,
    ) -> Exchange:
        """Make the exchange of a complete request; `handle` follows when its turn has come."""
        ...

    def handle(self, exchange: Any) -> None:
        """Answer a request, now or later, by `exchange.connection.respond`; never raises."""
        ...

    def handle_known(
        self, connection: Connection, head: KnownHead, body: bytes | memoryview
    ) -> None:
        """Begin, `adopt` and handle a request whose head is known."""
        ...

    def learn_head(self, head: bytes, request: HttpRequest) -> None:
        """A request kept its connection and had these bytes, which came in one piece, for its head."""
        ...

    def refuse(self, connection: Connection, error: RequestError, target: str) -> None:
        """Answer a request that could not be read to its end."""
        ...

    def disconnected(self, exchange: Any) -> None:
        """The client went away before its answer."""
        ...

    def opened(self, connection: Connection) -> None:
        """A connection was made."""
        ...

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        ...
