"""Listings: how a plain web server says which files a model folder has. Pure.

A folder at `https://host/faq/` holds one of two listings beside its files, or the model URI names the listing itself:

`SHA256SUMS`, as `sha256sum` prints it, one file a line. Written this way it is also the text whose SHA-256 is the
folder's digest, so that `sha256sum SHA256SUMS` prints the value for `spec.sha256`:

    cd faq && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS

`manifest.json`, where digests and sizes may be left out:

    {"files": [{"path": "model.joblib", "sha256": "9f86…", "bytes": 1048576}, {"path": "score.py"}]}

The listing itself is not part of the model: it is not stored, and not part of the folder's digest.
"""

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from model_scorer.errors import LoadFailed
from model_scorer.fetch.paths import parse_relative_path

LISTING_NAMES = ("SHA256SUMS", "manifest.json")
MAX_LISTING_BYTES = 8 << 20

_HEX_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_SUMS_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_UNESCAPED = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a folder.

    Attributes:
        path: relative to the folder.
        sha256: hexadecimal, lower case; empty when the listing does not say.
        size_bytes: None when the listing does not say.
    """

    path: PurePosixPath
    sha256: str = ""
    size_bytes: int | None = None


def parse_listing(name: str, content: bytes, *, max_files: int) -> list[ListedFile]:
    """Read a listing.

    Args:
        name: its file name, one of `LISTING_NAMES`, which says its form.
        content: its bytes.
        max_files: most files that it may have.

    Returns:
        The files in the listing's order, without listings themselves.

    Raises:
        LoadFailed: not of the form, a path that leads elsewhere, a path twice, no or too many files.
    """
    try:
        text = content.decode()
        files = _parse_json(text) if name.endswith(".json") else _parse_sums(text)
        files = [file for file in files if str(file.path) not in LISTING_NAMES]
        if not files:
            raise ValueError("lists no files")
        if len(files) > max_files:
            raise ValueError(f"lists {len(files)} files, at most {max_files} are allowed")
        seen: set[PurePosixPath] = set()
        for file in files:
            if file.path in seen:
                raise ValueError(f"lists {str(file.path)!r} twice")
            seen.add(file.path)
    except ValueError as err:
        raise LoadFailed(
            f"The listing {name} {err}.",
            hint="Write it with: find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS",
        ) from err
    return files


def _parse_path(path: str) -> PurePosixPath:
    try:
        return parse_relative_path(path)
    except ValueError as err:
        raise ValueError(f"has a path {path[:200]!r} that {err}") from None


def _parse_sums(text: str) -> list[ListedFile]:
    files = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _SUMS_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"has no digest and path in line {number}: {line[:100]!r}")
        path = match[3]
        if match[1]:
            path = re.sub(r"\\[\\nr]", lambda escape: _UNESCAPED[escape[0]], path)
        files.append(ListedFile(_parse_path(path), match[2].lower()))
    return files


def _parse_json(text: str) -> list[ListedFile]:
    try:
        value: Any = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    entries = value.get("files") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise ValueError('is no JSON object with a list "files"')
    files = []
    for entry in entries:
        path = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(path, str):
            raise ValueError(f'has an entry without a "path": {str(entry)[:100]}')
        sha256, size = entry.get("sha256", ""), entry.get("bytes")
        if sha256 != "" and not (isinstance(sha256, str) and _HEX_DIGEST.fullmatch(sha256)):
            raise ValueError(f'has a "sha256" of {path[:200]!r} that is not 64 hexadecimal digits')
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
            raise ValueError(f'has a "bytes" of {path[:200]!r} that is no size')
        files.append(ListedFile(_parse_path(path), sha256.lower(), size))
    return files
