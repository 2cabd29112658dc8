"""A file on its way to the disk: written in pieces, in any order, hashed as its beginning grows, never held in memory."""

import errno
import hashlib
import os
import threading
from pathlib import Path

from model_scorer.errors import DiskFull
from model_scorer.fetch.digest import CHUNK_BYTES
from model_scorer.fetch.progress import MIB, Progress

# A thread pays off only where hashing takes longer than starting it.
_HASH_IN_THREAD_BYTES = 8 * MIB
# What the rest of the pod may need while the model is written: logs, the files of an archive's folders.
_SPARE_BYTES = 8 * MIB


def check_free_space(folder: Path, size: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        DiskFull: the volume of `folder` has less than `size` bytes free.
    """
    volume = os.statvfs(folder)
    free = volume.f_bavail * volume.f_frsize
    if size + _SPARE_BYTES > free:
        raise _disk_full(folder, f"needs {size / MIB:.0f} MiB, {free / MIB:.0f} MiB are free")


def _disk_full(folder: Path, what: str) -> DiskFull:
    return DiskFull(
        f"The model does not fit on the volume of {folder}: it {what}.",
        hint="Raise the size of the model volume (spec.resources, ephemeral-storage), or make the model smaller.",
    )


def translate_write_error(err: OSError, folder: Path) -> OSError | DiskFull:
    """Return DiskFull for an error that says so, and the error itself for any other."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _disk_full(folder, f"could not be written to its end ({err.strerror})")
    return err


class FileSink:
    """A new file that is written at offsets and hashed from its beginning, by a second thread when it is large.

    Hashing follows the writes through the page cache, so that a download at full speed costs no time for the digest,
    and pieces may arrive in any order.

    Args:
        path: must not exist; its folder must.
        progress: told of each write.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self._progress = progress
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._condition = threading.Condition()
        self._ready = 0  # bytes written from the beginning without a gap
        self._later: dict[int, int] = {}  # start → end of what was written beyond a gap
        self._hashed = 0
        self._closing = False
        self._digest = hashlib.sha256()
        self._thread: threading.Thread | None = None
        self._failure: OSError | None = None
        self._expected = 0

    @property
    def size(self) -> int:
        """Bytes written from the beginning without a gap."""
        return self._ready

    def expect(self, size: int) -> None:
        """Announce the size of the file.

        Raises:
            DiskFull: the volume has not that much space.
        """
        if size != self._expected:
            check_free_space(self.path.parent, size)
            self._progress.expect(size - self._expected)
            self._expected = size

    def write(self, data: memoryview | bytes, offset: int) -> None:
        """Write at an offset.

        Raises:
            DiskFull: the volume is full.
        """
        view, start = memoryview(data), offset
        try:
            while view:
                count = os.pwrite(self._file, view, offset)
                view, offset = view[count:], offset + count
        except OSError as err:
            raise translate_write_error(err, self.path.parent) from err
        self._advance(start, offset)
        self._progress.add(offset - start)

    def _advance(self, start: int, end: int) -> None:
        with self._condition:
            if start != self._ready:
                self._later[start] = max(end, self._later.get(start, 0))
                return
            self._ready = end
            while (further := self._later.pop(self._ready, None)) is not None:
                self._ready = further
            if self._thread is None and self._ready >= _HASH_IN_THREAD_BYTES:
                self._thread = threading.Thread(target=self._follow, name="digest", daemon=True)
                self._thread.start()
            self._condition.notify()

    def _follow(self) -> None:
        try:
            while True:
                with self._condition:
                    self._condition.wait_for(lambda: self._hashed < self._ready or self._closing)
                    end = self._ready
                if self._hashed == end:
                    return
                self._hash_up_to(end)
        except OSError as err:
            self._failure = err

    def _hash_up_to(self, end: int) -> None:
        buffer = memoryview(bytearray(min(CHUNK_BYTES, max(end - self._hashed, 1))))
        while self._hashed < end:
            count = os.preadv(self._file, [buffer[: end - self._hashed]], self._hashed)
            if count == 0:
                raise OSError(errno.EIO, "the file shrank while it was hashed", str(self.path))
            self._digest.update(buffer[:count])
            self._hashed += count

    def restart(self) -> None:
        """Throw away what was written; the next write begins at offset 0."""
        self._stop_thread()
        self._progress.add(-self._ready - sum(end - start for start, end in self._later.items()))
        os.ftruncate(self._file, 0)
        self._ready = self._hashed = 0
        self._later.clear()
        self._closing = False
        self._failure = None
        self._digest = hashlib.sha256()

    def drop_beyond_gap(self) -> None:
        """Forget what was written beyond a gap, so that writing can go on at `size`."""
        with self._condition:
            if self._later:
                self._progress.add(-sum(end - start for start, end in self._later.items()))
                self._later.clear()
                os.ftruncate(self._file, self._ready)

    def finish(self) -> str:
        """Close the file and return its hexadecimal SHA-256."""
        self._stop_thread()
        try:
            if self._failure is not None:
                raise self._failure
            self._hash_up_to(self._ready)
        finally:
            self.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file without a digest; may be called twice."""
        self._stop_thread()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _stop_thread(self) -> None:
        if self._thread is None:
            return
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()
        self._thread = None
