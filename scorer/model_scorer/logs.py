"""Logs: one JSON object a line on standard output, with secrets taken out before anything is written."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import time
from typing import Any, TextIO

_RESERVED = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_SECRET_FIELD = re.compile(
    r"(?i)^(authorization|x-api-key|api[-_]?key|.*(password|passwd|secret|token|credential).*)$"
)
# Bearer tokens, user:password@ in URLs, and the query parameters that sign or authorise storage URLs.
_SECRET_TEXT = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@"), r"\1***@"),
    (
        re.compile(
            r"(?i)([?&](?:sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token|"
            r"x-goog-signature|access_token|token|key|api[-_]?key)=)[^&\s\"']+"
        ),
        r"\1***",
    ),
)


def redact(text: str) -> str:
    """Replace bearer tokens, passwords in URLs and signed query parameters by `***`."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def format_timestamp(epoch_seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_seconds))
    return f"{whole}.{int(epoch_seconds % 1 * 1000):03d}Z"


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, message, the `extra` fields, and the traceback if any."""

    def __init__(self, constant: dict[str, str] | None = None) -> None:
        super().__init__()
        self._constant = dict(constant or {})

    def format(self, record: logging.LogRecord) -> str:
        """Render the record; never raises on values that JSON does not know."""
        out: dict[str, Any] = {
            "time": format_timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
            **self._constant,
        }
        for key, value in record.__dict__.items():
            if key not in _RESERVED:
                if _SECRET_FIELD.match(key):
                    out[key] = "***"
                else:
                    out[key] = redact(value) if isinstance(value, str) else value
        if record.exc_info and record.exc_info[0] is not None:
            out["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(out, default=str, ensure_ascii=False)


def configure_logs(
    *, level: str = "INFO", stream: TextIO | None = None, constant: dict[str, str] | None = None
) -> None:
    """Send every logger of the process, warnings too, to one JSON-lines stream.

    Args:
        level: the root logger's level.
        stream: standard output unless given.
        constant: fields that every line carries (the model's name, the revision).
    """
    handler = logging.StreamHandler(stream or sys.__stdout__)
    handler.setFormatter(JsonFormatter(constant))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    # Tornado's own access log would repeat ours, one line a request.
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)


class LineLogger(io.TextIOBase):
    """A text stream that logs each line written to it: what a score script prints stays one JSON object a line."""

    def __init__(self, logger: logging.Logger, level: int = logging.INFO) -> None:
        super().__init__()
        self._logger = logger
        self._level = level
        self._pending = ""

    def writable(self) -> bool:
        """Streams of this kind take text, always."""
        return True

    def write(self, text: str) -> int:
        """Log the complete lines of `text`; the rest waits for its line break."""
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            if line.strip():
                self._logger.log(self._level, "%s", line.rstrip("\r"))
        return len(text)

    def flush(self) -> None:
        """Log a line that was begun and not ended."""
        line, self._pending = self._pending, ""
        if line.strip():
            self._logger.log(self._level, "%s", line)
