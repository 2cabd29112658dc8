"""Archives, unpacked as if they were hostile: nothing outside the folder, no links, no devices, bounded in all respects.

tar (plain and gzip) and zip. What is refused is refused as a whole, with the entry's name: an archive with one bad
entry is not one to take the rest from.
"""

import gzip
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from model_scorer.errors import DiskFull, LoadFailed
from model_scorer.fetch.paths import parse_relative_path
from model_scorer.fetch.progress import MIB
from model_scorer.fetch.sink import check_free_space, translate_write_error

_CHUNK_BYTES = 1 << 18
_MAX_HEADER_BYTES = MIB
# What archivers of desktop systems add, and no model needs.
_IGNORED_TOP = frozenset({"__MACOSX"})
_IGNORED_NAMES = frozenset({".DS_Store"})


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """What an archive may grow to.

    Attributes:
        max_files: files and folders.
        max_bytes: of all files together.
        max_ratio: unpacked bytes per archive byte. Weights hardly shrink, text ten times; deflate's limit is 1032.
        ratio_free_bytes: unpacked bytes for which the ratio is not looked at, as small texts shrink well.
    """

    max_files: int = 10_000
    max_bytes: int = 256 << 30
    max_ratio: int = 100
    ratio_free_bytes: int = 64 * MIB


@dataclass(frozen=True, slots=True)
class _Entry:
    path: PurePosixPath
    folder: bool
    content: IO[bytes] | None
    size: int


def unpack_archive(
    archive: Path,
    folder: Path,
    limits: UnpackLimits,
    *,
    display: str,
    check_fits: Callable[[int], None] = lambda size: None,
) -> None:
    """Unpack an archive into an empty folder.

    Args:
        archive: a .tar, .tar.gz, .tgz or .zip file; what it is is read from its first bytes.
        folder: exists, and is on the volume that the files shall fill.
        limits: see `UnpackLimits`.
        display: the archive's name for messages.
        check_fits: told how many bytes will be unpacked, before each file; raises DiskFull where that is too much.

    Raises:
        LoadFailed: broken, hostile, or no archive at all.
        DiskFull: the files do not fit.
    """
    try:
        with archive.open("rb") as file:
            magic = file.read(4)
        if magic in (b"PK\x03\x04", b"PK\x05\x06"):
            entries = _read_zip(archive, limits)
        else:
            entries = _read_tar(archive, limits, gzipped=magic[:2] == b"\x1f\x8b")
        _write_entries(entries, folder, limits, check_fits)
    except _RefusedError as err:
        raise LoadFailed(f"The archive {display} is refused: {err}.", hint=err.hint) from err
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError) as err:
        raise LoadFailed(
            f"The archive {display} is broken: {err or type(err).__name__}.",
            hint="Pack and upload it again, and set spec.sha256 so that a broken upload is seen as such.",
        ) from err
    except (NotImplementedError, RuntimeError, struct.error, ValueError, OverflowError) as err:
        raise LoadFailed(
            f"The archive {display} cannot be read: {err}.",
            hint="Use a .tar.gz, or a .zip with deflate and without encryption.",
        ) from err


class _RefusedError(Exception):
    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


def _write_entries(
    entries: Iterator[_Entry],
    folder: Path,
    limits: UnpackLimits,
    check_fits: Callable[[int], None],
) -> None:
    written = 0
    seen: set[PurePosixPath] = set()
    for count, entry in enumerate(entries, 1):
        if count > limits.max_files:
            raise _RefusedError(
                f"it has more than {limits.max_files} entries",
                "Put the files into fewer, larger ones.",
            )
        if entry.path.parts[0] in _IGNORED_TOP or entry.path.name in _IGNORED_NAMES:
            continue
        if not entry.folder and entry.path in seen:
            raise _RefusedError(f"it has {str(entry.path)!r} twice", "Pack each file once.")
        seen.add(entry.path)
        target = folder / entry.path
        try:
            if entry.folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            size = min(entry.size, limits.max_bytes)
            check_fits(written + size)
            check_free_space(folder, size)
            assert entry.content is not None
            written = _write_file(entry, target, written, limits)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as err:
            raise _RefusedError(
                f"its entry {str(entry.path)!r} is a file here and a folder there",
                "Pack the folder again.",
            ) from err
        except OSError as err:
            if isinstance(err, gzip.BadGzipFile):
                raise
            translated = translate_write_error(err, folder)
            if isinstance(translated, DiskFull):
                raise translated from err
            raise _RefusedError(
                f"its entry {str(entry.path)!r} cannot be written ({err.strerror or err})",
                "Rename the file.",
            ) from err


def _write_file(entry: _Entry, target: Path, written: int, limits: UnpackLimits) -> int:
    """Write one file; returns the bytes of all files so far."""
    assert entry.content is not None
    descriptor = os.open(
        target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
    )
    with open(descriptor, "wb", buffering=0) as out:
        while data := entry.content.read(_CHUNK_BYTES):
            written += len(data)
            if written > limits.max_bytes:
                raise _RefusedError(
                    f"it unpacks to more than {limits.max_bytes / MIB:.0f} MiB",
                    "Fetch the folder unpacked.",
                )
            out.write(data)
    return written


def _parse_entry_path(name: str) -> PurePosixPath | None:
    """Return the checked path, None for the folder itself (`./`)."""
    if name.strip("/") in ("", ".") and not name.startswith("/"):
        return None
    try:
        return parse_relative_path(name)
    except ValueError as err:
        raise _RefusedError(
            f"the path of its entry {name[:200]!r} {err}",
            "Pack from inside the folder: tar -C FOLDER -czf model.tar.gz .",
        ) from None


def _refuse_kind(name: str, kind: str) -> _RefusedError:
    return _RefusedError(
        f"its entry {name[:200]!r} is a {kind}",
        "Pack files and folders only; tar -h packs what a link points to.",
    )


class _BoundedStream:
    """Decompressed bytes, cut off when they outgrow the compressed ones: a bomb is stopped before it goes off."""

    def __init__(self, stream: BinaryIO, source: BinaryIO, limits: UnpackLimits) -> None:
        self._stream = stream
        self._source = source
        self._limits = limits
        self._count = 0
        self._header_bytes: int | None = None

    def expect_header(self, expected: bool) -> None:
        """Bound what is read next to the size of a header, or lift that bound."""
        self._header_bytes = 0 if expected else None

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(_CHUNK_BYTES if size < 0 else min(size, _CHUNK_BYTES))
        self._count += len(data)
        if self._header_bytes is not None:
            # tarfile holds extended headers in memory, however large they say they are.
            self._header_bytes += len(data)
            if self._header_bytes > _MAX_HEADER_BYTES:
                raise _RefusedError(
                    "it has an entry with an oversized header", "Pack the folder again."
                )
        limits = self._limits
        if self._count > limits.ratio_free_bytes + limits.max_ratio * self._source.tell():
            raise _RefusedError(
                f"it unpacks to more than {limits.max_ratio} times its size, as an archive bomb does",
                "Fetch the folder unpacked.",
            )
        if self._count > limits.max_bytes + limits.max_files * 2048:
            raise _RefusedError(
                f"it unpacks to more than {limits.max_bytes / MIB:.0f} MiB",
                "Fetch the folder unpacked.",
            )
        return data


def _read_tar(archive: Path, limits: UnpackLimits, *, gzipped: bool) -> Iterator[_Entry]:
    with archive.open("rb") as source:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=source, mode="rb")) if gzipped else source
        bounded = _BoundedStream(stream, source, limits)
        bounded.expect_header(True)
        # Read as a stream, front to back: nothing is held that was not bounded before.
        with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r|") as tar:
            while (member := tar.next()) is not None:
                bounded.expect_header(False)
                yield from _tar_entry(tar, member)
                bounded.expect_header(True)
            bounded.expect_header(False)
            # tarfile takes a damaged header for the end; the end of an archive is zeros, to the last byte.
            rest = 0
            while data := tar.fileobj.read(_CHUNK_BYTES):
                rest += len(data)
                if data.count(0) != len(data):
                    raise tarfile.ReadError("damaged in the middle")
            if rest == 0:
                raise tarfile.ReadError("its end is missing")


def _tar_entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[_Entry]:
    path = _parse_entry_path(member.name)
    if member.isdir():
        if path is not None:
            yield _Entry(path, True, None, 0)
    elif member.isreg() and path is not None:
        yield _Entry(path, False, tar.extractfile(member), member.size)
    else:
        linked = member.issym() or member.islnk()
        raise _refuse_kind(
            member.name, "link" if linked else "device" if member.isdev() else "special file"
        )


def _read_zip(archive: Path, limits: UnpackLimits) -> Iterator[_Entry]:
    _check_zip_directory(archive, limits)
    with zipfile.ZipFile(archive) as zipped:
        members = zipped.infolist()
        total = sum(member.file_size for member in members)
        if total > limits.max_bytes:
            raise _RefusedError(f"it unpacks to {total / MIB:.0f} MiB, more than {limits.max_bytes / MIB:.0f}",
                           "Fetch the folder unpacked.")  # fmt: skip
        if total > limits.ratio_free_bytes + limits.max_ratio * archive.stat().st_size:
            raise _RefusedError(
                f"it unpacks to more than {limits.max_ratio} times its size, as an archive bomb does",
                "Fetch the folder unpacked.",
            )
        for member in members:
            path = _parse_entry_path(member.filename)
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refuse_kind(
                    member.filename, "link" if stat.S_ISLNK(mode) else "special file"
                )
            if member.is_dir():
                if path is not None:
                    yield _Entry(path, True, None, 0)
                continue
            if path is None:
                raise _refuse_kind(member.filename, "file without a name")
            if member.flag_bits & 0x1:
                raise _RefusedError(
                    f"its entry {member.filename[:200]!r} is encrypted",
                    "Pack it without a password.",
                )
            # zipfile stops at the announced size and checks the CRC at the end.
            with zipped.open(member) as content:
                yield _Entry(path, False, content, member.file_size)


def _check_zip_directory(archive: Path, limits: UnpackLimits) -> None:
    """Refuse a zip whose directory alone would fill the memory, before zipfile reads it whole."""
    size = archive.stat().st_size
    with archive.open("rb") as file:
        file.seek(max(0, size - 65557))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        raise zipfile.BadZipFile("the end of its directory is missing")
    count, directory_bytes = struct.unpack_from("<HL", tail, at + 10)
    locator = tail.rfind(b"PK\x06\x06", 0, at)
    if locator >= 0 and len(tail) - locator >= 56:
        count, directory_bytes = struct.unpack_from("<QQ", tail, locator + 32)
    if count > limits.max_files or directory_bytes > limits.max_files * 2048:
        raise _RefusedError(
            f"it has more than {limits.max_files} entries", "Put the files into fewer, larger ones."
        )
