"""What the scanner knows about the values on a pickle's stack: constants, imports, and things built from them."""

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Opaque:
    """A value that is of no interest: a list, a long string, bytes, a float."""

    kind: str


@dataclass(frozen=True, slots=True)
class Import:
    """A class or function that the pickle imports by name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True)
class Dict:
    """A dict; `items` is None when it is too large, or has keys or values that are not known."""

    items: dict[Any, Any] | None = field(default_factory=dict)


@dataclass(slots=True)
class Built:
    """An object made by calling an import; `state` is what BUILD gave it."""

    function: Import
    arguments: tuple[Any, ...]
    state: Any = None
    built: bool = False


LIST: Final = Opaque("list")
SET: Final = Opaque("set")
STRING: Final = Opaque("long string")
BYTES: Final = Opaque("bytes")
FLOAT: Final = Opaque("float")
NUMBER: Final = Opaque("large number")
FROZENSET: Final = Opaque("frozenset")
BYTEARRAY: Final = Opaque("bytearray")
ARRAY: Final = Opaque("array")
TUPLE: Final = Opaque("large tuple")
