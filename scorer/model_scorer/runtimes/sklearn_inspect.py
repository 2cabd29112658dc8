"""What a fitted estimator takes, read from the estimator itself: how many features, which columns, numbers or texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from model_scorer.errors import LoadFailed


@dataclass(frozen=True, slots=True)
class EstimatorShape:
    """An estimator's input.

    Attributes:
        width: features per row, None when unknown.
        columns: names it was fitted with; empty without.
        kinds: for each column `number`, `text`, or None when either will do; see `parse_column` for what a model's
            author may declare beside.
        texts: the input is a list of texts, not a matrix.
        classes: of a classifier with one output, in the order of its probabilities; empty without.
        frame: it must be given a table with these columns; else their names are for clients alone.
        optional: columns that a row may leave out.
        datatypes: of columns, as they were declared; of others see `kinds`.
        input_name: of the only input where it is no table.
    """

    width: int | None
    columns: tuple[str, ...] = ()
    kinds: dict[str, str | None] = field(default_factory=dict)
    texts: bool = False
    classes: tuple[str | int | float | bool, ...] = ()
    frame: bool = False
    optional: frozenset[str] = frozenset()
    datatypes: dict[str, str] = field(default_factory=dict)
    input_name: str = "X"

    @property
    def all_numbers(self) -> bool:
        """Whether every value must be a number."""
        if self.texts or self.width is None:
            return False
        return not self.columns or all(kind == "number" for kind in self.kinds.values())


def inspect_estimator(estimator: Any) -> EstimatorShape:
    """Read the input of a fitted estimator or pipeline.

    Raises:
        LoadFailed: the estimator was never fitted.
    """
    _check_fitted(estimator)
    classes = _read_classes(estimator)
    width = getattr(estimator, "n_features_in_", None)
    names = getattr(estimator, "feature_names_in_", None)
    first = _first_step(estimator)
    if names is not None:
        columns = tuple(str(name) for name in names)
        kinds = _column_kinds(first, columns)
        return EstimatorShape(len(columns), columns, kinds, classes=classes, frame=True)
    if width is not None:
        return EstimatorShape(int(width), (), {}, classes=classes)
    texts = hasattr(first, "vocabulary_") or _is_hashing(first)
    return EstimatorShape(None, texts=texts, classes=classes)


def _read_classes(estimator: Any) -> tuple[str | int | float | bool, ...]:
    """The classes of a classifier; none of one with several outputs, whose `classes_` is a list of arrays."""
    classes = getattr(estimator, "classes_", None)
    if getattr(classes, "ndim", None) != 1:
        return ()
    plain = classes.tolist()  # type: ignore[union-attr]
    return tuple(plain) if all(isinstance(c, str | int | float) for c in plain) else ()


def _check_fitted(estimator: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError as err:
        raise LoadFailed(
            f"the {type(estimator).__name__} in the model file was never fitted",
            "call fit before saving it",
        ) from err
    except TypeError:
        return  # no scikit-learn estimator, only shaped like one: it cannot be asked


def _first_step(estimator: Any) -> Any:
    """The step that sees the raw input: the first of a pipeline, inside searches and calibrators."""
    for _ in range(10):
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps") and estimator.steps:
            steps = [s for _, s in estimator.steps if s is not None and s != "passthrough"]
            if not steps:
                return estimator
            estimator = steps[0]
        else:
            break
    return estimator


def _is_hashing(step: Any) -> bool:
    return type(step).__name__ == "HashingVectorizer"


def _column_kinds(first: Any, columns: tuple[str, ...]) -> dict[str, str | None]:
    """The kind of each column, from the transformer that takes it."""
    transformers = getattr(first, "transformers_", None)
    if transformers is None:
        kind = _transformer_kinds(first, len(columns))
        return dict(zip(columns, kind, strict=True))
    kinds: dict[str, str | None] = dict.fromkeys(columns)
    for _, transformer, selected in transformers:
        chosen = _selected_columns(selected, columns)
        for name, kind_of_column in zip(
            chosen, _transformer_kinds(_first_step(transformer), len(chosen)), strict=True
        ):
            kinds[name] = kind_of_column
    return kinds


def _selected_columns(selected: Any, columns: tuple[str, ...]) -> list[str]:
    if isinstance(selected, str | int):
        selected = [selected]
    if isinstance(selected, slice):
        return list(columns[selected])
    out = []
    for position, item in enumerate(selected):
        if isinstance(item, str):
            out.append(item)
        elif str(item) in ("True", "False"):
            if item:
                out.append(columns[position])
        else:
            out.append(columns[int(item)])
    return out


def _transformer_kinds(transformer: Any, width: int) -> list[str | None]:
    if isinstance(transformer, str):  # "passthrough", "drop"
        return [None] * width
    categories = getattr(transformer, "categories_", None)
    if categories is not None and len(categories) == width:
        return ["number" if c.dtype.kind in "iufb" else "text" for c in categories]
    if hasattr(transformer, "vocabulary_") or _is_hashing(transformer):
        return ["text"] * width
    statistics = getattr(transformer, "statistics_", None)
    if statistics is not None and getattr(statistics, "dtype", None) is not None:
        kind: str | None = "number" if statistics.dtype.kind in "iufb" else None
        return [kind] * width
    if type(transformer).__module__.startswith("sklearn.") and not hasattr(transformer, "func"):
        # Scalers, linear models, trees …: everything else in scikit-learn turns its input into numbers.
        return ["number"] * width
    return [None] * width
