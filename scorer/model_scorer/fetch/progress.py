"""Progress of a fetch: one log line every few seconds, with MiB, percent and speed."""

import logging
import threading
import time

log = logging.getLogger(__name__)

MIB = 1 << 20


class Progress:
    """Counts bytes from several threads and tells the log about them.

    Args:
        display: the URI as it may be logged.
        interval_seconds: the least time between two lines.
    """

    def __init__(self, display: str, *, interval_seconds: float = 5.0) -> None:
        self._display = display
        self._interval = interval_seconds
        self._lock = threading.Lock()
        self._started = self._told = time.monotonic()
        self.bytes_done = 0
        self.bytes_total = 0

    def expect(self, size: int) -> None:
        """Add `size` bytes to what is to come."""
        with self._lock:
            self.bytes_total += size

    def add(self, size: int) -> None:
        """Count `size` more bytes; negative when a download starts over."""
        with self._lock:
            self.bytes_done += size
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
