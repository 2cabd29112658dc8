"""The functions that Kubernetes adds to CEL, by the names under which rules call them.

A method's first argument is its receiver. Quantities, URLs, addresses and versions are maps with one marked key, because the library
carries JSON-like values only.
"""

from __future__ import annotations

import base64
import ipaddress
import itertools
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local_cluster.quantities import parse_quantity
from local_cluster.schema.formats import FORMATS
from local_cluster.schema.patterns import compile_pattern

_QUANTITY, _URL, _IP, _CIDR, _SEMVER = "@quantity", "@url", "@ip", "@cidr", "@semver"
_MARKS = (_QUANTITY, _URL, _IP, _CIDR, _SEMVER)


def _find(text: str, pattern: str) -> str:
    match = compile_pattern(pattern).search(text)
    return match[0] if match else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match[0] for match in compile_pattern(pattern).finditer(text)]
    return found if limit < 0 else found[:limit]


def _is(parse: Callable[[Any], Any]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        try:
            parse(value)
        except (ValueError, TypeError):
            return False
        return True

    return check


# --- quantities -----------------------------------------------------------------------------------------------------


def _quantity(text: str) -> dict[str, str]:
    return {_QUANTITY: str(parse_quantity(text))}


def _number(value: Any) -> Decimal:
    if isinstance(value, dict):
        return Decimal(value[_QUANTITY])
    return Decimal(value)


def _rank(value: Any) -> Any:
    """Return what compares: quantities by number, versions by their parts."""
    if _SEMVER in value:
        return _semver_key(value[_SEMVER])
    return Decimal(value[_QUANTITY])


def _compare(left: Any, right: Any) -> int:
    mine, theirs = _rank(left), _rank(right)
    return int(mine > theirs) - int(mine < theirs)


def _sign(value: Any) -> int:
    number = _number(value)
    return int(number > 0) - int(number < 0)


def _is_integer(value: Any) -> bool:
    return _number(value) == _number(value).to_integral_value()


# --- versions -------------------------------------------------------------------------------------------------------

_SEMVER_SYNTAX = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


def _semver(text: str) -> dict[str, str]:
    if _SEMVER_SYNTAX.fullmatch(text) is None:
        raise ValueError(f"not a semantic version: {text}")
    return {_SEMVER: text}


def _semver_key(text: str) -> tuple[Any, ...]:
    match = _SEMVER_SYNTAX.fullmatch(text)
    assert match is not None
    rest = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in (match[4] or "").split(".")
    )
    return (*(int(match[n]) for n in (1, 2, 3)), match[4] is None, rest)


# --- URLs and addresses ---------------------------------------------------------------------------------------------


def _url(text: str) -> dict[str, str]:
    parts = urlsplit(text)
    if not parts.scheme and not text.startswith("/"):
        raise ValueError(f"URL parse error during conversion from string: {text}")
    _ = parts.port  # a port that is no number raises ValueError
    return {_URL: text}


def _host(value: dict[str, str]) -> str:
    return urlsplit(value[_URL]).netloc.rpartition("@")[2]


def _ip(text: str) -> dict[str, str]:
    return {_IP: str(ipaddress.ip_address(text))}


def _cidr(text: str) -> dict[str, str]:
    if "/" not in text:
        raise ValueError(f"network address parse error: {text}")
    return {_CIDR: str(ipaddress.ip_interface(text))}


def _address(value: Any) -> Any:
    return ipaddress.ip_address(value[_IP] if isinstance(value, dict) else value)


def _interface(value: Any) -> Any:
    return ipaddress.ip_interface(value[_CIDR] if isinstance(value, dict) else value)


def _contains_ip(network: Any, address: Any) -> bool:
    return _address(address) in _interface(network).network


def _contains_cidr(network: Any, other: Any) -> bool:
    outer, inner = _interface(network).network, _interface(other).network
    return bool(outer.version == inner.version and inner.subnet_of(outer))


# --- lists and sets -------------------------------------------------------------------------------------------------


def _index_of(value: Any, item: Any, start: int = 0) -> int:
    if isinstance(value, str):
        return value.find(item, start)
    return next((n for n, other in enumerate(value) if other == item), -1)


def _last_index_of(value: Any, item: Any, start: int | None = None) -> int:
    if isinstance(value, str):
        return value.rfind(item) if start is None else value.rfind(item, 0, start + len(item))
    return max((n for n, other in enumerate(value) if other == item), default=-1)


def _contains_all(left: list[Any], right: list[Any]) -> bool:
    return all(item in left for item in right)


def _flatten(items: list[Any]) -> list[Any]:
    out: list[Any] = []
    for item in items:
        out.extend(item if isinstance(item, list) else [item])
    return out


# --- strings --------------------------------------------------------------------------------------------------------


def _ascii(text: str, *, upper: bool) -> str:
    return "".join(c.upper() if upper else c.lower() if c.isascii() else c for c in text)


def _replace(text: str, old: str, new: str, limit: int = -1) -> str:
    return text.replace(old, new, limit)


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if not separator:
        return list(text) if limit < 0 else [*text[: limit - 1], text[limit - 1 :]]
    return text.split(separator, -1 if limit < 0 else limit - 1)


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError(f"index out of range: {start}")
    return text[start:stop]


def _format(template: str, values: list[Any]) -> str:
    rest = iter(values)

    def one(match: re.Match[str]) -> str:
        verb = match[2]
        if verb == "%":
            return "%"
        value = next(rest)
        if verb == "s":
            return str(value).lower() if isinstance(value, bool) else str(value)
        if verb in "fe":
            return f"%{match[1] or '.6'}{verb}" % float(value)
        if verb == "b":
            return f"{int(value):b}"
        if isinstance(value, str):
            return value.encode().hex() if verb == "x" else value.encode().hex().upper()
        return f"{int(value):{verb}}"

    return re.sub(r"%(\.\d+)?([sdfexXob%])", one, template)


# --- optional values and formats ------------------------------------------------------------------------------------


def _opt_select(value: Any, name: str) -> Any:
    import cel

    if isinstance(value, cel.OptionalValue):
        if not value.has_value():
            return value
        value = value.value()
    return cel.OptionalValue.of(value[name]) if name in value else cel.OptionalValue.none()


def _named_format(name: str) -> Any:
    import cel

    return cel.OptionalValue.of({"@format": name}) if name in FORMATS else cel.OptionalValue.none()


def _validate_format(kind: dict[str, str], value: str) -> Any:
    import cel

    if FORMATS[kind["@format"]](value):
        return cel.OptionalValue.none()
    return cel.OptionalValue.of([f"must be a valid {kind['@format']}"])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "k8s_size": len,
    "k8s_matches": lambda text, pattern: compile_pattern(pattern).search(text) is not None,
    "find": _find,
    "findAll": _find_all,
    "charAt": lambda text, n: text[n : n + 1],
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "lowerAscii": lambda text: _ascii(text, upper=False),
    "upperAscii": lambda text: _ascii(text, upper=True),
    "replace": _replace,
    "split": _split,
    "join": lambda items, separator="": separator.join(items),
    "substring": _substring,
    "trim": lambda text: text.strip(),
    "reverse": lambda value: value[::-1],
    "format": _format,
    "isSorted": lambda items: all(a <= b for a, b in itertools.pairwise(items)),
    "sum": lambda items: sum(items),
    "flatten": _flatten,
    "distinct": lambda items: [item for n, item in enumerate(items) if item not in items[:n]],
    "slice": lambda items, start, end: items[start:end],
    "sort": lambda items: sorted(items),
    "lists_range": lambda n: list(range(n)),
    "sets_contains": _contains_all,
    "sets_equivalent": lambda a, b: _contains_all(a, b) and _contains_all(b, a),
    "sets_intersects": lambda a, b: any(item in b for item in a),
    "math_greatest": lambda *values: max(values[0] if isinstance(values[0], list) else values),
    "math_least": lambda *values: min(values[0] if isinstance(values[0], list) else values),
    "math_abs": abs,
    "quantity": _quantity,
    "isQuantity": _is(parse_quantity),
    "isInteger": _is_integer,
    "asInteger": lambda value: int(_number(value)),
    "asApproximateFloat": lambda value: float(_number(value)),
    "sign": _sign,
    "add": lambda a, b: {_QUANTITY: str(_number(a) + _number(b))},
    "sub": lambda a, b: {_QUANTITY: str(_number(a) - _number(b))},
    "isGreaterThan": lambda a, b: _compare(a, b) > 0,
    "isLessThan": lambda a, b: _compare(a, b) < 0,
    "compareTo": _compare,
    "semver": _semver,
    "isSemver": _is(_semver),
    "major": lambda value: _semver_key(value[_SEMVER])[0],
    "minor": lambda value: _semver_key(value[_SEMVER])[1],
    "patch": lambda value: _semver_key(value[_SEMVER])[2],
    "url": _url,
    "isURL": _is(_url),
    "getScheme": lambda value: urlsplit(value[_URL]).scheme,
    "getHost": _host,
    "getHostname": lambda value: urlsplit(value[_URL]).hostname or "",
    "getPort": lambda value: str(urlsplit(value[_URL]).port or ""),
    "getEscapedPath": lambda value: urlsplit(value[_URL]).path,
    "getQuery": lambda value: parse_qs(urlsplit(value[_URL]).query, keep_blank_values=True),
    "ip": lambda value: {_IP: str(_interface(value).ip)} if isinstance(value, dict) else _ip(value),
    "isIP": _is(ipaddress.ip_address),
    "ip_isCanonical": lambda text: str(ipaddress.ip_address(text)) == text,
    "family": lambda value: _address(value).version,
    "isUnspecified": lambda value: _address(value).is_unspecified,
    "isLoopback": lambda value: _address(value).is_loopback,
    "isLinkLocalMulticast": lambda value: _address(value).is_multicast and _address(value).is_link_local,
    "isLinkLocalUnicast": lambda value: _address(value).is_link_local,
    "isGlobalUnicast": lambda value: not (
        _address(value).is_unspecified or _address(value).is_loopback or _address(value).is_multicast
        or _address(value).is_link_local
    ),
    "cidr": _cidr,
    "isCIDR": _is(_cidr),
    "containsIP": _contains_ip,
    "containsCIDR": _contains_cidr,
    "prefixLength": lambda value: _interface(value).network.prefixlen,
    "masked": lambda value: {_CIDR: str(_interface(value).network)},
    "format_named": _named_format,
    "validate": _validate_format,
    "optSelect": _opt_select,
    "base64_encode": lambda value: base64.b64encode(value).decode(),
}  # fmt: skip
FUNCTIONS.update(
    {
        f"format_{name}": (lambda name=name: {"@format": name})
        for name in ("dns1123Label", "dns1123Subdomain", "uuid", "byte", "date", "datetime", "uri")
    }
)
