"""Files that hold pickles: plain, compressed as joblib does, or in torch's zip; each pickle in them is followed."""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from model_scorer.errors import LoadFailed, MissingDependency, UnsafePickle
from model_scorer.verify.gate import AllowListGate
from model_scorer.verify.joblib_arrays import JoblibArrays
from model_scorer.verify.machine import PickleMachine
from model_scorer.verify.reader import MalformedError, TruncatedError

_BUFFER_BYTES = 1 << 18
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# In joblib's order (joblib/compressor.py): the first whose prefix fits is what joblib takes a file for.
_PREFIXES = (
    (b"ZF", "old joblib"),
    (b"\x78", "zlib"),
    (b"\x1f\x8b", "gzip"),
    (b"BZ", "bz2"),
    (b"\x5d\x00", "lzma"),
    (b"\xfd\x37\x7a\x58\x5a", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
_DECOMPRESSION_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, RuntimeError, ValueError)


def check_pickle(path: Path, *, trust: bool) -> None:
    """Make sure that loading a file with joblib runs nothing but what models need, without loading it.

    Args:
        path: a pickle or joblib file, or a zip file of torch.
        trust: whoever deployed the model vouches for it: nothing is checked.

    Raises:
        UnsafePickle: an import or call that is not on the allow-list, or bytes that cannot be followed.
        LoadFailed: no pickle at all, or one that ends early.
        MissingDependency: compressed in a way that this image cannot read.
    """
    if not trust:
        scan_pickles(path, AllowListGate(path))


def scan_pickles(path: Path, gate: AllowListGate) -> None:
    """Show every import and call in a file to a judge; see `check_pickle`."""
    with io.BufferedReader(io.FileIO(path), _BUFFER_BYTES) as file:
        head = file.peek(8)[:8]
        if head.startswith(_ZIP):
            _scan_zip(file, path)
            return
        stream: io.BufferedReader[Any] = open_pickle_stream(file, head, path)
        try:
            _scan_stream(stream, gate, path)
        except _DECOMPRESSION_ERRORS as err:
            if stream is file:
                raise
            raise _broken(path, f"is compressed, and cannot be decompressed: {err}") from err


def open_pickle_stream(
    file: io.BufferedReader[Any], head: bytes, path: Path
) -> io.BufferedReader[Any]:
    """Return the pickle's bytes, decompressed as joblib does it.

    Raises:
        UnsafePickle: the format of joblib before 0.10, whose arrays are files of their own.
        MissingDependency: lz4 is not installed.
    """
    kind = next((kind for prefix, kind in _PREFIXES if head.startswith(prefix)), "")
    if not kind:
        return file
    if kind == "old joblib":
        raise UnsafePickle(
            f"{path.name} was written by joblib before 0.10, whose files load further files; it was not loaded.",
            hint="Load it where it was made, and save it again with a current joblib.",
        )
    opened: object
    if kind == "bz2":
        opened = bz2.BZ2File(file, "rb")
    elif kind in ("lzma", "xz"):
        opened = lzma.LZMAFile(file, "rb")  # noqa: SIM115 (the caller's file)
    elif kind == "lz4":
        try:
            lz4_frame = importlib.import_module("lz4.frame")
        except ImportError as err:
            raise MissingDependency(
                f"{path.name} is compressed with lz4, and the module lz4 is not installed.",
                hint="Save the model with another compression, or use an image with lz4 (spec.image).",
            ) from err
        opened = lz4_frame.LZ4FrameFile(file, "rb")
    else:
        opened = _DeflatedStream(file, zlib.MAX_WBITS + 16 if kind == "gzip" else zlib.MAX_WBITS)
    return io.BufferedReader(cast(io.RawIOBase, opened), _BUFFER_BYTES)


class _DeflatedStream(io.RawIOBase):
    """The one zlib or gzip stream of a file, as joblib reads it.

    joblib's own class does not come back from bytes behind the stream (it decompresses nothing forever); here they are
    an error, as is a stream that ends early.
    """

    def __init__(self, file: io.BufferedReader[Any], window_bits: int) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(window_bits)
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Decompressed bytes read so far."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with decompressed bytes; 0 at the end of the stream."""
        view = memoryview(buffer).cast("B")
        data = b""
        while not data:
            if self._inflate.eof:
                if self._inflate.unused_data or self._file.peek(1):
                    raise EOFError("bytes behind the compressed stream")
                return 0
            block = self._inflate.unconsumed_tail or self._file.read1(_BUFFER_BYTES)
            if not block:
                raise EOFError("the compressed stream ends early")
            data = self._inflate.decompress(block, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def _scan_stream(stream: io.BufferedReader[Any], gate: AllowListGate, path: Path) -> None:
    """Follow the pickles in a stream, one behind the other, to its end.

    The loader reads the first one only. Whatever stands behind it is looked at as well: code of the model may load
    it, and bytes behind the end are where files pretend to be two things at once.
    """
    position = 0
    while position == 0 or stream.peek(1):
        machine = PickleMachine(stream, gate, JoblibArrays(gate, path))
        follow(machine, gate, path, behind=position)
        position = machine.position


def follow(machine: PickleMachine, gate: AllowListGate, path: Path, *, behind: int = 0) -> None:
    """Run a machine, and turn what it cannot follow into an error of the scorer.

    Raises:
        LoadFailed: the file is no pickle, or was cut off.
        UnsafePickle: it imports something, and cannot be followed to its end.
    """
    try:
        machine.run()
    except TruncatedError as err:
        if behind:
            gate.refuse(f"has bytes behind its pickle that cannot be followed: it {err}")
        raise _broken(path, str(err)) from err
    except MalformedError as err:
        if behind:
            gate.refuse(f"has bytes behind its pickle that are no pickle: it {err}")
        if gate.imports_seen:
            gate.refuse(f"cannot be followed: it {err}")
        raise _broken(path, f"is no pickle: it {err}") from err
    except RecursionError:
        gate.refuse("is nested too deeply to be followed")


def _broken(path: Path, what: str) -> LoadFailed:
    return LoadFailed(
        f"{path.name} {what}.",
        hint="Check that the right file was uploaded, and to its end; set spec.sha256 so that a broken upload is seen.",
    )


def _scan_zip(file: io.BufferedReader[Any], path: Path) -> None:
    """Follow the pickles of a torch file. Whatever about the zip is unusual is refused: readers of zips differ."""
    gate = AllowListGate(path, torch=True)
    try:
        with zipfile.ZipFile(cast("IO[bytes]", file)) as zipped:
            members = zipped.infolist()
            names = [member.filename for member in members]
            if len(set(names)) != len(names):
                gate.refuse("is a zip file with two entries of the same name")
            for member in members:
                if member.flag_bits & 0x1 or member.compress_type not in (
                    zipfile.ZIP_STORED,
                    zipfile.ZIP_DEFLATED,
                ):
                    gate.refuse(
                        f"is a zip file whose entry {member.filename[:100]!r} is encrypted or oddly compressed"
                    )
                with zipped.open(member) as content:
                    _scan_zip_entry(member.filename, cast(BinaryIO, content), gate, path)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        OSError,
        ValueError,
    ) as err:
        raise UnsafePickle(
            f"{path.name} is a zip file that cannot be read to its end ({err}); it was not loaded.",
            hint="Save and upload it again.",
        ) from err


def _scan_zip_entry(name: str, content: BinaryIO, gate: AllowListGate, path: Path) -> None:
    stream = io.BufferedReader(cast(io.RawIOBase, content), _BUFFER_BYTES)
    head = stream.peek(2)[:2]
    pickled = name.lower().endswith((".pkl", ".pickle", ".p"))
    # Storages are raw numbers and may look like anything; torch reads them as numbers only.
    storage = "/data/" in name or name.startswith("data/")
    if pickled or (head[:1] == b"\x80" and not storage):
        follow(PickleMachine(stream, gate), gate, path)
    while stream.read(_BUFFER_BYTES):
        pass  # to the end, where zipfile compares the checksum
