"""Termination messages: the one JSON line that the fetcher and the scorer leave behind."""

from __future__ import annotations

import json
from dataclasses import dataclass

from scoring_operator.status.reasons import TERMINATION_REASONS, Reason


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a pod is not ready.

    Args:
        reason: one of the closed list.
        message: what happened.
        hint: the way out.
        failed: False while the pod is on its way (downloading, loading).
    """

    reason: Reason
    message: str
    hint: str = ""
    failed: bool = True

    def text(self) -> str:
        """Cause and way out in one line, each a sentence."""
        hint = self.hint.strip()
        parts = (self.message, hint[:1].upper() + hint[1:])
        return " ".join(_sentence(part) for part in parts if part.strip())


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text[-1] in ".!?" else f"{text}."


def parse_termination(message: str) -> dict[str, object] | None:
    """Read a termination message.

    Args:
        message: what the kubelet reports; log lines may come before the JSON object.

    Returns:
        The last line that is a JSON object with a reason, or None.
    """
    for line in reversed(message.strip().splitlines()):
        text = line.strip()
        if not text.startswith("{"):
            continue
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("reason"), str):
            return value
    return None


def finding_from_termination(message: str) -> Finding | None:
    """The finding that a termination message states, if it is one of ours."""
    value = parse_termination(message)
    if value is None:
        return None
    reason = next((r for r in TERMINATION_REASONS if r == value["reason"]), None)
    if reason is None:
        return None
    return Finding(reason, str(value.get("message") or ""), str(value.get("hint") or ""))


def digest_from_termination(message: str) -> str | None:
    """The model's digest, from the fetcher's last words when it succeeded."""
    value = parse_termination(message)
    if value is None or value["reason"] != "Fetched":
        return None
    digest = value.get("digest")
    return digest if isinstance(digest, str) else None
