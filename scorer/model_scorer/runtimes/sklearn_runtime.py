"""scikit-learn: an estimator or pipeline saved by joblib, pickle or skops; anything with scikit-learn's `predict`.

`output: predict_proba` in model.yaml makes the probabilities the answer; Open Inference clients may ask for either
by name.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np

from model_scorer.errors import InvalidInput, InvalidSpec, LoadFailed
from model_scorer.runtimes.mlflow_signature import (
    NOTHING_DECLARED,
    DeclaredSignature,
    read_declared_signature,
)
from model_scorer.runtimes.model_folder import ModelFolder
from model_scorer.runtimes.protocol import (
    Array,
    Call,
    Output,
    Prediction,
    Prepared,
    RowsInput,
    RuntimeInfo,
    Signature,
    TensorsInput,
    TensorSpec,
    split_rows,
    stack_rows,
)
from model_scorer.runtimes.rows import parse_matrix
from model_scorer.runtimes.sklearn_declared import complete_shape, declared_answer
from model_scorer.runtimes.sklearn_file import SUFFIXES, limit_jobs, read_estimator
from model_scorer.runtimes.sklearn_input import blame_input, parse_input
from model_scorer.runtimes.sklearn_inspect import EstimatorShape, inspect_estimator
from model_scorer.runtimes.sklearn_linear import compile_linear
from model_scorer.runtimes.tensors import datatype_of
from model_scorer.settings import Settings

log = logging.getLogger(__name__)

METHODS = ("predict", "predict_proba")
# Requests of more rows are made arrays one by one: their bytes, not the calls, are what takes time.
MAX_JOINED_ROWS = 8


def load_in_worker(settings: Settings) -> bool:
    """Estimators are plain memory: one load is shared by all workers."""
    return False


def load(folder: ModelFolder, settings: Settings) -> SklearnRuntime:
    """Load the estimator, after its pickle was checked.

    Raises:
        LoadFailed: the file holds no fitted estimator.
        UnsafePickle, VersionMismatch: see `model_scorer.verify`.
        InvalidSpec: model.yaml asks for an output that the estimator has not.
    """
    path = folder.find_model_file(SUFFIXES)
    # Classes of the model's own lie beside it.
    if str(folder.path) not in sys.path:
        sys.path.insert(0, str(folder.path))
    estimator = read_estimator(path, trust=settings.trust_pickle)
    if not callable(getattr(estimator, "predict", None)):
        raise LoadFailed(
            f"{path.name} holds a {type(estimator).__name__}, which has no predict method",
            "save the fitted estimator or pipeline itself",
        )
    answer = folder.config.get("output", "predict")
    if answer not in METHODS:
        raise InvalidSpec(
            f"model.yaml: output must be predict or predict_proba, got {answer!r}",
            "correct `output` in model.yaml",
        )
    if not hasattr(estimator, answer):
        raise InvalidSpec(
            f"model.yaml asks for output {answer}, which {type(estimator).__name__} has not",
            "use `output: predict`, or train with probabilities",
        )
    return SklearnRuntime(estimator, answer, read_declared_signature(folder.path))


class SklearnRuntime:
    """A loaded estimator.

    Args:
        estimator: fitted, with `predict`.
        answer: the method whose result dialects without output names show.
        declared: what an `MLmodel` file beside it says of inputs and outputs.
    """

    def __init__(
        self, estimator: Any, answer: str, declared: DeclaredSignature = NOTHING_DECLARED
    ) -> None:
        from sklearn import set_config

        # Parameters were validated when the model was trained: 12 % of a one-row predict.
        set_config(skip_parameter_validation=True)
        limit_jobs(estimator)
        self._estimator = estimator
        self._answer = answer
        self._methods = {m: getattr(estimator, m) for m in METHODS if hasattr(estimator, m)}
        self._shape: EstimatorShape = complete_shape(inspect_estimator(estimator), declared)
        # Rows of few numbers are validated and joined once for the whole batch.
        self._joins_rows = self._shape.all_numbers
        self._linear = compile_linear(estimator) if self._shape.all_numbers else None
        self._rows_group = ((answer,), "d", (self._shape.width,))
        # Float matrices of requests that ask for the answer alone, by the character of their dtype.
        self._float_groups = {c: ((answer,), c, (self._shape.width,)) for c in "df"}
        # With one column, a tensor may be named after it and have another shape.
        self._takes_matrices = self._joins_rows and len(self._shape.columns) != 1
        self._answer_only = (answer,)
        self.info = RuntimeInfo(
            framework="sklearn",
            version=metadata.version("scikit-learn"),
            platform="sklearn",
            takes_rows=self._joins_rows,
        )
        self.signature = Signature(
            inputs=self._input_specs(),
            outputs=tuple(
                declared_answer(declared, m) if m == "predict" else TensorSpec(m, "FP64", (-1,))
                for m in self._order()
            ),
            columns=self._shape.columns,
            row_width=self._shape.width,
            classes=self._shape.classes,
            optional=self._shape.optional,
            times=frozenset(n for n, kind in self._shape.kinds.items() if kind == "time"),
        )

    def _order(self) -> list[str]:
        return [self._answer, *(m for m in self._methods if m != self._answer)]

    def _input_specs(self) -> tuple[TensorSpec, ...]:
        shape = self._shape
        if shape.texts:
            return (TensorSpec(shape.input_name, "BYTES", (-1,)),)
        if shape.columns and not shape.all_numbers:
            return tuple(
                TensorSpec(
                    name,
                    shape.datatypes.get(name) or ("BYTES" if kind == "text" else "FP64"),
                    (-1,),
                )
                for name, kind in ((name, shape.kinds[name]) for name in shape.columns)
            )
        return (TensorSpec(shape.input_name, "FP64", (-1, shape.width or -1)),)

    # ------------------------------------------------------------------------------------------------ validation

    def prepare(self, call: Call) -> Prepared:
        """Check rows, columns and types against what the estimator was fitted with."""
        given = call.input
        if self._joins_rows and not call.outputs and type(given) is RowsInput:
            rows = given.rows
            width = self._shape.width
            if rows and len(rows) <= MAX_JOINED_ROWS:
                for row in rows:
                    if type(row) is not list or len(row) != width:
                        break
                else:
                    # Values are looked at when all rows of the batch are.
                    return Prepared((self._answer_only, rows), len(rows), self._rows_group)
        elif self._takes_matrices and not call.outputs and type(given) is TensorsInput:
            tensors = given.tensors
            if len(tensors) == 1:
                (array,) = tensors.values()
                group = self._float_groups.get(array.dtype.char)
                if (
                    group is not None
                    and array.ndim == 2
                    and array.shape[1] == self._shape.width
                    and array.shape[0]
                ):
                    return Prepared((self._answer_only, array), array.shape[0], group)
        methods = call.outputs or (self._answer,)
        if call.outputs:
            for name in methods:
                if name not in self._methods:
                    raise InvalidInput(
                        f"the model has no output {name!r}; it has {', '.join(self._order())}"
                    )
        value = parse_input(call.input, self._shape)
        if isinstance(value, dict):
            kinds = tuple((name, array.dtype.char) for name, array in value.items())
            return Prepared((methods, value), len(next(iter(value.values()))), (methods, kinds))
        return Prepared((methods, value), len(value), (methods, value.dtype.char, value.shape[1:]))

    # ------------------------------------------------------------------------------------------------- execution

    def execute(self, batch: Sequence[Prepared]) -> Sequence[Output | Exception]:
        """One call of the estimator for all rows of the batch; requests that it cannot take fail alone."""
        parts = [item.payload[1] for item in batch]
        try:
            return self._execute(batch, parts)
        except InvalidInput as err:
            if len(batch) == 1:
                return [err]
            return self._execute_without_guilty(batch, parts, err)

    def _execute(self, batch: Sequence[Prepared], parts: list[Any]) -> list[Output | Exception]:
        methods = batch[0].payload[0]
        merged: Any
        if isinstance(parts[0], dict):
            merged = {name: stack_rows([part[name] for part in parts]) for name in parts[0]}
        elif self._joins_rows:
            merged = self._join(parts)
        else:
            merged = stack_rows(parts)
        results = self._predict_at_once(methods, merged)
        if results is None:
            results = self._predict(methods, merged)
        if len(batch) == 1:
            return [Prediction(results)]
        if len(methods) == 1:
            array = results[methods[0]]
            if array.ndim == 1 and array.dtype.kind in "iub" and len(array) == len(batch):
                # One small answer each, and all of them as Python values in one step.
                name = methods[0]
                return [
                    Prediction({name: array[i : i + 1]}, [value])
                    for i, value in enumerate(array.tolist())
                ]
        sizes = [item.rows for item in batch]
        pieces = {name: split_rows(array, sizes) for name, array in results.items()}
        return [
            Prediction({name: pieces[name][index] for name in methods})
            for index in range(len(batch))
        ]

    def _execute_without_guilty(
        self, batch: Sequence[Prepared], parts: list[Any], error: InvalidInput
    ) -> list[Output | Exception]:
        """Find who made a batch fail, and score the others together: one bad request costs them one call, not each."""
        outcomes: list[Output | Exception] = []
        good: list[int] = []
        for index, part in enumerate(parts):
            try:
                parts[index] = checked = self._join([part]) if type(part) is list else part
                blamed = blame_input(checked, error, self._shape.columns)
            except InvalidInput as err:
                blamed = err
            outcomes.append(blamed or error)
            if blamed is None:
                good.append(index)
        if good and len(good) < len(batch):
            scored = self._execute([batch[i] for i in good], [parts[i] for i in good])
            for index, outcome in zip(good, scored, strict=True):
                outcomes[index] = outcome
            return outcomes
        raise error

    def _join(self, parts: list[Any]) -> Array:
        """All rows of a batch as one matrix; lists of lists are validated on the way."""
        width = self._shape.width
        if all([type(part) is list for part in parts]):
            rows = parts[0] if len(parts) == 1 else [row for part in parts for row in part]
            try:
                array = np.array(rows)
            except (ValueError, OverflowError):
                array = None
            # Mixed with a text, a list or a number beyond 64 bits, it would be no matrix of floats. Integers and
            # truth values convert to the same floats here as they would alone.
            if array is not None and array.shape == (len(rows), width):
                if array.dtype == np.float64:
                    return array
                if array.dtype.kind in "iu":
                    return array.astype(np.float64)
        return stack_rows(
            [
                parse_matrix(part, width, self._shape.columns) if type(part) is list else part
                for part in parts
            ]
        )

    def _predict_at_once(self, methods: tuple[str, ...], merged: Any) -> dict[str, Array] | None:
        if (
            self._linear is None
            or methods != ("predict",)
            or merged.dtype.char not in "df"
            or not merged.flags.c_contiguous
        ):
            return None
        with np.errstate(all="ignore"):
            array = self._linear(merged)
        return None if array is None else {"predict": array}

    def _predict(
        self, methods: tuple[str, ...], merged: Array | dict[str, Array]
    ) -> dict[str, Array]:
        model_input = self._model_input(merged)
        try:
            # Values beyond float32 are told to the client by `blame_input`, not to the log.
            with np.errstate(over="ignore"):
                return {name: _as_array(self._methods[name](model_input)) for name in methods}
        except ValueError as err:
            blamed = blame_input(merged, err, self._shape.columns)
            if blamed is not None:
                raise blamed from err
            raise

    def _model_input(self, merged: Array | dict[str, Array]) -> Any:
        shape = self._shape
        if isinstance(merged, dict) or shape.frame:
            import pandas as pd

            if not isinstance(merged, dict):
                return pd.DataFrame(merged, columns=shape.columns)
            table = pd.DataFrame(merged)
            # Fitted with an array: the names are the MLmodel file's, and for clients alone.
            by_position = bool(shape.columns) and not shape.frame
            return table.to_numpy(dtype=object) if by_position else table
        if merged.dtype == object:
            return merged.tolist()
        return merged

    def warm_up(self) -> Prepared | None:
        """Score made-up rows once, which also tells the outputs' types and shapes."""
        try:
            prepared = self.prepare(Call(self._made_up_row()))
            outputs = []
            for name in self._order():
                given = prepared.payload[1]
                rows = self._join([given]) if isinstance(given, list) else given
                array = _as_array(self._methods[name](self._model_input(rows)))
                outputs.append(TensorSpec(name, datatype_of(array), (-1, *array.shape[1:])))
        except Exception:
            log.info("the made-up row for the warm-up was refused by the model", exc_info=True)
            return None
        self.signature = replace(self.signature, outputs=tuple(outputs))
        return prepared

    def _made_up_row(self) -> RowsInput:
        shape = self._shape
        if shape.texts:
            return RowsInput(["a text for the warm-up"])
        if shape.columns:
            values = {None: 0.0, "text": "a", "time": "2000-01-01T00:00:00"}
            return RowsInput(
                [{name: values.get(shape.kinds.get(name), 0.0) for name in shape.columns}]
            )
        return RowsInput([[0.0] * (shape.width or 1)])

    def close(self) -> None:
        """Nothing to release."""


def _as_array(result: Any) -> Array:
    """What an estimator returned, as one array: multi-output probabilities come as a list of equal shapes."""
    if isinstance(result, list) and result and isinstance(result[0], np.ndarray):
        return np.stack(result, axis=1)
    if hasattr(result, "toarray"):
        result = result.toarray()
    array = np.asarray(result)
    if array.ndim == 0:
        raise ValueError("the model returned a single value for a batch of rows")
    return array
