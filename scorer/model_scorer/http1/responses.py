"""Response heads as bytes, with as little work as possible for each."""

from __future__ import annotations

import time
from collections.abc import Collection
from email.utils import formatdate
from http import HTTPStatus

SERVER = "model-scorer"

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES = {
    code: f"HTTP/1.1 {code} {phrase}\r\nServer: {SERVER}\r\nDate: ".encode()
    for code, phrase in _REASONS.items()
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class DateHeader:
    """The Date header's value, made once a second."""

    __slots__ = ("_second", "_value")

    def __init__(self) -> None:
        self._second = 0
        self._value = b""

    def value(self) -> bytes:
        """As RFC 9110 section 5.6.7 wants it."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._value = formatdate(second, usegmt=True).encode()
        return self._value


_date = DateHeader()


def render_head(
    status: int,
    content_type: str,
    length: int,
    lines: str,
    *,
    keep_alive: bool,
    http_1_0: bool = False,
) -> bytes:
    """Status line and headers, the empty line included.

    Args:
        status: of the response.
        content_type: of the body.
        length: of the body in bytes.
        lines: further headers, as `render_lines` makes them.
        keep_alive: the connection stays open.
        http_1_0: the client speaks HTTP/1.0, which must be told.
    """
    if not keep_alive:
        lines += "Connection: close\r\n"
    elif http_1_0:
        lines += "Connection: keep-alive\r\n"
    text = f"\r\nContent-Type: {_clean(content_type)}\r\nContent-Length: {length}\r\n{lines}\r\n"
    return status_line(status) + _date.value() + text.encode("latin-1", "replace")


_ok_heads: dict[str, str] = {}
_ok_second = 0


def ok_head(content_type: str) -> str:
    """A 200's head up to the value of Content-Length, made once a second: what nearly every answer begins with."""
    global _ok_second
    second = int(time.time())
    if second != _ok_second:
        _ok_heads.clear()
        _ok_second = second
    head = _ok_heads.get(content_type)
    if head is None:
        text = status_line(200) + _date.value()
        head = (
            f"{text.decode('latin-1')}\r\nContent-Type: {_clean(content_type)}\r\nContent-Length: "
        )
        if len(_ok_heads) < 64:  # scripts choose content types freely
            _ok_heads[content_type] = head
    return head


def render_lines(headers: Collection[tuple[str, str]]) -> str:
    """Headers as lines; line breaks inside are taken out, so that nobody's value can split the response."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") == text.count("\r") == len(headers):
        return text
    return "".join([f"{_clean(name)}: {_clean(value)}\r\n" for name, value in headers])


def _clean(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` and the headers that every response begins with, up to the date's value."""
    line = _STATUS_LINES.get(status)
    if line is None:
        line = f"HTTP/1.1 {status} Unknown\r\nServer: {SERVER}\r\nDate: ".encode()
    return line


def reason_phrase(status: int) -> str:
    """The standard's words for a status."""
    return _REASONS.get(status, "Unknown")
