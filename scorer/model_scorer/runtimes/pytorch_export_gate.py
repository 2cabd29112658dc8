"""What is inside a `torch.export` archive, looked at before torch reads it.

`torch.export.load` is no safe reader: it evaluates expressions, resolves operators by dotted names from the `torch` module
(`torch.os.system` is one), writes names into generated Python source, unpickles what it is told to, and starts native code
that lies in the archive. A program that torch exported needs none of it: its operators are ATen's, its expressions are
arithmetic of sizes, its names are identifiers. Everything else is refused here.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import torch

from model_scorer.errors import LoadFailed, UnsafePickle

_WAY_OUT = (
    "if you trust whoever made the file, set spec.trustPickle: true; otherwise export plain tensors and ATen operators, or "
    "save the weights as .safetensors"
)
# The archive's layout (torch/csrc/export/pt2_archive_constants.h), behind the one folder that everything lies in; the
# names without a folder are those of torch 2.7 and before.
_PROGRAM = re.compile(r"([^/]+/)?(models/.*|serialized_exported_program\.json)")
_TENSORS_BY_TORCH = re.compile(
    r"([^/]+/)?(data/sample_inputs/.*|data/(weights|constants)/[^/]*\.pt"
    r"|serialized_(state_dict|constants)\.(pt|json)|serialized_example_inputs\.pt)"
)
_PAYLOADS = re.compile(r"([^/]+/)?data/(weights|constants)/[^/]*_config\.json")
_PLAIN = re.compile(
    r"([^/]+/)?(data/weights/weight_\d+|data/constants/tensor_\d+|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id)|\.format_version|\.storage_alignment|extra(_files)?/.*)"
)

_NAMESPACES = "aten|prims|quantized|quantized_decomposed|torchvision|mkldnn|onednn"
# ATen's operators that read or write files.
_FILE_OPERATORS = "from_file|save|load"
_OPERATOR = re.compile(
    rf"torch\.ops\.({_NAMESPACES})\.(?!({_FILE_OPERATORS})\b)\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\._?sym_\w+|math\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|lshift|rshift|getitem)"
)
_IDENTIFIERS = re.compile(r"[\w.:\- ]*")
_SYMBOL = re.compile(r"[a-z]{1,6}\d+")
_FUNCTIONS = (
    "Symbol Integer Float Rational Add Mul Pow Max Min Abs Eq Ne Lt Le Gt Ge And Or Not FloorDiv ModularIndexing Where "
    "PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv "
    "TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Identity floor ceiling"
)
_EXPRESSION_NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Load, ast.keyword),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
# Values that torch hands on as data (written with `repr` where they get into source), and notes that it only keeps.
_DATA_KEYS = frozenset({"as_string", "as_strings", "metadata", "torch_version", "guards_code"})
# The records at a zip file's end (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.14 to 4.3.16).
_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def check_export(path: Path, *, trust: bool) -> None:
    """Make sure that loading a torch.export archive runs nothing but the network's own operators.

    Whoever loads it must not have torch compile the archive's guards (`program.module(check_guards=False)`).

    Args:
        path: the archive.
        trust: whoever deployed the model vouches for it: nothing is checked.

    Raises:
        UnsafePickle: it holds something that is code, or could be.
        LoadFailed: no archive, or a broken one.
    """
    if trust:
        return
    try:
        _check_ends(path)
        with zipfile.ZipFile(path) as archive:
            _Gate(path.name).check(archive)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as err:
        raise LoadFailed(
            f"{path.name} is truncated or no torch.export archive: {err}",
            "upload it again; sha256 in the spec tells a broken upload at once",
        ) from err


def _check_ends(path: Path) -> None:
    """Make sure that Python's reader of zip files and torch's find the same entries in the same places.

    Python looks for the list of entries behind bytes that are none, and moves all places by as much; torch does not.
    """
    with path.open("rb") as file:
        head = file.read(4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END.size - _LOCATOR_64.size - _END_64.size))
        tail = file.read()
    if head != b"PK\x03\x04" or len(tail) < _END.size:
        raise zipfile.BadZipFile("it does not begin as a zip file")
    end = _END.unpack(tail[-_END.size :])
    if end[0] != b"PK\x05\x06" or end[7]:
        raise zipfile.BadZipFile("it does not end as a zip file")
    begins, length, start = size - _END.size, end[5], end[6]
    locator = tail[: -_END.size][-_LOCATOR_64.size :]
    if locator[:4] == b"PK\x06\x07":
        begins -= _LOCATOR_64.size + _END_64.size
        end_64 = _END_64.unpack(tail[: _END_64.size])
        if end_64[0] != b"PK\x06\x06" or _LOCATOR_64.unpack(locator)[2] != begins:
            raise zipfile.BadZipFile("its list of entries is not at its end")
        length, start = end_64[8], end_64[9]
    if start + length != begins:
        raise zipfile.BadZipFile("its list of entries is not at its end")


class _Gate:
    """Looks at every member of an archive; see `check_export`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def refuse(self, what: str) -> NoReturn:
        raise UnsafePickle(f"{self._name} {what}; it was not loaded", _WAY_OUT)

    def check(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        if len(set(names)) != len(names):
            self.refuse("has two entries of the same name")
        for name in names:
            # In this order: what torch would read as code or unpickle wins over what it would take for numbers.
            if _PROGRAM.fullmatch(name):
                self._check_program(self._json(archive, name))
            elif _TENSORS_BY_TORCH.fullmatch(name):
                self._check_tensors(name, archive.read(name))
            elif _PAYLOADS.fullmatch(name):
                self._check_payloads(self._json(archive, name))
            elif not _PLAIN.fullmatch(name):
                self.refuse(f"holds {name[:100]!r}, which is no part of an exported program")

    def _json(self, archive: zipfile.ZipFile, name: str) -> Any:
        try:
            return json.loads(archive.read(name))
        except (ValueError, RecursionError):
            self.refuse(f"holds {name[:100]!r}, which is not JSON")

    def _check_tensors(self, name: str, data: bytes) -> None:
        """Torch tries the restricted unpickler first, and the unrestricted one when it fails: it must not fail."""
        if not data:
            return
        try:
            torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception:
            self.refuse(f"holds {name[:100]!r}, which is more than tensors and would be unpickled")

    def _check_payloads(self, document: Any) -> None:
        payloads = document.get("config") if isinstance(document, dict) else None
        if not isinstance(payloads, dict):
            self.refuse("has a list of tensors that is none")
        for key, payload in payloads.items():
            path = payload.get("path_name") if isinstance(payload, dict) else None
            if payload.get("use_pickle") is not False or not re.fullmatch(
                r"(weight|tensor)_\d+", str(path)
            ):
                self.refuse(f"stores {key[:100]!r} as an object, which would be unpickled")

    def _check_program(self, value: Any, key: str = "") -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                if not _IDENTIFIERS.fullmatch(name):
                    self.refuse(f"has the name {name[:100]!r}, which is none")
                if name not in _DATA_KEYS:
                    self._check_program(item, name)
        elif isinstance(value, list):
            for item in value:
                self._check_program(item, key)
        elif isinstance(value, str):
            self._check_text(value, key)

    def _check_text(self, text: str, key: str) -> None:
        if key in ("target", "as_operator"):
            if not _OPERATOR.fullmatch(text):
                self.refuse(f"calls {text[:100]!r}, which is no operator that networks need")
        elif key == "expr_str":
            self._check_expression(text)
        elif key in ("in_spec", "out_spec") and text:
            self._check_tree(text)
        elif not _IDENTIFIERS.fullmatch(text):
            self.refuse(f"has {text[:100]!r} where {key!r} should be a name")

    def _check_expression(self, text: str) -> None:
        """Arithmetic of numbers and sizes: sympy would evaluate anything else as Python too."""
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError):
            self.refuse(f"has the expression {text[:100]!r}, which is no arithmetic")
        functions = _FUNCTIONS.split()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                fine = isinstance(node.func, ast.Name) and node.func.id in functions
            elif isinstance(node, ast.Name):
                fine = node.id in functions or _SYMBOL.fullmatch(node.id) is not None
            elif isinstance(node, ast.Constant):
                fine = isinstance(node.value, int | float) or (
                    isinstance(node.value, str) and _SYMBOL.fullmatch(node.value) is not None
                )
            else:
                fine = isinstance(node, _EXPRESSION_NODES)
            if not fine:
                self.refuse(f"has the expression {text[:100]!r}, which is no arithmetic")

    def _check_tree(self, text: str) -> None:
        """How inputs and outputs are nested: tuples, lists and dicts; other types would be imported by name."""
        try:
            document = json.loads(text)
            todo = [document[1]]
            while todo:
                node = todo.pop()
                context = json.loads(node["context"]) if node["context"] is not None else None
                keys = context if isinstance(context, list) else []
                fine = node["type"] in _TREE_TYPES and (context is None or context == keys)
                if not fine or not all(isinstance(item, str | int) for item in keys):
                    self.refuse(f"takes or gives a {str(node['type'])[:100]}, which is no tuple")
                todo += node["children_spec"]
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            self.refuse("has a description of its inputs that cannot be followed")
