"""Timestamps as Kubernetes writes them, and durations as its tables show them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache


def now() -> str:
    """The time in whole seconds, as ``metadata.creationTimestamp`` has it."""
    return _format(int(time.time()))


@lru_cache(maxsize=16)
def _format(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def later(seconds: float) -> str:
    """The time `seconds` from now."""
    return _format(int(time.time() + seconds))


def parse_time(text: str) -> float | None:
    """Read a timestamp as seconds since the epoch; None where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def format_duration(seconds: float) -> str:
    """Format an age as ``kubectl get`` shows it (k8s.io/apimachinery/pkg/util/duration, HumanDuration)."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    if whole < 120:
        return f"{whole}s"
    minutes = whole // 60
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = whole // 3600
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if hours < 24 * 365 * 2:
        return f"{days}d"
    years = days // 365
    if hours < 24 * 365 * 8:
        return f"{years}y{days % 365}d" if days % 365 else f"{years}y"
    return f"{years}y"


def format_age(timestamp: str | None) -> str:
    """Format the time since a timestamp; ``<unknown>`` without one."""
    moment = parse_time(timestamp) if timestamp else None
    if moment is None:
        return "<unknown>"
    return format_duration(datetime.now(UTC).timestamp() - moment)
