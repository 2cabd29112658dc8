"""The pickle machine, followed without running it: opcodes in, imports and calls judged one by one.

Every opcode of protocols 0 to 5 moves values of `values.py` on a stack with marks and a memo, exactly as the
unpickler would move objects. What the unpicklers of CPython (the C one and the Python one) might understand
differently, and what no pickler writes, is refused rather than guessed at. The opcodes and their effects are those of
`pickletools` and PEP 3154 (frames), PEP 574 (protocol 5).
"""

import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import Any, Protocol

from model_scorer.verify.reader import (
    ByteStream,
    MalformedError,
    PickleReader,
    TruncatedError,
    decode_ascii,
)
from model_scorer.verify.values import (
    BYTEARRAY,
    FLOAT,
    FROZENSET,
    LIST,
    SET,
    TUPLE,
    Built,
    Dict,
    Import,
    Opaque,
)

_KEPT_ITEMS = 256


class Judge(Protocol):
    """Decides about what a pickle wants to do; raises to refuse."""

    def see_import(self, target: Import) -> None:
        """Import a class or function."""

    def see_call(self, function: Import, arguments: tuple[Any, ...] | None, *, new: bool) -> None:
        """Call an import; `new` when only its `__new__` is called. Arguments are None when they are not known."""

    def see_item(self, key: str, value: str) -> None:
        """Set a string item of a dict: this is where libraries keep their versions."""

    def see_persistent(self, identifier: Any) -> None:
        """Ask the loader for an object by its persistent id."""

    def see_state(self, built: Built) -> None:
        """Give an object its state."""

    def see_extension(self) -> None:
        """Import something by a number that only the loading process knows."""


class PickleMachine(PickleReader):
    """Follows one pickle from its first opcode to STOP.

    Args:
        stream: stands at the first byte; stands behind STOP afterwards.
        judge: asked about each import and call, before anything that follows is looked at.
        on_built: called with each object that BUILD completed, and the machine; may take bytes from the stream (joblib
            keeps arrays there) and returns the value that takes the object's place.
    """

    def __init__(
        self,
        stream: ByteStream,
        judge: Judge,
        on_built: Callable[[Built, "PickleMachine"], Any] | None = None,
    ) -> None:
        super().__init__(stream)
        self.judge = judge
        self._on_built = on_built
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._proto = 0
        self._stopped = False

    # Running.

    def run(self) -> Any:
        """Follow the pickle to its STOP; returns what is known about the object.

        Raises:
            MalformedError: this is no pickle, or not one that can be followed.
            Exception: whatever the judge raises.
        """
        read = self._read
        handlers = _HANDLERS
        try:
            while True:
                code = read(1)
                if not code:
                    raise TruncatedError(f"ends after byte {self.position}, without its STOP")
                handler = handlers[code[0]]
                if handler is None:
                    raise MalformedError(
                        f"has an unknown opcode {code!r} at byte {self.position - 1}"
                    )
                handler(self)
                if self._stopped:
                    return self._pop()
        except (IndexError, struct.error) as err:
            raise MalformedError(
                f"takes more from its stack than is there, at byte {self.position}"
            ) from err

    def _pop(self) -> Any:
        if not self._stack:
            raise MalformedError(
                f"takes more from its stack than is there, at byte {self.position}"
            )
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise MalformedError(f"misses a mark at byte {self.position}")
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _top(self) -> Any:
        if not self._stack:
            raise MalformedError(f"uses an empty stack at byte {self.position}")
        return self._stack[-1]

    # Values.

    def _proto_op(self) -> None:
        proto = self.take(1)[0]
        if proto > 5:
            raise MalformedError(f"has protocol {proto}, and 5 is the highest")
        self._proto = proto

    def _stop(self) -> None:
        self._stopped = True

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop_op(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _pop_mark_op(self) -> None:
        self._pop_mark()

    def _dup(self) -> None:
        self._stack.append(self._top())

    def _float(self) -> None:
        self.skip_float_line()
        self._stack.append(FLOAT)

    # Containers.

    def _tuple_of(self, items: list[Any]) -> None:
        self._stack.append(tuple(items) if len(items) <= _KEPT_ITEMS else TUPLE)

    def _tuple_n(self, count: int) -> None:
        if len(self._stack) < count:
            raise MalformedError(
                f"takes more from its stack than is there, at byte {self.position}"
            )
        items = self._stack[-count:]
        del self._stack[-count:]
        self._stack.append(tuple(items))

    def _push_dict_of_mark(self) -> None:
        target = Dict()
        self._set_items(target, self._pop_mark())
        self._stack.append(target)

    def _push_list_of_mark(self) -> None:
        self._pop_mark()
        self._stack.append(LIST)

    def _push_frozenset_of_mark(self) -> None:
        self._pop_mark()
        self._stack.append(FROZENSET)

    def _append(self) -> None:
        self._pop()
        self._check_extended(self._top())

    def _appends(self) -> None:
        self._pop_mark()
        self._check_extended(self._top())

    def _additems(self) -> None:
        self._pop_mark()
        if self._top() is not SET:
            raise MalformedError(f"adds items to what is no set, at byte {self.position}")

    def _check_extended(self, target: Any) -> None:
        """Items may be added to lists and their kin: `append` of anything else would be a method call."""
        if target is LIST or (isinstance(target, Built) and str(target.function) in _LIST_LIKE):
            return
        raise MalformedError(f"appends to what is no list, at byte {self.position}")

    def _setitem(self) -> None:
        value = self._pop()
        key = self._pop()
        self._set_items(self._top(), [key, value])

    def _setitems(self) -> None:
        items = self._pop_mark()
        self._set_items(self._top(), items)

    def _set_items(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise MalformedError(f"sets a key without a value at byte {self.position}")
        if isinstance(target, Dict):
            known = target.items
            if known is not None and len(known) + len(items) // 2 > _KEPT_ITEMS:
                known = target.items = None
            for key, value in zip(items[::2], items[1::2], strict=True):
                if type(value) is str and type(key) is str:
                    self.judge.see_item(key, value)
                if known is not None:
                    if type(key) is str:
                        known[key] = value
                    else:
                        # A key that is not a plain string cannot be told from others.
                        known = target.items = None
        elif not (isinstance(target, Built) and str(target.function) in _DICT_LIKE):
            raise MalformedError(f"sets items of what is no dict, at byte {self.position}")

    # The memo.

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _put_text(self) -> None:
        self._put(self.take_index())

    def _memoize(self) -> None:
        memo = self._memo
        memo[len(memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        try:
            self._stack.append(self._memo[index])
        except KeyError:
            raise MalformedError(
                f"reads memo {index}, which was not written, at byte {self.position}"
            ) from None

    def _get_text(self) -> None:
        self._get(self.take_index())

    # Imports and calls.

    def _import(self, module: Any, name: Any) -> Import:
        if type(module) is not str or type(name) is not str:
            raise MalformedError(f"computes the name of an import, at byte {self.position}")
        if self._proto < 3:
            # Names of Python 2, as pickle.Unpickler.find_class replaces them.
            if (module, name) in NAME_MAPPING:
                module, name = NAME_MAPPING[(module, name)]
            elif module in IMPORT_MAPPING:
                module = IMPORT_MAPPING[module]
        target = Import(module, name)
        self.judge.see_import(target)
        return target

    def _global(self) -> None:
        module, name = self.take_name(), self.take_name()
        self._stack.append(self._import(module, name))

    def _stack_global(self) -> None:
        name = self._pop()
        module = self._pop()
        self._stack.append(self._import(module, name))

    def _call(self, function: Any, arguments: Any, *, new: bool) -> None:
        if not isinstance(function, Import):
            raise MalformedError(f"calls what is no import, at byte {self.position}")
        known = arguments if type(arguments) is tuple else None
        self.judge.see_call(function, known, new=new)
        if function.module == "copyreg" and known and isinstance(known[0], Import):
            # The protocols before 2 spell NEWOBJ as a call.
            function, known = known[0], known[1:]
        self._stack.append(Built(function, known or ()))

    def _reduce(self) -> None:
        arguments = self._pop()
        self._call(self._pop(), arguments, new=False)

    def _newobj(self) -> None:
        arguments = self._pop()
        self._call(self._pop(), arguments, new=True)

    def _newobj_ex(self) -> None:
        self._pop()  # keyword arguments: __new__ of the listed classes does nothing else with them
        arguments = self._pop()
        self._call(self._pop(), arguments, new=True)

    def _inst(self) -> None:
        module, name = self.take_name(), self.take_name()
        arguments = tuple(self._pop_mark())
        self._call(self._import(module, name), arguments, new=False)

    def _obj(self) -> None:
        items = self._pop_mark()
        if not items:
            raise MalformedError(f"makes an object of nothing at byte {self.position}")
        self._call(items[0], tuple(items[1:]), new=False)

    def _build(self) -> None:
        state = self._pop()
        target = self._top()
        if not isinstance(target, Built):
            # On a class this would overwrite its methods, on a module its functions.
            raise MalformedError(f"sets the state of what it did not make, at byte {self.position}")
        if target.built and str(target.function) in _BUILT_ONCE:
            raise MalformedError(
                f"sets the state of a {target.function} twice, at byte {self.position}"
            )
        target.state, target.built = state, True
        self.judge.see_state(target)
        if self._on_built is not None:
            self._stack[-1] = self._on_built(target, self)

    def _extension(self) -> None:
        self.judge.see_extension()
        raise MalformedError("uses an extension code")

    def _persistent_text(self) -> None:
        self._stack.append(self._persistent(self.take_identifier()))

    def _persistent_binary(self) -> None:
        self._stack.append(self._persistent(self._pop()))

    def _persistent(self, identifier: Any) -> Any:
        self.judge.see_persistent(identifier)
        return Opaque("persistent object")

    def _buffer(self) -> None:
        raise MalformedError("needs buffers that are not in the file")


# What extends and item assignment are plain operations on.
_LIST_LIKE = frozenset(
    {"collections.deque", "builtins.list", "pandas.core.indexes.frozen.FrozenList"}
)
_DICT_LIKE = frozenset(
    {
        "builtins.dict",
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils._encode._nandict",
    }
)
_BUILT_ONCE = frozenset({"joblib.numpy_pickle.NumpyArrayWrapper", "numpy.dtype"})

_U2, _I4, _U4, _U8 = (struct.Struct(code).unpack for code in ("<H", "<i", "<I", "<Q"))


def _push(value: Any) -> Callable[[PickleMachine], None]:
    return lambda m: m._stack.append(value)


def _skip_and_push(size: int, value: Any) -> Callable[[PickleMachine], None]:
    def handle(m: PickleMachine) -> None:
        m.take(size)
        m._stack.append(value)

    return handle


def _signed4(m: PickleMachine) -> int:
    size: int = _I4(m.take(4))[0]
    if size < 0:
        raise MalformedError("has a value of negative length")
    return size


_BY_CODE: dict[bytes, Callable[[PickleMachine], None]] = {
    b"\x80": PickleMachine._proto_op,
    b"\x95": PickleMachine.open_frame,
    b".": PickleMachine._stop,
    b"(": PickleMachine._mark,
    b"0": PickleMachine._pop_op,
    b"1": PickleMachine._pop_mark_op,
    b"2": PickleMachine._dup,
    b"N": _push(None),
    b"\x88": _push(True),
    b"\x89": _push(False),
    b"I": lambda m: m._stack.append(m.take_int_line()),
    b"J": lambda m: m._stack.append(_I4(m.take(4))[0]),
    b"K": lambda m: m._stack.append(m.take(1)[0]),
    b"M": lambda m: m._stack.append(_U2(m.take(2))[0]),
    b"L": lambda m: m._stack.append(m.take_long_line()),
    b"\x8a": lambda m: m._stack.append(m.take_long(m.take(1)[0])),
    b"\x8b": lambda m: m._stack.append(m.take_long(_I4(m.take(4))[0])),
    b"F": PickleMachine._float,
    b"G": _skip_and_push(8, FLOAT),
    b"S": lambda m: m._stack.append(m.take_quoted_text()),
    b"T": lambda m: m._stack.append(m.take_text(_signed4(m), decode_ascii)),
    b"U": lambda m: m._stack.append(m.take_text(m.take(1)[0], decode_ascii)),
    b"V": lambda m: m._stack.append(m.take_text_line()),
    b"\x8c": lambda m: m._stack.append(m.take_short_text()),
    b"X": lambda m: m._stack.append(m.take_text(_U4(m.take(4))[0])),
    b"\x8d": lambda m: m._stack.append(m.take_text(_U8(m.take(8))[0])),
    b"C": lambda m: m._stack.append(m.take_bytes(m.take(1)[0])),
    b"B": lambda m: m._stack.append(m.take_bytes(_U4(m.take(4))[0])),
    b"\x8e": lambda m: m._stack.append(m.take_bytes(_U8(m.take(8))[0])),
    b"\x96": lambda m: m._stack.append(m.take_bytes(_U8(m.take(8))[0], BYTEARRAY)),
    b")": _push(()),
    b"t": lambda m: m._tuple_of(m._pop_mark()),
    b"\x85": lambda m: m._tuple_n(1),
    b"\x86": lambda m: m._tuple_n(2),
    b"\x87": lambda m: m._tuple_n(3),
    b"]": _push(LIST),
    b"l": PickleMachine._push_list_of_mark,
    b"a": PickleMachine._append,
    b"e": PickleMachine._appends,
    b"}": lambda m: m._stack.append(Dict()),
    b"d": PickleMachine._push_dict_of_mark,
    b"s": PickleMachine._setitem,
    b"u": PickleMachine._setitems,
    b"\x8f": _push(SET),
    b"\x90": PickleMachine._additems,
    b"\x91": PickleMachine._push_frozenset_of_mark,
    b"p": PickleMachine._put_text,
    b"q": lambda m: m._put(m.take(1)[0]),
    b"r": lambda m: m._put(_U4(m.take(4))[0]),
    b"\x94": PickleMachine._memoize,
    b"g": PickleMachine._get_text,
    b"h": lambda m: m._get(m.take(1)[0]),
    b"j": lambda m: m._get(_U4(m.take(4))[0]),
    b"c": PickleMachine._global,
    b"\x93": PickleMachine._stack_global,
    b"R": PickleMachine._reduce,
    b"\x81": PickleMachine._newobj,
    b"\x92": PickleMachine._newobj_ex,
    b"i": PickleMachine._inst,
    b"o": PickleMachine._obj,
    b"b": PickleMachine._build,
    b"\x82": PickleMachine._extension,
    b"\x83": PickleMachine._extension,
    b"\x84": PickleMachine._extension,
    b"P": PickleMachine._persistent_text,
    b"Q": PickleMachine._persistent_binary,
    b"\x97": PickleMachine._buffer,
    b"\x98": PickleMachine._buffer,
}


_HANDLERS: list[Callable[[PickleMachine], None] | None] = [
    _BY_CODE.get(bytes([code])) for code in range(256)
]
