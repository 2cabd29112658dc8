"""Kubernetes quantities to numbers and back. Pure."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    **{
        unit: Decimal(1024 ** (n + 1))
        for n, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))
    },
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([a-zA-Z]*))")


def parse_quantity(text: str | float) -> Decimal:
    """Read a quantity such as ``500m``, ``1.5Gi`` or ``2e3``.

    Raises:
        ValueError: the text is no quantity.
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None or (match[3] or "") not in _SUFFIXES:
        raise ValueError(f"{text!r} is no Kubernetes quantity, expected for example 500m or 2Gi")
    number = Decimal(match[1])
    return number * (Decimal(10) ** int(match[2]) if match[2] else _SUFFIXES[match[3] or ""])


def divide_up(value: Decimal, divisor: Decimal) -> int:
    """Divide and round up, as resource fields are exposed to containers."""
    return int((value / divisor).to_integral_value(ROUND_CEILING))
