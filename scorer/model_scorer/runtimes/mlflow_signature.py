"""The signature in an `MLmodel` file: what a model's author declared that it takes and gives. Pure but for the one file.

https://mlflow.org/docs/latest/ml/model/signatures/

It only adds to what the model says of itself, so a signature that cannot be read never keeps a model from loading: the log
says why it is left out.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model_scorer.runtimes.tensors import DTYPES, datatype_of_dtype

log = logging.getLogger(__name__)

FILE_NAME = "MLmodel"
_MAX_BYTES = 4 << 20

# MLflow's column types: the kind of column (see `parse_column`), and its name in the Open Inference Protocol.
_COLUMN_TYPES = {
    "boolean": ("boolean", "BOOL"),
    "integer": ("integer", "INT32"),
    "long": ("integer", "INT64"),
    "float": ("number", "FP32"),
    "double": ("number", "FP64"),
    "string": ("text", "BYTES"),
    "datetime": ("time", "BYTES"),
}


@dataclass(frozen=True, slots=True)
class DeclaredField:
    """One input or output.

    Attributes:
        name: may be empty: only tables and mappings have names.
        kind: `number`, `integer`, `boolean`, `text` or `time`.
        datatype: of the Open Inference Protocol.
        shape: axis 0 is the batch; `(-1,)` of a column.
        required: whether a request must have it.
        is_tensor: an array, not a column of a table.
    """

    name: str
    kind: str
    datatype: str
    shape: tuple[int, ...] = (-1,)
    required: bool = True
    is_tensor: bool = False


@dataclass(frozen=True, slots=True)
class DeclaredSignature:
    """What stands in the file.

    Attributes:
        inputs: empty when none is declared.
        outputs: the same.
    """

    inputs: tuple[DeclaredField, ...] = ()
    outputs: tuple[DeclaredField, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether the input is a table with named columns."""
        return bool(self.inputs) and all(f.name and not f.is_tensor for f in self.inputs)

    @property
    def only_input(self) -> DeclaredField | None:
        """The input when there is one."""
        return self.inputs[0] if len(self.inputs) == 1 else None


NOTHING_DECLARED = DeclaredSignature()


def read_declared_signature(folder: Path) -> DeclaredSignature:
    """Read the signature beside a model.

    Args:
        folder: the model folder.

    Returns:
        An empty one where there is none, or where it cannot be used; the log says why.
    """
    path = folder / FILE_NAME
    try:
        if not path.is_file():
            return NOTHING_DECLARED
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"the file is larger than {_MAX_BYTES >> 20} MiB")
        # Not libyaml's loader, though it is faster: deep nesting ends the process there.
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return parse_signature(content.get("signature") if isinstance(content, dict) else None)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as err:
        log.warning("the signature in %s is not used: %s", FILE_NAME, str(err)[:300] or type(err))
        return NOTHING_DECLARED


def parse_signature(value: Any) -> DeclaredSignature:
    """Parse the value under `signature`; a part that is null is empty.

    Raises:
        ValueError: it is malformed, or has types that no table or tensor of plain values has.
    """
    if value is None:
        return NOTHING_DECLARED
    if not isinstance(value, dict):
        raise ValueError("`signature` is no mapping")
    return DeclaredSignature(
        _parse_fields(value.get("inputs"), "inputs"), _parse_fields(value.get("outputs"), "outputs")
    )


def _parse_fields(text: Any, part: str) -> tuple[DeclaredField, ...]:
    if text is None:
        return ()
    try:
        # MLflow writes JSON within YAML; by hand one would write the list itself.
        fields = json.loads(text) if isinstance(text, str) else text
    except ValueError as err:
        raise ValueError(f"`{part}` is no JSON: {err}") from err
    if not isinstance(fields, list):
        raise ValueError(f"`{part}` is no list")
    parsed = tuple(_parse_field(field, f"{part}[{i}]") for i, field in enumerate(fields))
    names = [field.name for field in parsed]
    if len(parsed) > 1 and (len(set(names)) < len(names) or not all(names)):
        raise ValueError(f"`{part}` has names twice, or none")
    return parsed


def _parse_field(field: Any, place: str) -> DeclaredField:
    if not isinstance(field, dict):
        raise ValueError(f"`{place}` is no mapping")
    name, kind, required = field.get("name"), field.get("type"), field.get("required", True)
    if not (name is None or isinstance(name, str | int)) or not isinstance(required, bool):
        raise ValueError(f"`{place}` has a name or `required` of the wrong type")
    # Before MLflow 2.6, `required: false` was written so.
    required = required and field.get("optional") is not True
    label = "" if name is None else str(name)
    if kind == "tensor":
        return _parse_tensor(field.get("tensor-spec"), label, required, place)
    if not isinstance(kind, str) or kind not in _COLUMN_TYPES:
        raise ValueError(f"`{place}` is of type {str(kind)[:40]}, which is none of a plain value")
    column_kind, datatype = _COLUMN_TYPES[kind]
    return DeclaredField(label, column_kind, datatype, required=required)


def _parse_tensor(spec: Any, name: str, required: bool, place: str) -> DeclaredField:
    dtype = spec.get("dtype") if isinstance(spec, dict) else None
    shape = spec.get("shape") if isinstance(spec, dict) else None
    if (
        not isinstance(dtype, str)
        or not isinstance(shape, list)
        or not shape
        or not all(type(side) is int and side >= -1 for side in shape)
    ):
        raise ValueError(f"`{place}` has no `tensor-spec` of a dtype and a shape")
    datatype = datatype_of_dtype(dtype)
    if datatype is None:
        raise ValueError(f"`{place}` is of dtype {dtype[:40]}, which is none of a plain value")
    kind = "text" if datatype == "BYTES" else "boolean" if datatype == "BOOL" else "number"
    if datatype in DTYPES and DTYPES[datatype].kind in "iu":
        kind = "integer"
    return DeclaredField(name, kind, datatype, (-1, *shape[1:]), required, is_tensor=True)
