"""Relative paths that come from elsewhere (archives, listings, object names), checked before they touch the disk."""

import unicodedata
from pathlib import PurePosixPath

from model_scorer.fetch.staging import INCOMING, RECORD

MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255


def parse_relative_path(name: str) -> PurePosixPath:
    """Return a path that stays inside the folder it is joined to.

    Args:
        name: as the archive or listing has it, `/` between segments; a leading `./` is dropped.

    Raises:
        ValueError: absolute, `..`, backslashes, drive letters, control characters, too long, or a name of our own.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid UTF-8") from None
    if len(encoded) > MAX_PATH_BYTES:
        raise ValueError(f"is longer than {MAX_PATH_BYTES} bytes")
    if name.startswith("/") or "\\" in name or name[1:2] == ":":
        raise ValueError("is absolute or has a backslash or a drive letter")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise ValueError("has a control character")
    path = PurePosixPath(name)
    if not path.parts:
        raise ValueError("is empty")
    if ".." in path.parts:
        raise ValueError("leads out of the folder")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in path.parts):
        raise ValueError(f"has a name longer than {MAX_NAME_BYTES} bytes")
    if path.parts[0] in (INCOMING, RECORD):
        raise ValueError("has a name that the fetcher keeps for itself")
    return path
