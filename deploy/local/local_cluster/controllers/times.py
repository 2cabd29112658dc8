"""Times as the API writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


def format_time(at: datetime) -> str:
    """A metav1.Time: whole seconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> datetime | None:
    """A metav1.Time or MicroTime, or None where there is none."""
    if not text:
        return None
    return datetime.fromisoformat(text)


def seconds_since(text: str | None, at: datetime) -> float:
    """Seconds from a time in an object to a moment; infinite where there is none."""
    then = parse_time(text)
    return float("inf") if then is None else (at - then).total_seconds()
