"""The last words: one line of JSON in the container's termination log, which the operator reads from pod status."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from model_scorer.errors import DigestMismatch, ScorerError

log = logging.getLogger(__name__)

# The kubelet keeps at most 4096 bytes of a termination message:
# https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
MAX_MESSAGE_BYTES = 4096
_MAX_TEXT_CHARS = 1200


def write_failure(path: str | Path, error: ScorerError) -> None:
    """Write `{"reason", "message", "hint"}` of an error as the last words; of other bytes their `digest` too."""
    record: dict[str, str | int] = {
        "reason": error.reason,
        "message": _clip(error.message),
        "hint": _clip(error.hint),
    }
    if isinstance(error, DigestMismatch) and error.found:
        record["digest"] = f"sha256:{error.found}"
    write_line(path, record)


def write_fetched(path: str | Path, *, message: str, digest: str, size_bytes: int) -> None:
    """Write the success of a fetch.

    Args:
        path: the termination log.
        message: one sentence, for people.
        digest: `sha256:` and 64 hexadecimal digits.
        size_bytes: bytes fetched.
    """
    write_line(
        path,
        {"reason": "Fetched", "message": _clip(message), "digest": digest, "bytes": size_bytes},
    )


def write_line(path: str | Path, record: dict[str, str | int]) -> None:
    """Write one JSON object as the whole termination log.

    A log that cannot be written (no such folder outside a pod) is logged at debug level, never raised: it must not
    hide the error that it would have told.
    """
    line = json.dumps(record)  # ASCII, so that characters are bytes
    if len(line) > MAX_MESSAGE_BYTES:
        keep = {k: _clip(v, 300) if isinstance(v, str) else v for k, v in record.items()}
        line = json.dumps(keep)
    try:
        Path(path).write_text(line + "\n", encoding="utf-8")
    except OSError as err:
        log.debug("termination log %s is not writable: %s", path, err)


def _clip(text: str, limit: int = _MAX_TEXT_CHARS) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
