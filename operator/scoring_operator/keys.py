"""API keys: made once, read back ever after, replaced only when somebody asks for it."""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass

from scoring_operator.api import Manifest

KEY_NAMES = ("primary", "secondary")
#: On the Secret: `primary`, `secondary` or `both`. The operator makes new keys and takes the annotation away.
ROTATE_ANNOTATION = "mlscoring.io/rotate"

# 256 bits, in letters that need no quoting in a shell or a header.
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """The wanted keys.

    Args:
        values: `primary` and `secondary`.
        rotated: names of the keys that an annotation asked to replace.
    """

    values: dict[str, str]
    rotated: tuple[str, ...] = ()


def choose_keys(secret: Manifest | None) -> Keys:
    """Keep the keys of the Secret, and make those that are missing or to be replaced.

    Args:
        secret: the stored Secret, if there is one.
    """
    stored = read_keys(secret)
    metadata = (secret or {}).get("metadata", {})
    asked = (metadata.get("annotations") or {}).get(ROTATE_ANNOTATION)
    rotated = KEY_NAMES if asked == "both" else tuple(n for n in KEY_NAMES if n == asked)
    values = {
        name: stored[name] if name in stored and name not in rotated else make_key()
        for name in KEY_NAMES
    }
    return Keys(values, rotated)


def read_keys(secret: Manifest | None) -> dict[str, str]:
    """The usable keys of a Secret; what is empty or no text counts as missing."""
    found = {}
    for name in KEY_NAMES:
        encoded = ((secret or {}).get("data") or {}).get(name) or ""
        try:
            value = base64.b64decode(encoded, validate=True).decode().strip()
        except (binascii.Error, UnicodeDecodeError):
            continue
        if value:
            found[name] = value
    return found


def make_key() -> str:
    """A new random key."""
    return secrets.token_urlsafe(_KEY_BYTES)
