"""Quantities and percentages as the whole numbers that controllers count in."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING

from local_cluster.quantities import parse_quantity


def parse_milli(text: str | int | float) -> int:
    """A quantity in thousandths, rounded up as Quantity.MilliValue does."""
    return int((parse_quantity(text) * 1000).to_integral_value(ROUND_CEILING))


def format_milli(milli: int) -> str:
    """Thousandths as a canonical quantity: ``1500`` gives ``1500m``, ``2000`` gives ``2``."""
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def scaled_value(value: int | str, total: int, *, round_up: bool) -> int:
    """A number as it is, a percentage as that share of the total.

    The same rounding as GetScaledValueFromIntOrPercent of apimachinery.
    """
    if isinstance(value, int):
        return value
    text = value.strip()
    if text.endswith("%"):
        # Integers only: 0.29 * 100 must not become 29.000000000000004.
        product = int(text[:-1]) * total
        return -(-product // 100) if round_up else product // 100
    return int(text)


def round_half_away(value: float) -> int:
    """Round as Go's math.Round does: halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))
