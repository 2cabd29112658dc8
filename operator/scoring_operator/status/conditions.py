"""Conditions as Kubernetes has them (metav1.Condition), and when their transition time changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scoring_operator.api import Manifest
from scoring_operator.status.reasons import Reason

# The CRD's limit; a message ends with its way out, so what is too long is cut in the middle.
_MAX_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition before it has a time.

    Args:
        type: such as `Ready`.
        status: `True`, `False` or `Unknown`.
        reason: one of the closed list.
        message: cause and way out.
    """

    type: str
    status: str
    reason: Reason
    message: str


def condition(type_: str, holds: bool | None, reason: Reason, message: str) -> Condition:
    """Make a condition; `holds=None` means unknown."""
    status = "Unknown" if holds is None else str(holds)
    return Condition(type_, status, reason, shorten(message))


def shorten(text: str, limit: int = _MAX_MESSAGE) -> str:
    """Cut a long text in the middle, where the least is lost."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def merge_conditions(
    old: Iterable[Manifest], new: Iterable[Condition], *, generation: int, now: str
) -> list[Manifest]:
    """Give the new conditions their times.

    Args:
        old: the stored conditions.
        new: the derived ones.
        generation: what they are about.
        now: RFC 3339 time for those whose status changed.

    Returns:
        Conditions in the order of `new`; equal to the stored ones where nothing changed.
    """
    before = {c.get("type"): c for c in old}
    merged = []
    for c in new:
        previous = before.get(c.type, {})
        same = previous.get("status") == c.status and previous.get("lastTransitionTime")
        merged.append(
            {
                "type": c.type,
                "status": c.status,
                "observedGeneration": generation,
                "lastTransitionTime": previous["lastTransitionTime"] if same else now,
                "reason": str(c.reason),
                "message": c.message,
            }
        )
    return merged
