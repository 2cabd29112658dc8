"""Reading container logs in CRI format, as ``kubectl logs`` asks for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

_BLOCK_BYTES = 65536
# The standard library has no file notifications; a tenth of a second is live enough for a reader.
_FOLLOW_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The query of a log request.

    Args:
        follow: go on until the container ends.
        tail_lines: only so many lines from the end.
        since: only lines from this moment on, RFC 3339.
        timestamps: each line begins with its time.
        limit_bytes: at most so many bytes.
        stream: ``stdout`` or ``stderr`` alone; both by default.
    """

    follow: bool = False
    tail_lines: int | None = None
    since: str | None = None
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str | None = None


def parse_since(since_seconds: str | None, since_time: str | None) -> str | None:
    """The earliest time stamp wanted, from either form of the option.

    Raises:
        ValueError: it is neither a number nor a time.
    """
    if since_seconds:
        moment = datetime.now(UTC) - timedelta(seconds=int(since_seconds))
    elif since_time:
        moment = datetime.fromisoformat(since_time).astimezone(UTC)
    else:
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def format_line(line: bytes, options: LogOptions) -> bytes:
    """One line of the file as the reader sees it; empty when it is filtered out."""
    parts = line.split(b" ", 3)
    if len(parts) < 4:
        return b""
    stamp, stream, tag, text = parts
    if options.since and stamp.decode() < options.since:
        return b""
    if options.stream and stream.decode() != options.stream:
        return b""
    head = stamp + b" " if options.timestamps else b""
    # The pieces of a long line are put together again.
    return head + (text if tag.startswith(b"F") else text.rstrip(b"\n"))


def find_tail(path: Path, lines: int) -> int:
    """The offset at which the last lines of a file begin."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        if lines <= 0:
            return position
        missing = lines + 1  # the newline that ends the file is not before a line
        while position > 0:
            size = min(_BLOCK_BYTES, position)
            position = file.seek(position - size)
            block = file.read(size)
            found = block.count(b"\n")
            if found >= missing:
                index = len(block)
                for _ in range(missing):
                    index = block.rindex(b"\n", 0, index)
                return position + index + 1
            missing -= found
    return 0


def _is_rotated(path: Path, file: IO[bytes]) -> bool:
    return path.stat().st_ino != os.fstat(file.fileno()).st_ino


async def read_log(
    path: Path, options: LogOptions, is_alive: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Stream a log.

    Args:
        path: the log file; when it is rotated while followed, its successor is read on.
        options: what of it is wanted.
        is_alive: whether the container may still write.

    Yields:
        Chunks of one or more lines.
    """
    left = options.limit_bytes
    file = path.open("rb")
    try:
        if options.tail_lines is not None:
            file.seek(find_tail(path, options.tail_lines))
        pending = b""
        while True:
            alive = is_alive()  # asked first: what is written before the end is read below
            block = file.read(_BLOCK_BYTES)
            *lines, pending = (pending + block).split(b"\n")
            chunk = b"".join(format_line(line + b"\n", options) for line in lines)
            if left is not None:
                chunk = chunk[:left]
                left -= len(chunk)
            if chunk:
                yield chunk
            if left == 0:
                return
            if block:
                continue
            try:
                rotated = _is_rotated(path, file)
            except FileNotFoundError:
                return
            if rotated:
                file.close()
                file = path.open("rb")
            elif not (options.follow and alive):
                return
            else:
                await asyncio.sleep(_FOLLOW_SECONDS)
    finally:
        file.close()
