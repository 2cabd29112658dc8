"""Progress of a fetch: one log line every few seconds, with MiB, percent and speed; and `GET /progress` for the operator."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from model_scorer.fetch.size_limit import SizeLimit

log = logging.getLogger(__name__)

MIB = 1 << 20


class Progress:
    """Counts bytes from several threads and tells the log about them.

    Args:
        display: the URI as it may be logged.
        interval_seconds: the least time between two lines.
        size_limit: what is counted must not grow beyond it.
    """

    def __init__(
        self, display: str, *, interval_seconds: float = 5.0, size_limit: SizeLimit | None = None
    ) -> None:
        self._display = display
        self._interval = interval_seconds
        self._size_limit = size_limit or SizeLimit()
        self._lock = threading.Lock()
        self._started = self._told = time.monotonic()
        self.bytes_done = 0
        self.bytes_total = 0

    def expect(self, size: int) -> None:
        """Add `size` bytes to what is to come.

        Raises:
            DiskFull: together it is more than the size limit.
        """
        with self._lock:
            self.bytes_total += size
        self._size_limit.check(self.bytes_total)

    def check_fits(self, size: int, what: str = "The model") -> None:
        """Refuse what is known to become too large, before it is begun.

        Args:
            size: bytes on the volume.
            what: takes them; the subject of the message.

        Raises:
            DiskFull: more than the size limit.
        """
        self._size_limit.check(size, what)

    def add(self, size: int) -> None:
        """Count `size` more bytes; negative when a download starts over.

        Raises:
            DiskFull: more than the size limit, where the store did not say the size before.
        """
        with self._lock:
            self.bytes_done += size
        if size > 0:
            self._size_limit.check(self.bytes_done)
        with self._lock:
            now = time.monotonic()
            if now - self._told < self._interval:
                return
            self._told = now
        self.tell("downloading")

    def tell(self, message: str) -> None:
        """Write one log line."""
        seconds = max(time.monotonic() - self._started, 1e-6)
        total = self.bytes_total
        log.info(
            message,
            extra={
                "uri": self._display,
                "mib": round(self.bytes_done / MIB, 1),
                "total_mib": round(total / MIB, 1) if total else None,
                "percent": min(100, round(100 * self.bytes_done / total)) if total else None,
                "mib_per_second": round(self.bytes_done / MIB / seconds, 1),
                "seconds": round(seconds, 1),
            },
        )


@contextmanager
def served(progress: Progress, address: str, port: int) -> Iterator[int | None]:
    """Answer `GET /progress` with `{"bytes": …, "totalBytes": …}` while the block runs; 0 bytes in total: not known yet.

    Args:
        progress: what to tell.
        address: to listen on.
        port: 0 for any free one.

    Yields:
        The port; None when it cannot be had, which a fetch does without.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0

        def do_GET(self) -> None:
            if self.path != "/progress":
                self.send_error(404)
                return
            state = {"bytes": progress.bytes_done, "totalBytes": progress.bytes_total}
            body = json.dumps(state).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing: the operator asks every few seconds."""

    try:
        server = ThreadingHTTPServer((address, port), Handler)
    except OSError as err:
        log.info("progress is told in the log only", extra={"cause": str(err)})
        yield None
        return
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, args=(0.1,), name="progress", daemon=True
    )
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
