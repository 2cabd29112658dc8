"""The access log: one JSON object a request, a sampled share of the successes, all failures; no payloads, no keys."""

from __future__ import annotations

import asyncio
import json
import os
import time

from model_scorer.logs import format_timestamp

FLUSH_SECONDS = 0.05
# Writes up to this size reach a pipe in one piece, so that lines of several processes never mix (pipe(7)).
PIPE_BUF = 4096
# Paths whose JSON form is kept; a client may invent any number.
MAX_QUOTED = 256


class AccessLog:
    """Collects lines and writes them in the background of the loop.

    Args:
        loop: where the flush is scheduled.
        sample: share of successful requests that are logged, 0 to 1.
        model: the ScoringModel's name, on every line.
        fd: where to.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, sample: float, model: str, fd: int = 1
    ) -> None:
        self._loop = loop
        self._sample = sample
        self._due = 0.0
        self._fd = fd
        self._lines: list[str] = []
        self._scheduled = False
        self._model = json.dumps(model)
        self._second = 0
        self._time_prefix = ""
        self._quoted: dict[str, str] = {}

    def wants(self, status: int) -> bool:
        """Whether the next answer is to be logged: every failure, and the sampled share of the successes."""
        if status >= 400:
            return True
        # An even share, not a random one: at 0.01 every hundredth request is there.
        self._due += self._sample
        if self._due < 1.0:
            return False
        self._due -= 1.0
        return True

    def log(
        self,
        request_id: str,
        method: str,
        path: str,
        dialect: str,
        status: int,
        seconds: float,
        queue_seconds: float,
        rows: int,
        bytes_in: int,
        bytes_out: int,
        reason: str = "",
    ) -> None:
        """Note one answered request that `wants` chose."""
        failure = f',"reason":"{reason}"' if reason else ""
        quoted = self._quoted.get(path)
        if quoted is None:
            quoted = self._quote(path)
        self._lines.append(
            f'{{"time":"{self._time()}","level":"info","logger":"access","model":{self._model},'
            f'"request_id":"{_plain(request_id)}","method":"{method}","path":{quoted},'
            f'"dialect":"{dialect}","status":{status},"ms":{seconds * 1000:.2f},'
            f'"queue_ms":{queue_seconds * 1000:.2f},"rows":{rows},"bytes_in":{bytes_in},'
            f'"bytes_out":{bytes_out}{failure}}}\n'
        )
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_later(FLUSH_SECONDS, self.flush)

    def _quote(self, path: str) -> str:
        if len(self._quoted) >= MAX_QUOTED:
            self._quoted.clear()
        quoted = self._quoted[path] = json.dumps(path[:200])
        return quoted

    def flush(self) -> None:
        """Write what is collected."""
        self._scheduled = False
        lines, self._lines = self._lines, []
        start = size = 0
        # A line is ASCII, so that its length is its size.
        for index, line in enumerate(lines):
            size += len(line)
            if size > PIPE_BUF and index > start:
                self._write("".join(lines[start:index]).encode("ascii", "replace"))
                start, size = index, len(line)
        if lines:
            self._write("".join(lines[start:]).encode("ascii", "replace"))

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._fd, data)
        except OSError:
            return  # nobody reads the log: no reason to stop serving

    def _time(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._time_prefix = format_timestamp(second)[:-4]
        return f"{self._time_prefix}{int((now - second) * 1000):03d}Z"


def _plain(text: str) -> str:
    return text if '"' not in text and "\\" not in text else text.translate(_UNQUOTED)


_UNQUOTED = {ord('"'): None, ord("\\"): None}
