"""The bytes of a pickle: what stands behind each opcode, read exactly as the unpickler reads it, at fixed memory.

Gives plain values for what may matter to a judgement (short strings, numbers) and the constants of `values.py` for the rest.
"""

import codecs
import re
from collections.abc import Callable
from typing import Protocol

from model_scorer.verify.values import BYTES, NUMBER, STRING, Opaque

# Longest string that is kept: longer ones are no module, dtype or version.
_KEPT_CHARACTERS = 256
_MAX_LINE_BYTES = 1 << 16
_DECIMAL = re.compile(rb"-?[0-9]{1,4000}")
_INDEX = re.compile(rb"[0-9]{1,9}")
_FLOAT_TEXT = re.compile(rb"[-+0-9.eEinfatyINFATY]{1,64}")


class MalformedError(Exception):
    """The bytes are not what a pickler writes."""


class TruncatedError(MalformedError):
    """The bytes end in the middle of a pickle."""


class ByteStream(Protocol):
    """A binary file: `read(n)` returns n bytes unless the end is near, `readline(n)` one line."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102
    def readline(self, size: int, /) -> bytes: ...  # noqa: D102
    def tell(self) -> int: ...  # noqa: D102


def decode_utf8(data: bytes) -> str:
    """Decode a string of protocol 2 and later."""
    return data.decode("utf-8", "surrogatepass")


def decode_ascii(data: bytes) -> str:
    """Decode a string of Python 2."""
    return data.decode("ascii")


def _decode_raw_unicode(data: bytes) -> str:
    return data.decode("raw-unicode-escape")


def _decode_escaped(data: bytes) -> str:
    return codecs.escape_decode(data)[0].decode("ascii")


class PickleReader:
    """Reads what opcodes carry with them. Frames are followed because joblib's arrays lie behind them.

    Args:
        stream: stands at the first byte of a pickle.
    """

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._read = stream.read
        self._frame_end = 0

    @property
    def position(self) -> int:
        """Bytes from the beginning of the stream."""
        return self.stream.tell()

    def take(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        data = self._read(size)
        if len(data) != size:
            raise TruncatedError(f"ends after byte {self.position}, in the middle of a value")
        return data

    def skip(self, size: int) -> None:
        """Pass over `size` bytes at fixed memory."""
        while size > 0:
            size -= len(self.take(min(size, 1 << 20)))

    def open_frame(self) -> None:
        """Begin a frame, whose length is read."""
        if not self.at_frame_end():
            raise MalformedError(f"opens a frame inside a frame at byte {self.position}")
        size = int.from_bytes(self.take(8), "little")
        self._frame_end = self.position + size

    def at_frame_end(self) -> bool:
        """Whether no frame is open: the unpickler reads on directly behind the last opcode."""
        return self.position >= self._frame_end

    # Strings.

    def take_text(self, size: int, decode: Callable[[bytes], str] = decode_utf8) -> str | Opaque:
        """Read a string of `size` bytes; one that is long is passed over."""
        if size > _KEPT_CHARACTERS * 4:
            self.skip(size)
            return STRING
        return self._decode(self.take(size), decode)

    def take_short_text(self) -> str | Opaque:
        """Read a string behind its length in one byte: the commonest opcode of large dicts, written out."""
        size = self._read(1)
        data = self._read(size[0]) if size else b""
        if not size or len(data) != size[0]:
            raise TruncatedError(f"ends after byte {self.position}, in the middle of a string")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return self._decode(data, decode_utf8)

    def take_bytes(self, size: int, value: Opaque = BYTES) -> Opaque:
        """Pass over `size` bytes and return what stands for them."""
        self.skip(size)
        return value

    def take_quoted_text(self) -> str | Opaque:
        """Read a line with a string in quotes, of protocol 0."""
        line = self._take_line()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise MalformedError(f"has a string without quotes at byte {self.position}")
        return self._decode(line[1:-1], _decode_escaped)

    def take_text_line(self) -> str | Opaque:
        """Read a line of text: protocol 0 writes whole texts, and the bytes of arrays, as one line."""
        line = self.stream.readline(_MAX_LINE_BYTES)
        if line.endswith(b"\n"):
            return self._decode(line[:-1], _decode_raw_unicode)
        while not line.endswith(b"\n"):
            if not line:
                raise TruncatedError("ends in the middle of a line")
            line = self.stream.readline(_MAX_LINE_BYTES)
        return STRING

    def take_name(self) -> str:
        """Read a line with the name of a module or of what is in it."""
        try:
            return self._take_line().decode()
        except UnicodeDecodeError:
            raise MalformedError(f"has a name that is not UTF-8 at byte {self.position}") from None

    def take_identifier(self) -> bytes:
        """Read the line of a persistent id."""
        return self._take_line()

    def _decode(self, data: bytes, decode: Callable[[bytes], str]) -> str | Opaque:
        if len(data) > _KEPT_CHARACTERS * 4:
            return STRING
        try:
            text = decode(data)
        except (UnicodeDecodeError, ValueError):
            raise MalformedError(
                f"has a string that cannot be decoded at byte {self.position}"
            ) from None
        return text if len(text) <= _KEPT_CHARACTERS else STRING

    def _take_line(self) -> bytes:
        line = self.stream.readline(_MAX_LINE_BYTES + 1)
        if not line.endswith(b"\n"):
            if len(line) > _MAX_LINE_BYTES:
                raise MalformedError("has a line longer than 64 KiB")
            raise TruncatedError("ends in the middle of a line")
        return line[:-1]

    # Numbers.

    def take_int_line(self) -> int | Opaque:
        """Read a line with a number, or a truth value of protocol 0."""
        line = self._take_line()
        return line == b"01" if line in (b"00", b"01") else self._parse_decimal(line)

    def take_long_line(self) -> int | Opaque:
        """Read a line with a number and an L."""
        return self._parse_decimal(self._take_line().removesuffix(b"L"))

    def take_long(self, size: int) -> int | Opaque:
        """Read a number of `size` bytes."""
        if size < 0:
            raise MalformedError("has a number of negative length")
        if size > 16:
            return self.take_bytes(size, NUMBER)
        return int.from_bytes(self.take(size), "little", signed=True)

    def skip_float_line(self) -> None:
        """Pass over a line with a floating-point number."""
        if not _FLOAT_TEXT.fullmatch(self._take_line()):
            raise MalformedError(f"has a number that is none at byte {self.position}")

    def take_index(self) -> int:
        """Read a line with an index of the memo."""
        line = self._take_line()
        if not _INDEX.fullmatch(line):
            raise MalformedError(f"has a memo index {line[:40]!r} at byte {self.position}")
        return int(line)

    def _parse_decimal(self, line: bytes) -> int | Opaque:
        if not _DECIMAL.fullmatch(line):
            raise MalformedError(f"has a number {line[:40]!r} at byte {self.position}")
        return int(line) if len(line) < 20 else NUMBER
