"""Digests: SHA-256 of a file's bytes, and of a folder as `sha256sum` would list it. Pure but for reading files."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

CHUNK_BYTES = 1 << 20


def build_listing(digests: Mapping[str, str]) -> bytes:
    """Return what `find . -type f | LC_ALL=C sort | xargs sha256sum` prints for a folder.

    Args:
        digests: hexadecimal SHA-256 of each file, by its path relative to the folder (`a/b`, no leading `./`).
    """
    lines = []
    for path in sorted((f"./{path}" for path in digests), key=os.fsencode):
        # sha256sum marks a line with a backslash when it had to escape the name.
        escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        mark = "\\" if escaped != path else ""
        lines.append(os.fsencode(f"{mark}{digests[path[2:]]}  {escaped}\n"))
    return b"".join(lines)


def compute_folder_digest(digests: Mapping[str, str]) -> str:
    """Return the hexadecimal digest of a folder, from the digests of its files (see `build_listing`)."""
    return hashlib.sha256(build_listing(digests)).hexdigest()


def compute_file_digest(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read at fixed memory."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
