"""The syntax of names, labels, ports and the like, with a real server's sentences about what is wrong.

The rules: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/. Every function returns the complaints, none for a
sound value.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = _LABEL + r"(\." + _LABEL + ")*"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_CONFIG_KEY = r"[-._a-zA-Z0-9]+"
_WILDCARD = r"\*\." + _SUBDOMAIN
_PERCENT = r"[0-9]+%"

_LABEL_RE = re.compile(_LABEL)
_SUBDOMAIN_RE = re.compile(_SUBDOMAIN)
_LABEL_1035_RE = re.compile(_LABEL_1035)
_QUALIFIED_RE = re.compile(_QUALIFIED)
_LABEL_VALUE_RE = re.compile(_LABEL_VALUE)
_CONFIG_KEY_RE = re.compile(_CONFIG_KEY)
_WILDCARD_RE = re.compile(_WILDCARD)

POSITIVE = "must be greater than 0"
NOT_NEGATIVE = "must be greater than or equal to 0"
PORT_RANGE = "must be between 1 and 65535, inclusive"
IMMUTABLE = "field is immutable"


def _explain(message: str, pattern: str, *examples: str) -> str:
    shown = "".join(
        f"'{example}', " if not n else f" or '{example}', " for n, example in enumerate(examples)
    )
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"


def max_length(limit: int) -> str:
    """Return the sentence for a text over its limit."""
    return f"must be no more than {limit} bytes"


@lru_cache(maxsize=8192)
def dns_label(value: str) -> tuple[str, ...]:
    """Check an RFC 1123 label, e.g. the name of a container or a namespace."""
    errors = () if len(value) <= 63 else (max_length(63),)
    if _LABEL_RE.fullmatch(value) is None:
        if _SUBDOMAIN_RE.fullmatch(value):
            return (*errors, "must not contain dots")
        text = (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
            "with an alphanumeric character"
        )
        return (*errors, _explain(text, _LABEL, "my-name", "123-abc"))
    return errors


@lru_cache(maxsize=8192)
def dns_subdomain(value: str) -> tuple[str, ...]:
    """Check an RFC 1123 subdomain, the name of most objects."""
    errors = () if len(value) <= 253 else (max_length(253),)
    if _SUBDOMAIN_RE.fullmatch(value) is None:
        text = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
            "and end with an alphanumeric character"
        )
        return (*errors, _explain(text, _SUBDOMAIN, "example.com"))
    return errors


@lru_cache(maxsize=8192)
def dns_1035_label(value: str) -> tuple[str, ...]:
    """Check an RFC 1035 label, the name of a Service."""
    errors = () if len(value) <= 63 else (max_length(63),)
    if _LABEL_1035_RE.fullmatch(value) is None:
        text = (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character"
        )
        return (*errors, _explain(text, _LABEL_1035, "my-name", "abc-123"))
    return errors


def wildcard_subdomain(value: str) -> tuple[str, ...]:
    """Check a wildcard host of an Ingress."""
    errors = () if len(value) <= 253 else (max_length(253),)
    if _WILDCARD_RE.fullmatch(value) is None:
        text = (
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
            "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character"
        )
        return (*errors, _explain(text, _WILDCARD, "*.example.com"))
    return errors


def path_segment(value: str) -> tuple[str, ...]:
    """Check a name that only has to fit into a URL path, as those of roles."""
    if value in (".", ".."):
        return (f"may not be '{value}'",)
    return tuple(f"may not contain '{char}'" for char in "/%" if char in value)


@lru_cache(maxsize=8192)
def qualified_name(value: str) -> tuple[str, ...]:
    """Check a label or annotation key."""
    text = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
    examples = ("MyName", "my.name", "123-abc")
    prefix, slash, name = value.rpartition("/")
    if "/" in prefix:
        said = _explain("a qualified name " + text, _QUALIFIED, *examples)
        return (
            said + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
        )
    errors: list[str] = []
    if slash:
        if not prefix:
            errors.append("prefix part must be non-empty")
        else:
            errors.extend("prefix part " + message for message in dns_subdomain(prefix))
    if not name:
        errors.append("name part must be non-empty")
    elif len(name) > 63:
        errors.append("name part " + max_length(63))
    if _QUALIFIED_RE.fullmatch(name) is None:
        errors.append(_explain("name part " + text, _QUALIFIED, *examples))
    return tuple(errors)


@lru_cache(maxsize=8192)
def label_value(value: str) -> tuple[str, ...]:
    """Check the value of a label."""
    errors = () if len(value) <= 63 else (max_length(63),)
    if _LABEL_VALUE_RE.fullmatch(value) is None:
        text = (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
            "and end with an alphanumeric character"
        )
        return (*errors, _explain(text, _LABEL_VALUE, "MyValue", "my_value", "12345"))
    return errors


def config_key(value: str) -> tuple[str, ...]:
    """Check a key of a ConfigMap or Secret."""
    errors = () if len(value) <= 253 else (max_length(253),)
    if _CONFIG_KEY_RE.fullmatch(value) is None:
        text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        return (*errors, _explain(text, _CONFIG_KEY, "key.name", "KEY_NAME", "key-name"))
    if value == ".":
        return (*errors, "must not be '.'")
    if value.startswith(".."):
        return (*errors, "must not be '..'" if value == ".." else "must not start with '..'")
    return errors


def environment_name(value: str) -> tuple[str, ...]:
    """Check the name of an environment variable."""
    if not value.isascii() or not value.isprintable() or "=" in value:
        return (
            "a valid environment variable name must consist only of printable ASCII characters other than '='",
        )
    return ()


def port_name(value: str) -> tuple[str, ...]:
    """Check the name of a port (RFC 6335)."""
    errors: list[str] = []
    if len(value) > 15:
        errors.append("must be no more than 15 characters")
    if re.fullmatch(r"[-a-z0-9]*", value) is None:
        errors.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if re.search("[a-z]", value) is None:
        errors.append("must contain at least one letter (a-z)")
    if "--" in value:
        errors.append("must not contain consecutive hyphens")
    if value[:1] == "-" or value[-1:] == "-":
        errors.append("must not begin or end with a hyphen")
    return tuple(errors)


def percent(value: str) -> tuple[str, ...]:
    """Check a percentage."""
    if re.fullmatch(_PERCENT, value) is None:
        text = "a valid percent string must be a numeric string followed by an ending '%'"
        return (_explain(text, _PERCENT, "1%", "93%"),)
    return ()


def is_address(value: str) -> bool:
    """Tell whether a text is an IP address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
