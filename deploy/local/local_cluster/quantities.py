"""Kubernetes quantities: `100m`, `1.5`, `2Gi`, `1e3`.

The syntax: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from decimal import ROUND_UP, Decimal
from functools import lru_cache

_SYNTAX = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]+)?"
)
_BINARY: dict[str, int] = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX = {power: suffix for suffix, power in _DECIMAL.items()}
# The text that a real server answers a malformed quantity with.
SYNTAX_MESSAGE = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)


@lru_cache(maxsize=4096)
def parse_quantity(text: str | int | float) -> Decimal:
    """Return the number that a quantity stands for.

    Args:
        text: a quantity; bare JSON numbers are allowed, as in a real server.

    Returns:
        The exact value in base units, e.g. `Decimal("0.1")` for `100m`.

    Raises:
        ValueError: `text` is no quantity.
    """
    match = _SYNTAX.fullmatch(str(text))
    if match is None:
        raise ValueError(SYNTAX_MESSAGE)
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        return number * Decimal(1024 ** _BINARY[suffix])
    if suffix in _DECIMAL:
        return number.scaleb(_DECIMAL[suffix])
    return number.scaleb(int(suffix[1:]))


@lru_cache(maxsize=4096)
def format_quantity(text: str | int | float) -> str:
    """Return the canonical form of a quantity (`1000m` → `1`, `0.5` → `500m`, `1024Mi` → `1Gi`).

    Raises:
        ValueError: `text` is no quantity.
    """
    match = _SYNTAX.fullmatch(str(text))
    if match is None:
        raise ValueError(SYNTAX_MESSAGE)
    suffix = match[2] or ""
    value = parse_quantity(text)
    if value == 0:
        return "0"
    sign, size = ("-" if value < 0 else ""), abs(value)
    if suffix in _BINARY and size >= 1024 and size == size.to_integral_value():
        whole, power = int(size), 0
        while whole % 1024 == 0 and power < 6:
            whole, power = whole // 1024, power + 1
        unit = next((name for name, n in _BINARY.items() if n == power), "")
        return f"{sign}{whole}{unit}"
    if suffix in _BINARY:
        suffix = ""
    # Finer than nano is rounded away from zero.
    nano = int(size.scaleb(9).to_integral_value(rounding=ROUND_UP))
    power = -9
    while nano % 1000 == 0 and power < 18:
        nano, power = nano // 1000, power + 3
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return f"{sign}{nano}e{power}" if power else f"{sign}{nano}"
    return f"{sign}{nano}{_SUFFIX[power]}"
