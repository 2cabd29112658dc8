"""Kubernetes quantities and percentages as numbers."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from functools import lru_cache

_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}


@lru_cache(maxsize=4096)
def parse_quantity(text: str | int | float) -> Decimal:
    """Turn ``500m``, ``1Gi`` or ``1e3`` into a number.

    Raises:
        ValueError: the text is no quantity.
    """
    value = str(text).strip()
    try:
        return Decimal(value)
    except InvalidOperation:
        number = value.rstrip("numkKMGTPEi")
        suffix = value[len(number) :]
        try:
            return Decimal(number) * _SUFFIXES[suffix]
        except (InvalidOperation, KeyError):
            raise ValueError(f"{text!r} is no quantity") from None


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
