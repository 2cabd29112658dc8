"""scikit-learn: an estimator or pipeline saved by joblib, pickle or skops; anything with scikit-learn's `predict`.

`output: predict_proba` in model.yaml makes the probabilities the answer; Open Inference clients may ask for either
by name.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from model_scorer.errors import InvalidInput, InvalidSpec, LoadFailed, UnsafePickle
from model_scorer.runtimes.model_folder import ModelFolder
from model_scorer.runtimes.protocol import (
    Array,
    BlobsInput,
    Call,
    Input,
    Output,
    Prediction,
    Prepared,
    RowsInput,
    RuntimeInfo,
    Signature,
    TableInput,
    TensorsInput,
    TensorSpec,
    TextInput,
    split_rows,
    stack_rows,
)
from model_scorer.runtimes.rows import (
    check_rows,
    order_by_columns,
    parse_column,
    parse_matrix,
    parse_texts,
    show,
    wrong_width,
)
from model_scorer.runtimes.sklearn_inspect import EstimatorShape, inspect_estimator
from model_scorer.runtimes.sklearn_linear import compile_linear
from model_scorer.runtimes.tensors import datatype_of
from model_scorer.settings import Settings

log = logging.getLogger(__name__)

SUFFIXES = (".joblib", ".pkl", ".pickle", ".skops")
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
    estimator = _read_estimator(path, trust=settings.trust_pickle)
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
    return SklearnRuntime(estimator, answer)


def _read_estimator(path: Path, *, trust: bool) -> Any:
    # Imported here, so that importing this module for its names costs nothing more.
    from model_scorer import verify

    if path.suffix == ".skops" or _is_zip(path):
        import skops.io

        untrusted = skops.io.get_untrusted_types(file=path)
        if untrusted and not trust:
            raise UnsafePickle(
                f"{path.name} holds types outside the allow-list: {', '.join(untrusted[:10])}",
                "if you trust the model's author, set SCORER_TRUST_PICKLE to true",
            )
        verify.check_versions(path, "sklearn")
        return skops.io.load(path, trusted=untrusted)
    verify.check_pickle(path, trust=trust)
    verify.check_versions(path, "sklearn")
    import joblib

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = joblib.load(path)
        except AttributeError as err:
            raise LoadFailed(
                f"{path.name} refers to a class or function that is not there: {err}",
                "put the module that defines it into the model folder, and train with it imported from there",
            ) from err
    for warning in caught:
        log.warning("%s", warning.message)
    return estimator


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


class SklearnRuntime:
    """A loaded estimator.

    Args:
        estimator: fitted, with `predict`.
        answer: the method whose result dialects without output names show.
    """

    def __init__(self, estimator: Any, answer: str) -> None:
        from sklearn import set_config

        # Parameters were validated when the model was trained: 12 % of a one-row predict.
        set_config(skip_parameter_validation=True)
        limit_jobs(estimator)
        self._estimator = estimator
        self._answer = answer
        self._methods = {m: getattr(estimator, m) for m in METHODS if hasattr(estimator, m)}
        self._shape: EstimatorShape = inspect_estimator(estimator)
        self._input_name = "X"
        self._columns_known = bool(self._shape.columns)
        # Rows of few numbers are validated and joined once for the whole batch.
        self._joins_rows = self._shape.all_numbers
        self._linear = compile_linear(estimator) if self._shape.all_numbers else None
        self._rows_group = ((answer,), "d", (self._shape.width,))
        self._answer_only = (answer,)
        self.info = RuntimeInfo(
            framework="sklearn", version=metadata.version("scikit-learn"), platform="sklearn"
        )
        self.signature = Signature(
            inputs=self._input_specs(),
            outputs=tuple(TensorSpec(m, "FP64", (-1,)) for m in self._order()),
            columns=self._shape.columns,
            row_width=self._shape.width,
        )

    def _order(self) -> list[str]:
        return [self._answer, *(m for m in self._methods if m != self._answer)]

    def _input_specs(self) -> tuple[TensorSpec, ...]:
        shape = self._shape
        if shape.texts:
            return (TensorSpec(self._input_name, "BYTES", (-1,)),)
        if shape.columns and not shape.all_numbers:
            kinds = {"text": "BYTES"}
            return tuple(
                TensorSpec(name, kinds.get(shape.kinds[name] or "", "FP64"), (-1,))
                for name in shape.columns
            )
        return (TensorSpec(self._input_name, "FP64", (-1, shape.width or -1)),)

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
        methods = call.outputs or (self._answer,)
        if call.outputs:
            for name in methods:
                if name not in self._methods:
                    raise InvalidInput(
                        f"the model has no output {name!r}; it has {', '.join(self._order())}"
                    )
        value = self._parse(call.input)
        if isinstance(value, dict):
            group = tuple((name, array.dtype.char) for name, array in value.items())
            return Prepared((methods, value), len(next(iter(value.values()))), (methods, group))
        return Prepared((methods, value), len(value), (methods, value.dtype.char, value.shape[1:]))

    def _parse(self, given: Input) -> Array | dict[str, Array]:
        """One array for models of a matrix or of texts, one for each column for tables."""
        shape = self._shape
        if isinstance(given, RowsInput):
            rows = given.rows
            if rows and isinstance(rows[0], dict):
                return self._parse_records(rows)
            if shape.texts or (shape.width is None and rows and isinstance(rows[0], str)):
                return parse_texts(rows)
            if shape.all_numbers:
                return parse_matrix(rows, shape.width, shape.columns)
            check_rows(rows, shape.width, shape.columns, numbers=False)
            return self._columns_of(shape.columns, rows)
        if isinstance(given, TableInput):
            check_rows(given.rows, len(given.columns), given.columns, numbers=False)
            return self._parse_records(
                [dict(zip(given.columns, row, strict=True)) for row in given.rows]
            )
        if isinstance(given, TensorsInput):
            return self._parse_tensors(given.tensors)
        if isinstance(given, TextInput):
            raise InvalidInput("expected rows, got a text")
        assert isinstance(given, BlobsInput)
        raise InvalidInput("expected rows, got a file")

    def _parse_records(self, rows: Sequence[Any]) -> Array | dict[str, Array]:
        columns = self._shape.columns
        if not columns:
            if self._shape.width is not None:
                raise InvalidInput(
                    f"the model has no column names; send each row as a list of {self._shape.width} numbers"
                )
            columns = tuple(rows[0]) if isinstance(rows[0], dict) else ()
        values = []
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise InvalidInput(f"row {index}: expected an object, got {show(row)}")
            values.append(order_by_columns(row, index, columns))
        if self._shape.all_numbers:
            return parse_matrix(values, len(columns), columns)
        return self._columns_of(columns, values)

    def _columns_of(
        self, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> dict[str, Array]:
        if not columns:
            raise InvalidInput("the model's columns are unknown; send each row as an object")
        return {
            name: parse_column([row[i] for row in rows], name, self._shape.kinds.get(name))
            for i, name in enumerate(columns)
        }

    def _parse_tensors(self, tensors: dict[str, Array]) -> Array | dict[str, Array]:
        shape = self._shape
        if len(tensors) == 1 and (
            len(shape.columns) != 1 or next(iter(tensors)) not in shape.columns
        ):
            array = next(iter(tensors.values()))
            if shape.texts or (shape.width is None and array.dtype == object):
                return parse_texts(array.reshape(-1).tolist())
            if array.ndim == 1 and shape.width is not None and array.shape[0] == shape.width:
                array = array.reshape(1, -1)
            if array.ndim != 2:
                raise InvalidInput(
                    f"expected the shape [rows, {shape.width or 'features'}], got {list(array.shape)}"
                )
            if array.shape[0] == 0:
                raise InvalidInput("expected at least one row, got none")
            if shape.width is not None and array.shape[1] != shape.width:
                raise wrong_width(shape.width, array.shape[1], shape.columns)
            if shape.all_numbers:
                if array.dtype.kind not in "iufb":
                    raise InvalidInput("expected a tensor of numbers, got one of texts")
                return array if array.dtype.kind == "f" else array.astype(np.float64)
            return self._columns_of(shape.columns, array.tolist())
        for name, array in tensors.items():
            if array.ndim == 0 or array.size == 0:
                raise InvalidInput(
                    f"column {name!r}: expected at least one row, got the shape {list(array.shape)}"
                )
        sizes = {name: len(array) for name, array in tensors.items()}
        if len(set(sizes.values())) != 1:
            raise InvalidInput(f"the columns have different numbers of rows: {sizes}")
        columns = {name: array.reshape(len(array), -1) for name, array in tensors.items()}
        for name, array in columns.items():
            if array.shape[1] != 1:
                raise InvalidInput(
                    f"column {name!r}: expected one value per row, got {array.shape[1]}"
                )
        lists = [array[:, 0].tolist() for array in columns.values()]
        return self._parse_records(
            [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
        )

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
                blamed = blame_input(checked, error)
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
            blamed = blame_input(merged, err)
            if blamed is not None:
                raise blamed from err
            raise

    def _model_input(self, merged: Array | dict[str, Array]) -> Any:
        if isinstance(merged, dict) or self._shape.columns:
            import pandas as pd

            if isinstance(merged, dict):
                return pd.DataFrame(merged)
            return pd.DataFrame(merged, columns=self._shape.columns)
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
        self.signature = Signature(
            inputs=self.signature.inputs,
            outputs=tuple(outputs),
            columns=self.signature.columns,
            row_width=self.signature.row_width,
        )
        return prepared

    def _made_up_row(self) -> RowsInput:
        shape = self._shape
        if shape.texts:
            return RowsInput(["a text for the warm-up"])
        if shape.columns:
            values = {None: 0.0, "number": 0.0, "text": "a"}
            return RowsInput([{name: values[shape.kinds.get(name)] for name in shape.columns}])
        return RowsInput([[0.0] * (shape.width or 1)])

    def close(self) -> None:
        """Nothing to release."""


def blame_input(merged: Array | dict[str, Array], error: Exception) -> InvalidInput | None:
    """The client's mistake behind an estimator's failure, or None when the model is to blame.

    Asked only after a failure, so that good requests do not pay for it: which estimators take missing values, or values
    beyond float32, only they know.
    """
    if str(error).startswith("Found unknown categories"):
        return InvalidInput(str(error)[:300])
    columns = merged if isinstance(merged, dict) else {"": merged}
    for name, array in columns.items():
        if array.dtype.kind == "O":
            bad = np.array([value is None for value in array.reshape(-1)]).reshape(array.shape)
        elif array.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                bad = ~(np.abs(array) <= np.finfo(np.float32).max)
        else:
            continue
        if bad.any():
            place = np.argwhere(bad)[0].tolist()
            column = repr(name) if name else str(place[1]) if len(place) > 1 else "0"
            value = array[tuple(place)]
            told = "null" if value is None or value != value else f"{value:g}"
            return InvalidInput(f"row {place[0]}, column {column}: the model does not take {told}")
    return None


def limit_jobs(estimator: Any) -> None:
    """Set every `n_jobs` of an estimator to 1: the workers share the CPUs, a pool in each would fight for them."""
    try:
        parameters = estimator.get_params(deep=True)
        names = [n for n, v in parameters.items() if n.endswith("n_jobs") and v not in (None, 1)]
        if names:
            estimator.set_params(**dict.fromkeys(names, 1))
    except (AttributeError, TypeError, ValueError) as err:
        log.debug("n_jobs is left as it is: %s", err)


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
