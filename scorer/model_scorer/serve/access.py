"""Who may come in: HTTPS only behind a proxy, and an API key; and how long a client gives us."""

from __future__ import annotations

import math
import re

from model_scorer.dialects.protocol import HttpRequest
from model_scorer.errors import BadRequest, DeadlineExceeded, PlainHttp, Unauthorized
from model_scorer.serve.keys import KeyStore, presented_key
from model_scorer.ui import OPEN_PATHS as UI_PATHS

TIMEOUT_HEADER = b"x-request-timeout-seconds"
_OPEN_PATHS = frozenset({"/", *UI_PATHS})
_HOST = re.compile(r"[A-Za-z0-9._~:\[\]-]{1,300}")


def check_access(request: HttpRequest, path: str, keys: KeyStore | None) -> None:
    """Let a request pass or not.

    Args:
        request: with its headers.
        path: of its target.
        keys: None when the port is open.

    Raises:
        PlainHttp: it came to the proxy without TLS.
        Unauthorized: no key, or a wrong one.
    """
    headers = request.headers
    if b"x-forwarded-proto" in headers:
        forwarded = headers[b"x-forwarded-proto"].split(b",")[0].strip().lower()
        if forwarded == b"http":
            raise PlainHttp(_https_location(request))
    if keys is None or path in _OPEN_PATHS:
        return
    key = presented_key(headers)
    if key is None:
        raise Unauthorized(
            "an API key is needed: send the header Authorization: Bearer <key>",
            (("WWW-Authenticate", 'Bearer realm="scoring"'),),
        )
    if not keys.allows(key):
        raise Unauthorized(
            "the API key is wrong",
            (("WWW-Authenticate", 'Bearer realm="scoring", error="invalid_token"'),),
        )


def _https_location(request: HttpRequest) -> str:
    host = request.header(b"x-forwarded-host") or request.header(b"host")
    if not _HOST.fullmatch(host):
        raise BadRequest("use HTTPS; the Host header is missing or malformed")
    query = f"?{request.query}" if request.query else ""
    return f"https://{host}{request.path}{query}"


def read_timeout(request: HttpRequest) -> float:
    """The seconds that a client gives its request in `x-request-timeout-seconds`.

    Raises:
        BadRequest: no number of seconds.
        DeadlineExceeded: it gives none.
    """
    try:
        seconds = float(request.headers[TIMEOUT_HEADER])
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise BadRequest(f"{TIMEOUT_HEADER.decode()} must be a number of seconds")
    if seconds == 0:
        raise DeadlineExceeded("the deadline passed before the request was read")
    return seconds
