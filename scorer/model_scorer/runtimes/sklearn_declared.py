"""What an estimator says of its input, and what its `MLmodel` file declares: together. Pure.

The estimator computes, so it is right: a declaration fills in what it leaves open, and one that contradicts it is left out
with a line in the log.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from model_scorer.runtimes.mlflow_signature import DeclaredField, DeclaredSignature
from model_scorer.runtimes.protocol import TensorSpec
from model_scorer.runtimes.sklearn_inspect import EstimatorShape

log = logging.getLogger(__name__)

_NUMERIC = ("number", "integer", "boolean")


def complete_shape(shape: EstimatorShape, declared: DeclaredSignature) -> EstimatorShape:
    """Fill in names, kinds and counts that the estimator does not know.

    Args:
        shape: read from the estimator.
        declared: of the `MLmodel` file, or empty.

    Returns:
        The same shape where nothing was declared, or something that does not fit.
    """
    if not declared.inputs:
        return shape
    contradiction = _find_contradiction(shape, declared)
    if contradiction:
        log.warning("the signature in MLmodel is not used: %s", contradiction)
        return shape
    only = declared.only_input
    if shape.texts:
        return replace(shape, input_name=(only.name if only else "") or shape.input_name)
    if declared.is_table:
        return _with_columns(shape, declared.inputs)
    if only is None:
        log.info("the signature in MLmodel has several tensors, which no estimator takes")
        return shape
    if only.kind == "text" and len(only.shape) == 1:
        known = shape.columns or shape.width is not None
        return shape if known else replace(shape, texts=True, input_name=only.name or "X")
    width = only.shape[1] if len(only.shape) == 2 else -1
    if shape.width is None and width > 0 and only.kind in _NUMERIC:
        return replace(shape, width=width, input_name=only.name or "X")
    return shape


def declared_answer(declared: DeclaredSignature, name: str) -> TensorSpec:
    """What `predict` answers as far as it is declared, for models that refuse the row that the warm-up makes up.

    Args:
        declared: of the `MLmodel` file, or empty.
        name: the output's.
    """
    outputs = declared.outputs
    if len(outputs) == 1:
        return TensorSpec(name, outputs[0].datatype, outputs[0].shape)
    if outputs and len({(field.datatype, field.shape) for field in outputs}) == 1:
        return TensorSpec(name, outputs[0].datatype, (-1, len(outputs)))
    return TensorSpec(name, "FP64", (-1,))


def _find_contradiction(shape: EstimatorShape, declared: DeclaredSignature) -> str:
    fields = declared.inputs
    only = declared.only_input
    if shape.texts:
        fits = only is not None and only.kind == "text" and len(only.shape) == 1
        return "" if fits else "the estimator takes texts"
    if declared.is_table:
        names = {field.name for field in fields}
        if shape.columns and names != set(shape.columns):
            other = sorted(names ^ set(shape.columns))[0]
            return f"the estimator was fitted with other columns (see {other[:60]!r})"
        if shape.width is not None and len(fields) != shape.width:
            return f"it has {len(fields)} columns, the estimator takes {shape.width}"
        for field in fields:
            own = shape.kinds.get(field.name)
            if own is not None and (own == "number") != (field.kind in _NUMERIC):
                return f"column {field.name[:60]!r} is declared {field.kind}, the estimator takes {own}"
        return ""
    width = only.shape[1] if only is not None and len(only.shape) == 2 else -1
    if shape.width is not None and width not in (-1, shape.width):
        return f"it has {width} values in a row, the estimator takes {shape.width}"
    return ""


def _with_columns(shape: EstimatorShape, fields: tuple[DeclaredField, ...]) -> EstimatorShape:
    by_name = {field.name: field for field in fields}
    columns = shape.columns or tuple(by_name)
    kinds: dict[str, str | None] = {
        name: shape.kinds.get(name) or by_name[name].kind for name in columns
    }
    fitted_with_array = not shape.columns and shape.width is not None
    if fitted_with_array and all(kind in _NUMERIC for kind in kinds.values()):
        # Numbers arrive as one matrix of floats, whatever they were in the author's table.
        kinds = dict.fromkeys(columns, "number")
    return replace(
        shape,
        width=len(columns),
        columns=columns,
        kinds=kinds,
        # Where the estimator knows nothing it was given what MLflow gives it: a table.
        frame=shape.frame or shape.width is None,
        optional=frozenset(field.name for field in fields if not field.required),
        datatypes={field.name: field.datatype for field in fields},
    )
