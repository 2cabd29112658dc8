"""CEL rules of custom resources (`x-kubernetes-validations`).

The library is `common-expression-language` (the Rust interpreter): the one pure-Python candidate, cel-python, gives the same
answers but takes about 200 µs for a rule that takes 7 µs here, and at a thousand objects a second that is the whole budget. Neither
knows the functions that Kubernetes adds (https://kubernetes.io/docs/reference/using-api/cel/); `cel_functions` adds them.
The import costs 0.2 s, so it waits for the first CRD that has rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

from local_cluster.schema.node import Schema

_STRINGS = re.compile(
    r"""r?(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""", re.DOTALL
)
_NAMESPACED = re.compile(r"\b(sets|ip|cidr|format|math|lists)\.([A-Za-z0-9]+)\s*\(")
# The library counts the bytes of a string instead of its characters, and compiles a pattern at every call.
_REPLACED = re.compile(r"\b(size|matches)\s*\(")
_KNOWN_VARIABLES = frozenset({"self", "oldSelf", "optional", "dyn", "type"})
_TYPE_NAMES = frozenset(
    {
        "string",
        "int",
        "uint",
        "double",
        "bool",
        "bytes",
        "list",
        "map",
        "null_type",
        "timestamp",
        "duration",
    }
)
_BUILTIN_FUNCTIONS = frozenset(
    {
        "size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint", "double", "bool", "bytes",
        "timestamp", "duration", "type", "dyn", "has", "all", "exists", "exists_one", "map", "filter", "max", "min",
        "getFullYear", "getMonth", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes",
        "getSeconds", "getMilliseconds", "getDate", "of", "none", "ofNonZeroValue", "orValue", "hasValue", "value",
        "or", "optMap",
    }
)  # fmt: skip
# Property names that CEL cannot spell; a rule writes them as `__name__`.
_RESERVED = frozenset(
    {
        "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
        "let", "loop", "package", "namespace", "return", "var", "void", "while",
    }
)  # fmt: skip


class CelError(Exception):
    """A rule that does not compile, or an evaluation that failed."""


class Program:
    """One compiled expression."""

    __slots__ = ("_functions", "_needs", "_program", "text", "uses_old")

    def __init__(self, text: str) -> None:
        import cel

        from local_cluster.schema.cel_functions import FUNCTIONS

        self.text = text
        try:
            source = rewrite(text)
            self._program = cel.compile(source)
            references = self._program.references()
        except ValueError as err:
            raise CelError(f"compilation failed: {_first_line(err)}") from err
        self.uses_old = "oldSelf" in references["variables"]
        self._check_names(source, references)
        # Functions and variables are handed over at every evaluation: only what the rule uses.
        self._functions = {
            name: FUNCTIONS[name] for name in references["functions"] if name in FUNCTIONS
        }
        self._needs = _needed_fields(text)

    def _check_names(self, source: str, references: dict[str, list[str]]) -> None:
        from local_cluster.schema.cel_functions import FUNCTIONS

        bound = set(re.findall(r"\(\s*([A-Za-z_]\w*)\s*,", _STRINGS.sub("''", source)))
        for name in references["variables"]:
            if name not in _KNOWN_VARIABLES and name not in _TYPE_NAMES and name not in bound:
                raise CelError(
                    f"compilation failed: ERROR: <input>: undeclared reference to '{name}' (in container '')"
                )
        for name in references["functions"]:
            if (
                name.isidentifier()
                and not name.startswith("_")
                and name not in _BUILTIN_FUNCTIONS
                and name not in FUNCTIONS
            ):
                raise CelError(
                    f"compilation failed: ERROR: <input>: undeclared reference to '{name}' (in container '')"
                )

    def run(
        self, current: Any, old: Any = None, *, has_old: bool = False, optional_old: bool = False
    ) -> Any:
        """Evaluate with `self` and, where there is one, `oldSelf`.

        Raises:
            CelError: the evaluation failed, e.g. for a field that is not there.
        """
        import cel

        if self._needs is not None and isinstance(current, dict):
            current = {name: current[name] for name in self._needs if name in current}
        context = cel.Context({"self": current}, self._functions)
        if optional_old:
            context.add_variable(
                "oldSelf", cel.OptionalValue.of(old) if has_old else cel.OptionalValue.none()
            )
        elif has_old:
            context.add_variable("oldSelf", old)
        try:
            return self._program.execute(context)
        except KeyError as err:
            raise CelError(f"no such key: {err.args[0]}") from err
        except Exception as err:
            raise CelError(_first_line(err)) from err


@lru_cache(maxsize=2048)
def compile_expression(text: str) -> Program:
    """Compile an expression once per text.

    Raises:
        CelError: it does not compile.
    """
    return Program(text)


def _needed_fields(text: str) -> tuple[str, ...] | None:
    """Return the fields of `self` that an expression reads, or None where it uses `self` as a whole."""
    bare = _STRINGS.sub("''", text)
    fields: set[str] = set()
    for match in re.finditer(r"(?<![\w.])self\b\s*(\.\s*\??\s*([A-Za-z_]\w*)(\s*\()?)?", bare):
        if match[2] is None or match[3] is not None:
            return None
        fields.add(match[2])
    return tuple(sorted(fields))


def _first_line(err: BaseException) -> str:
    text = str(err)
    marker = text.find("ERROR:")
    return " ".join((text[marker:] if marker >= 0 else text).split("\n")[0].split())


def rewrite(text: str) -> str:
    """Spell what the library's parser lacks as function calls: `a.?b` and functions like `sets.contains`."""
    literals: list[str] = []

    def hide(match: re.Match[str]) -> str:
        literals.append(match[0])
        return f"\x00{len(literals) - 1}\x00"

    source = _STRINGS.sub(hide, text)
    source = _NAMESPACED.sub(r"\1_\2(", source)
    source = _REPLACED.sub(r"k8s_\1(", source)
    while (at := source.find(".?")) >= 0:
        source = _optional_select(source, at)
    return re.sub(r"\x00(\d+)\x00", lambda match: literals[int(match[1])], source)


def _optional_select(source: str, at: int) -> str:
    """Rewrite the first `receiver.?name` as `optSelect(receiver, 'name')`, and plain selections after it likewise."""
    start = at
    while start > 0:
        char = source[start - 1]
        if char in ")]":
            opening = {")": "(", "]": "["}[char]
            depth = 0
            while start > 0:
                start -= 1
                depth += (source[start] == char) - (source[start] == opening)
                if depth == 0:
                    break
        elif char.isalnum() or char in "_.\x00":
            start -= 1
        else:
            break
    match = re.compile(r"\s*([A-Za-z_]\w*)").match(source, at + 2)
    if match is None:
        raise CelError("compilation failed: ERROR: <input>: unsupported syntax '.?'")
    end = match.end()
    call = f"optSelect({source[start:at]}, '{match[1]}')"
    onward = re.compile(r"\.([A-Za-z_]\w*)(?!\w*\s*\()")
    while (step := onward.match(source, end)) is not None:
        call = f"optSelect({call}, '{step[1]}')"
        end = step.end()
    return source[:start] + call + source[end:]


def chains(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield every plain `self.a.b` in an expression, with its position, for the check against the schema."""
    bare = _STRINGS.sub(lambda match: " " * len(match[0]), text)
    for match in re.finditer(r"(?<![\w.])self((?:\.[A-Za-z_]\w*)+)(\s*\()?", bare):
        names = match[1][1:].split(".")
        yield match.start(), names[:-1] if match[2] else names


def escape(name: str) -> str:
    """Return a property name as rules spell it (`__namespace__`, `a__dash__b`)."""
    if name in _RESERVED:
        return f"__{name}__"
    for plain, spelled in (
        ("__", "__underscores__"),
        (".", "__dot__"),
        ("-", "__dash__"),
        ("/", "__slash__"),
    ):
        if plain in name:
            name = name.replace(plain, spelled)
    return name


def cel_value(value: Any, node: Schema | None) -> Any:
    """Return a JSON value as CEL sees it: numbers of type `number` as double, times as timestamps, names escaped."""
    if node is None or _is_plain(node):
        return value
    if isinstance(value, dict):
        if not node.properties:
            return {name: cel_value(item, node.additional) for name, item in value.items()}
        plan = node.cache.get("cel_names")
        if plan is None:
            plan = node.cache["cel_names"] = {
                name: (escape(name), None if _is_plain(child) else child)
                for name, child in node.properties.items()
            }
        out = {}
        for name, item in value.items():
            if name in plan:
                spelled, child = plan[name]
                out[spelled] = item if child is None else cel_value(item, child)
        return out
    if isinstance(value, list):
        return [cel_value(item, node.items) for item in value]
    if node.type == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if node.type == "string" and node.format in ("date-time", "date") and isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return value
    return value


def _is_plain(node: Schema) -> bool:
    plain: bool | None = node.cache.get("cel_plain")
    if plain is None:
        node.cache["cel_plain"] = True  # built-in types may be recursive
        plain = node.type != "number" and not (
            node.type == "string" and node.format in ("date-time", "date")
        )
        plain = plain and all(escape(name) == name for name in node.properties)
        below = [*node.properties.values(), node.items, node.additional]
        plain = plain and all(child is None or _is_plain(child) for child in below)
        node.cache["cel_plain"] = plain
    return plain
