"""Request heads that were read and found good: clients on a kept connection send the very same bytes again."""

from __future__ import annotations

from typing import Any

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.errors import RequestError
from model_scorer.http1.exchange import KnownHead
from model_scorer.serve.access import TIMEOUT_HEADER, check_access
from model_scorer.serve.keys import KeyStore

MAX_KNOWN_HEADS = 512
# What differs from request to request: a head with one of these will not come again.
_PER_REQUEST = frozenset(
    {
        b"x-request-id",
        b"x-ms-request-id",
        b"x-ms-client-request-id",
        b"traceparent",
        b"x-b3-traceid",
        b"traceid",
        TIMEOUT_HEADER,
    }
)


def may_be_known(request: HttpRequest, keys: KeyStore | None) -> bool:
    """Whether a scoring request's head may be taken for good when it comes again.

    It is authorised, and nothing in it is particular to this request.

    Args:
        request: that had the head.
        keys: None when the port is open; whoever keeps heads forgets them when the keys change.
    """
    if request.query or request.method != "POST" or not _PER_REQUEST.isdisjoint(request.headers):
        return False
    try:
        check_access(request, request.path, keys)
    except RequestError:
        return False
    return True


def learn(known: dict[bytes, KnownHead], head: bytes, request: HttpRequest, context: Any) -> None:
    """Keep a head; a bounded number."""
    if len(known) >= MAX_KNOWN_HEADS:
        known.clear()
    length = int(request.headers[b"content-length"])
    known[head] = KnownHead(length, request.path, request.headers, context)
