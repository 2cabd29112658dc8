import bz2
import gzip
import io
import lzma
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pytest

from model_scorer.errors import LoadFailed, UnsafePickle
from model_scorer.verify import check_pickle

Payload = Callable[[str], bytes]

# Pickles are written opcode by opcode here, as attackers write them.


@dataclass(frozen=True)
class Raw:
    """Opcodes that push one value."""

    code: bytes


def push(value: object) -> bytes:
    """Opcodes that push a constant."""
    match value:
        case Raw(code):
            return code
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + b"".join(map(push, value)) + b"t"
        case list():
            return b"](" + b"".join(map(push, value)) + b"e"
        case dict():
            return b"}(" + b"".join(push(k) + push(v) for k, v in value.items()) + b"u"
    raise TypeError(value)


def glob(module: str, name: str) -> Raw:
    """GLOBAL: the import of protocols 0 to 3."""
    return Raw(f"c{module}\n{name}\n".encode())


def stack_global(module: str, name: str) -> Raw:
    """STACK_GLOBAL: the import of protocol 4, which follows dots in the name."""
    return Raw(push(module) + push(name) + b"\x93")


def reduce(function: Raw, *arguments: object) -> Raw:
    """The call of a function."""
    return Raw(function.code + push(arguments) + b"R")


def new(cls: Raw, *arguments: object) -> Raw:
    """An object made without its constructor."""
    return Raw(cls.code + push(arguments) + b"\x81")


def build(target: Raw, state: object) -> Raw:
    """An object given its state."""
    return Raw(target.code + push(state) + b"b")


def pickled(value: object, proto: int = 4) -> bytes:
    """A whole pickle."""
    return b"\x80" + bytes([proto]) + push(value) + b"."


def call(module: str, name: str, *arguments: object) -> bytes:
    """A pickle that calls one function."""
    return pickled(reduce(stack_global(module, name), *arguments))


def touch(canary: str) -> str:
    return f"touch {canary}"


def code(canary: str) -> str:
    return f"open({canary!r}, 'w').close()"


# Direct: the functions that every scanner knows, in every spelling that pickles have.
PLAIN: dict[str, Payload] = {
    "os.system by GLOBAL, protocol 0": lambda c: f"cos\nsystem\n(S'{touch(c)}'\ntR.".encode(),
    "posix.system": lambda c: call("posix", "system", touch(c)),
    "subprocess.check_output": lambda c: call("subprocess", "check_output", ["touch", c]),
    "subprocess.Popen by NEWOBJ": lambda c: pickled(new(glob("subprocess", "Popen"), ["touch", c])),
    "builtins.eval": lambda c: call("builtins", "eval", code(c)),
    "builtins.exec": lambda c: call("builtins", "exec", code(c)),
    "__builtin__.eval under its Python 2 name": lambda c: (
        b"c__builtin__\neval\n" + push((code(c),)) + b"R."
    ),
    "builtins.open": lambda c: call("builtins", "open", c, "w"),
    "builtins.compile": lambda c: call("builtins", "compile", code(c), "x", "exec"),
    "builtins.__import__": lambda c: call("builtins", "__import__", "antigravity"),
    "builtins.getattr of a module": lambda c: pickled(
        reduce(reduce(glob("builtins", "getattr"), reduce(glob("builtins", "__import__"), "os"), "system"), touch(c)), 2
    ),
    "builtins.map over eval": lambda c: pickled(
        reduce(glob("builtins", "list"), reduce(glob("builtins", "map"), glob("builtins", "eval"), [code(c)])), 2
    ),
    "INST": lambda c: f"(S'{touch(c)}'\nios\nsystem\n.".encode(),
    "OBJ": lambda c: f"(cpty\nspawn\nS'{touch(c)}'\no.".encode(),
    "STACK_GLOBAL from the memo": lambda c: (
        b"\x80\x04\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93" + push((touch(c),)) + b"R."
    ),
    # A scanner that takes the last strings it saw, or numbers the memo by order, reads math.sqrt here.
    "STACK_GLOBAL from memo slots out of order": lambda c: (
        b"\x80\x04\x8c\x06systemq\x070\x8c\x02osq\x030\x8c\x04mathq\x000\x8c\x04sqrtq\x010h\x03h\x07\x93"
        + push((touch(c),)) + b"R."
    ),
    "STACK_GLOBAL from STRING opcodes": lambda c: b"\x80\x04S'os'\nS'system'\n\x93" + push((touch(c),)) + b"R.",
    "STACK_GLOBAL from SHORT_BINSTRING opcodes": lambda c: (
        b"\x80\x04U\x02osU\x06system\x93" + push((touch(c),)) + b"R."
    ),
    "STACK_GLOBAL with a computed name": lambda c: pickled(
        Raw(reduce(glob("builtins", "str"), "os").code + push("system") + b"\x93" + push((touch(c),)) + b"R")
    ),
    "STACK_GLOBAL of DUPlicated strings": lambda c: b"\x80\x04\x8c\x02os2\x8c\x06system\x93" + push((touch(c),)) + b"R.",
    "an allowed value on top, the call thrown away": lambda c: (
        b"\x80\x02" + reduce(glob("os", "system"), touch(c)).code + b"0K\x01."
    ),
    "extension codes": lambda c: b"\x80\x02\x82\x01" + push((touch(c),)) + b"R.",
    "persistent id": lambda c: b"\x80\x02" + push("os.system") + b"Q.",
    "garbage behind the call, no STOP": lambda c: (
        b"\x80\x02" + reduce(glob("os", "system"), touch(c)).code + b"\xff\xff"
    ),
    "a second pickle behind a harmless one": lambda c: pickle.dumps([1, 2]) + call("os", "system", touch(c)),
    "pickle in a pickle": lambda c: call("pickle", "loads", call("os", "system", touch(c))),
    "_pickle in a pickle": lambda c: call("_pickle", "loads", call("os", "system", touch(c))),
    "joblib.load of another file": lambda c: call("joblib", "load", c),
    "dill": lambda c: call("dill._dill", "loads", b""),
    "cloudpickle": lambda c: call("cloudpickle.cloudpickle", "_make_function", None),
}  # fmt: skip

# Indirect: functions that run what they are given, each of which a deny-list once missed. The picklescan and fickling
# advisories list most (GHSA-v7x6-rv5q-mhwc, GHSA-vvpj-8cmc-gx39, GHSA-6ggj-6f2q-f7mx, CVE-2025-10157 and others).
INDIRECT: dict[str, tuple[str, str]] = {
    "pip": ("pip", "main"),
    "pip internal": ("pip._internal", "main"),
    "ensurepip": ("ensurepip", "_run_pip"),
    "venv": ("venv", "create"),
    "bdb": ("bdb", "Bdb.run"),
    "pdb": ("pdb", "run"),
    "timeit": ("timeit", "timeit"),
    "cProfile": ("cProfile", "run"),
    "profile": ("profile", "Profile.runctx"),
    "trace": ("trace", "Trace.run"),
    "doctest": ("doctest", "debug_script"),
    "code": ("code", "InteractiveInterpreter.runcode"),
    "asyncio transport": ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    "numpy f2py getlincoef": ("numpy.f2py.crackfortran", "getlincoef"),
    "numpy f2py myeval": ("numpy.f2py.crackfortran", "myeval"),
    "numpy testing": ("numpy.testing._private.utils", "runstring"),
    "numpy load": ("numpy", "load"),
    "numpy memmap": ("numpy", "memmap"),
    "numpy by a dotted name": ("numpy", "f2py.crackfortran.getlincoef"),
    "torch config": ("torch.utils._config_module", "ConfigModule.load_config"),
    "torch load": ("torch.serialization", "load"),
    "torch hub": ("torch.hub", "load"),
    "torch inductor": ("torch._inductor.codecache", "compile_file"),
    "lib2to3": ("lib2to3.pgen2.grammar", "Grammar.loads"),
    "idlelib": ("idlelib.pyshell", "ModifiedInterpreter.runcommand"),
    "idlelib run": ("idlelib.run", "Executive.runcode"),
    "importlib": ("importlib", "import_module"),
    "pkgutil": ("pkgutil", "resolve_name"),
    "runpy": ("runpy", "run_path"),
    "subinterpreters": ("_xxsubinterpreters", "run_string"),
    "subinterpreters, newer": ("_interpreters", "exec"),
    "operator.attrgetter": ("operator", "attrgetter"),
    "operator.methodcaller": ("operator", "methodcaller"),
    "_operator": ("_operator", "methodcaller"),
    "functools.reduce": ("functools", "reduce"),
    "types.FunctionType": ("types", "FunctionType"),
    "types.CodeType": ("types", "CodeType"),
    "ctypes": ("ctypes", "CDLL"),
    "shutil": ("shutil", "rmtree"),
    "io": ("_io", "FileIO"),
    "distutils": ("distutils.file_util", "write_file"),
    "socket": ("socket", "create_connection"),
    "aiohttp": ("aiohttp.client", "request"),
    "webbrowser": ("webbrowser", "open"),
    "pydoc": ("pydoc", "pipepager"),
    "uuid": ("uuid", "_get_command_stdout"),
    "multiprocessing": ("multiprocessing.util", "spawnv_passfds"),
    "logging config": ("logging.config", "_resolve"),
    "sys.modules": ("sys", "modules"),
    "builtins.globals": ("builtins", "globals"),
    "test support": ("test.support.script_helper", "assert_python_ok"),
    "pandas read_pickle": ("pandas.io.pickle", "read_pickle"),
    "pandas eval": ("pandas.core.computation.eval", "eval"),
    "sklearn fetches": ("sklearn.datasets._openml", "fetch_openml"),
    "sklearn load_files": ("sklearn.datasets._base", "load_files"),
    "sklearn names joblib's": ("sklearn.ensemble._base", "Parallel"),
    "sklearn names abc's": ("sklearn.base", "ABCMeta"),
    "sklearn names typing's": ("sklearn.metrics._scorer", "Counter"),
    "sklearn mock": ("sklearn.utils._mocking", "CheckingClassifier"),
    "sklearn externals": ("sklearn.externals._packaging.version", "Version"),
    "sklearn tests": ("sklearn.tree.tests.test_tree", "X"),
    "joblib memory": ("joblib.memory", "MemorizedResult"),
    "joblib's own caller": ("joblib.parallel", "BatchedCalls"),
    "scipy distributions, whose __setstate__ runs code": ("scipy.stats._continuous_distns", "norm_gen"),
    "a class of the training script": ("__main__", "Model"),
}  # fmt: skip

# The allow-list's own members, bent.
BENT: dict[str, Payload] = {
    "partial of a forbidden function": lambda c: pickled(
        reduce(glob("functools", "partial"), glob("os", "system"), touch(c)), 2
    ),
    "partial of a computed function": lambda c: pickled(
        reduce(glob("functools", "partial"), reduce(glob("operator", "itemgetter"), 0)), 2
    ),
    "methods of a class overwritten by BUILD": lambda c: pickled(
        build(glob("sklearn.linear_model._logistic", "LogisticRegression"), (None, {"predict": glob("numpy", "exp")})), 2
    ),
    "the constructor of an estimator": lambda c: pickled(
        reduce(glob("sklearn.pipeline", "Pipeline"), [("a", None)]), 2
    ),
    "numpy's functions while loading": lambda c: pickled(reduce(glob("numpy", "ones_like"), 3), 2),
    "a bytes codec": lambda c: pickled(reduce(glob("_codecs", "encode"), "x", "zlib"), 2),
    "a computed codec": lambda c: pickled(
        reduce(glob("_codecs", "encode"), "x", reduce(glob("builtins", "str"), "zlib")), 2
    ),
    "_reconstructor with a base that is no built-in": lambda c: pickled(
        reduce(glob("copyreg", "_reconstructor"), glob("pandas", "Index"), glob("pandas", "Index"), None), 2
    ),
    "_reconstructor of a function": lambda c: pickled(
        reduce(glob("copyreg", "_reconstructor"), glob("numpy", "exp"), glob("builtins", "object"), None), 2
    ),
    "an array wrapper made by sklearn's newObj": lambda c: pickled(
        reduce(glob("sklearn.neighbors._kd_tree", "newObj"), glob("joblib.numpy_pickle", "NumpyArrayWrapper")), 2
    ),
    "an array wrapper made by numpy's constructor of generators": lambda c: pickled(
        reduce(glob("numpy.random._pickle", "__bit_generator_ctor"), glob("joblib.numpy_pickle", "NumpyArrayWrapper")), 2
    ),
    "getattr of an allowed class": lambda c: pickled(
        reduce(reduce(glob("builtins", "getattr"), glob("builtins", "str"), "__subclasses__")), 2
    ),
    "getattr of a computed name": lambda c: pickled(
        reduce(glob("builtins", "getattr"), glob("zoneinfo", "ZoneInfo"), reduce(glob("builtins", "str"), "x")), 2
    ),
    "getattr of an instance": lambda c: pickled(
        reduce(glob("builtins", "getattr"), reduce(glob("builtins", "str"), "x"), "format"), 2
    ),
    "a dtype that denies its objects": lambda c: pickled(
        dtype_with_state(
            "V8", 3, "|", None, ("a",), {"a": (reduce(glob("numpy", "dtype"), "O8", False, True), 0)}, 8, 1, 0
        ), 2
    ),
    "a dtype of objects without its flags": lambda c: pickled(
        dtype_with_state("O8", 3, "|", None, None, None, -1, -1, 0), 2
    ),
    "a dtype with a field outside of it": lambda c: pickled(
        dtype_with_state(
            "V8", 3, "|", None, ("a",), {"a": (reduce(glob("numpy", "dtype"), "f8", False, True), 8)}, 8, 1, 0
        ), 2
    ),
    "append to an object": lambda c: b"\x80\x02" + new(glob("pandas.core.frame", "DataFrame")).code + b"K\x01a.",
    "items of an object": lambda c: (
        b"\x80\x02" + new(glob("pandas.core.frame", "DataFrame")).code + b"K\x01K\x02s."
    ),
    "a result that is called": lambda c: pickled(reduce(reduce(glob("operator", "itemgetter"), 0), "x"), 2),
}  # fmt: skip


def assert_refused(path: Path, canary: Path, match: str | None = None) -> None:
    with pytest.raises(UnsafePickle, match=match) as caught:
        check_pickle(path, trust=False)
    assert not canary.exists()
    assert path.name in caught.value.message
    assert "trustPickle" in caught.value.hint


@pytest.mark.parametrize("kind", PLAIN)
def test_direct_payload_is_refused_and_not_run(kind: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pkl"
    path.write_bytes(PLAIN[kind](str(canary)))
    assert_refused(path, canary)


@pytest.mark.parametrize("kind", INDIRECT)
@pytest.mark.parametrize("spelling", ["GLOBAL", "STACK_GLOBAL", "INST"])
def test_indirect_payload_is_refused_by_name(kind: str, spelling: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.joblib"
    module, name = INDIRECT[kind]
    arguments = (code(str(canary)),)
    if spelling == "GLOBAL":
        content = pickled(reduce(glob(module, name), *arguments), 2)
    elif spelling == "STACK_GLOBAL":
        content = call(module, name, *arguments)
    else:
        content = b"\x80\x03(" + push(arguments[0]) + f"i{module}\n{name}\n.".encode()
    path.write_bytes(content)
    assert_refused(path, canary, match=f"{module}.{name}".replace(".", r"\."))


@pytest.mark.parametrize("kind", BENT)
def test_allowed_import_in_another_use_is_refused(kind: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pkl"
    path.write_bytes(BENT[kind](str(canary)))
    assert_refused(path, canary)


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        zlib.compress,
        bz2.compress,
        lzma.compress,
        lambda d: lzma.compress(d, lzma.FORMAT_ALONE),
    ],
    ids=["gzip", "zlib", "bz2", "xz", "lzma"],
)
def test_compressed_payload_is_refused(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.joblib"
    path.write_bytes(compress(call("os", "system", touch(str(canary)))))
    assert_refused(path, canary, match=r"imports os\.system")


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "zlib"])
def test_bytes_behind_a_compressed_stream_are_refused(
    compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(compress(pickle.dumps([1])) + compress(call("os", "system", "true")))
    with pytest.raises(LoadFailed, match="behind the compressed stream"):
        check_pickle(path, trust=False)


def test_second_stream_of_a_bz2_file_is_followed(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.joblib"
    payload = call("os", "system", touch(str(canary)))
    path.write_bytes(bz2.compress(payload[:9]) + bz2.compress(payload[9:]))
    assert_refused(path, canary, match=r"imports os\.system")


# joblib's arrays: raw bytes between opcodes, where a scan that loses its place sees another file than joblib.


def wrapper(shape: object = (4,), dtype: Raw | None = None, **fields: object) -> Raw:
    state = {
        "subclass": glob("numpy", "ndarray"),
        "shape": shape,
        "order": "C",
        "dtype": dtype or reduce(glob("numpy", "dtype"), "u1", False, True),
        "allow_mmap": True,
        **fields,
    }
    return build(new(glob("joblib.numpy_pickle", "NumpyArrayWrapper")), state)


def joblib_file(array: Raw, data: bytes, rest: bytes = b".") -> bytes:
    return b"\x80\x02" + array.code + data + rest


def dtype_with_state(code: str, *state: object) -> Raw:
    return build(reduce(glob("numpy", "dtype"), code, False, True), state)


def test_array_wrapper_of_the_tests_is_one_that_joblib_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(joblib_file(wrapper(), b"cos\n"))
    check_pickle(path, trust=False)
    assert bytes(joblib.load(path)) == b"cos\n"


JOBLIB: dict[str, Payload] = {
    "a payload behind an array": lambda c: joblib_file(wrapper(), b"xxxx", call("os", "system", touch(c))[2:]),
    "a payload in the padding's place": lambda c: joblib_file(
        wrapper(numpy_array_alignment_bytes=16), b"\x02xxyyyy", call("os", "system", touch(c))[2:]
    ),
    "an array of objects": lambda c: joblib_file(
        wrapper(dtype=dtype_with_state("O8", 3, "|", None, None, None, -1, -1, 63)),
        call("os", "system", touch(c)),
    ),
    "objects by flag": lambda c: joblib_file(
        wrapper(dtype=dtype_with_state("u1", 3, "|", None, None, None, -1, -1, 1)), call("os", "system", touch(c))
    ),
    "objects in a field": lambda c: joblib_file(
        wrapper(dtype=dtype_with_state(
            "V8", 3, "|", None, ("a",), {"a": (reduce(glob("numpy", "dtype"), "O8", False, True), 0)}, 8, 1, 27
        )),
        call("os", "system", touch(c)),
    ),
    "two item sizes": lambda c: joblib_file(
        wrapper(dtype=dtype_with_state("V4", 3, "|", None, None, None, 1, 1, 0)), b"xxxx" + b"x" * 12
    ),
    "a shape that overflows": lambda c: joblib_file(wrapper(shape=(2**31 - 1, 2**31 - 1, 2**31 - 1)), b""),
    "a negative shape": lambda c: joblib_file(wrapper(shape=(-1,)), b""),
    "a computed shape": lambda c: joblib_file(wrapper(shape=reduce(glob("builtins", "tuple"), (4,))), b"xxxx"),
    "an unknown field": lambda c: joblib_file(wrapper(extra=1), b"xxxx"),
    "a wrapper with arguments": lambda c: joblib_file(
        build(new(glob("joblib.numpy_pickle", "NumpyArrayWrapper"), 1), {"shape": (4,)}), b"xxxx"
    ),
    "an array inside a frame": lambda c: (
        b"\x80\x04\x95" + struct.pack("<Q", len(wrapper().code) + 5) + wrapper().code + b"xxxx."
    ),
    "an array of the dtype of a class": lambda c: joblib_file(
        wrapper(dtype=reduce(glob("numpy", "dtype"), glob("builtins", "object"))), b"xxxx"
    ),
    "the wrapper of old joblib, which names another file": lambda c: pickled(
        build(new(glob("joblib.numpy_pickle_compat", "NDArrayWrapper")), {"filename": c}), 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", JOBLIB)
def test_joblib_array_that_hides_something_is_refused(kind: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.joblib"
    path.write_bytes(JOBLIB[kind](str(canary)))
    assert_refused(path, canary)


def test_array_of_objects_that_joblib_wrote_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump({"a": np.array(["x", None, 3], dtype=object), "b": np.arange(3)}, path)
    check_pickle(path, trust=False)


def test_old_joblib_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(b"ZF0x00000000000000" + zlib.compress(b"x"))
    with pytest.raises(UnsafePickle, match=r"before 0\.10"):
        check_pickle(path, trust=False)


# torch's zip files.


def torch_zip(pickle_bytes: bytes, name: str = "archive/data.pkl") -> bytearray:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("archive/version", "3\n")
        zipped.writestr(name, pickle_bytes)
    return bytearray(buffer.getvalue())


def test_payload_in_a_zip_is_refused(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    path.write_bytes(torch_zip(call("os", "system", touch(str(canary)))))
    assert_refused(path, canary, match=r"imports os\.system")


def test_payload_in_a_zip_under_another_name_is_refused(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    path.write_bytes(torch_zip(call("os", "system", touch(str(canary))), "archive/notes.txt"))
    assert_refused(path, canary, match=r"imports os\.system")


@pytest.mark.parametrize("offset", [6, 14], ids=["encryption flag", "wrong CRC"])
def test_zip_that_readers_disagree_about_is_refused(offset: int, tmp_path: Path) -> None:
    # Some readers ignore the flag and the checksum in the directory, and load what a scanner could not open.
    path = tmp_path / "model.pt"
    content = torch_zip(pickle.dumps({"a": 1}))
    directory = content.rindex(b"PK\x01\x02")
    content[directory + (8 if offset == 6 else 16)] ^= 0x01
    path.write_bytes(bytes(content))
    with pytest.raises(UnsafePickle):
        check_pickle(path, trust=False)


def test_zip_with_two_entries_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    content = torch_zip(pickle.dumps(1), "archive/versioM")
    path.write_bytes(content.replace(b"archive/versioM", b"archive/version"))
    with pytest.raises(UnsafePickle, match="same name"):
        check_pickle(path, trust=False)


# What is no pickle, or not all of it.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "without its STOP"),
        (b"<!DOCTYPE html><html>", "no pickle"),
        (pickle.dumps(list(range(1000)))[:-100], "ends"),
        (pickle.dumps("x" * 5000)[:-3], "ends"),
        (gzip.compress(pickle.dumps(list(range(9999))))[:-40], "decompressed"),
        (b"\x1f\x8b garbage", "decompressed"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "no pickle"),
    ],
)
def test_file_that_is_no_pickle_says_so(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(LoadFailed, match=message):
        check_pickle(path, trust=False)


@pytest.mark.parametrize("opcode", range(256))
def test_every_opcode_on_an_empty_stack_is_an_error_of_ours(opcode: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04" + bytes([opcode]) * 3)
    with pytest.raises((LoadFailed, UnsafePickle)):
        check_pickle(path, trust=False)


def test_trusted_pickle_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(call("os", "system", "true"))
    check_pickle(path, trust=True)


def test_class_of_the_models_own_module_is_refused_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "ItemSelector.py").write_text("class ItemSelector: pass\n")
    path = tmp_path / "model.pkl"
    path.write_bytes(pickled(new(glob("ItemSelector", "ItemSelector")), 2))
    with pytest.raises(UnsafePickle, match=r"ItemSelector\.py in the model's own folder") as caught:
        check_pickle(path, trust=False)
    assert "trustPickle: true" in caught.value.hint


@pytest.mark.parametrize(
    "kind",
    [
        "os.system by GLOBAL, protocol 0",
        "__builtin__.eval under its Python 2 name",
        "INST",
        "STACK_GLOBAL from memo slots out of order",
        "an allowed value on top, the call thrown away",
        "pickle in a pickle",
    ],
)
def test_payloads_of_these_tests_run_when_they_are_loaded(kind: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pkl"
    path.write_bytes(PLAIN[kind](str(canary)))
    loading = "import sys, pickle; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", loading, str(path)], check=False, capture_output=True
    )
    assert canary.exists()
