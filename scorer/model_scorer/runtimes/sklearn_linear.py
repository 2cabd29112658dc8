"""Linear estimators without scikit-learn's checks: the same arithmetic on the same arrays, proven equal before use.

A one-row `LogisticRegression.predict` is three microseconds of arithmetic and ninety of validation, which the runtime
has done already. Whatever is unusual (another class, a step in between, values that are not finite) goes the long way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from model_scorer.runtimes.protocol import Array

Predict = Callable[[Array], "Array | None"]

# Rows of the trials: single ones, a few, and more than any unrolled loop of the BLAS takes at once.
_TRIAL_ROWS = (1, 2, 3, 4, 7, 8, 16, 33, 64, 257)
_TRIAL_SCALES = (1.0, 0.01, 1000.0)


def compile_linear(estimator: Any) -> Predict | None:
    """A `predict` for finite float32 and float64 matrices that gives exactly what the estimator's own gives.

    Args:
        estimator: fitted; a linear classifier or regressor, or a pipeline of `StandardScaler` and one.

    Returns:
        A function that returns None for what it does not take; or None if the estimator is no such thing, or if its
        answers differed in a single bit or in their type.
    """
    try:
        predict = _build(estimator)
        return predict if predict is not None and _is_equal(estimator, predict) else None
    except Exception:  # an estimator that is built in another way than those of this version
        return None


def _build(estimator: Any) -> Predict | None:
    from sklearn.linear_model import ElasticNet
    from sklearn.linear_model._base import LinearClassifierMixin, LinearModel
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = None
    if type(estimator) is Pipeline:
        steps = [step for _, step in estimator.steps]
        if len(steps) != 2 or type(steps[0]) is not StandardScaler:
            return None
        scaler, estimator = steps
    coef = estimator.coef_
    intercept = estimator.intercept_
    if not isinstance(coef, np.ndarray) or coef.dtype.kind != "f":
        return None
    prescale = _build_scaling(scaler)
    kind = type(estimator)
    if (
        isinstance(estimator, LinearClassifierMixin)
        and kind.predict is LinearClassifierMixin.predict
        and kind.decision_function is LinearClassifierMixin.decision_function
    ):
        return _build_classifier(coef, intercept, estimator.classes_, prescale)
    if (
        isinstance(estimator, LinearModel)
        # Several classes override these two only to describe them, or for sparse input.
        and kind.predict.__module__.startswith("sklearn.linear_model.")
        and kind._decision_function
        in (LinearModel._decision_function, ElasticNet._decision_function)
    ):
        return _build_regressor(coef, intercept, prescale)
    return None


def _build_scaling(scaler: Any) -> Callable[[Array], Array]:
    if scaler is None:
        return lambda rows: rows
    mean = scaler.mean_ if scaler.with_mean else None
    scale = scaler.scale_ if scaler.with_std else None

    def prescale(rows: Array) -> Array:
        scaled = rows.copy()
        if mean is not None:
            scaled -= mean.astype(rows.dtype)
        if scale is not None:
            scaled /= scale.astype(rows.dtype)
        return scaled

    return prescale


def _build_classifier(
    coef: Array, intercept: Any, classes: Array, prescale: Callable[[Array], Array]
) -> Predict:
    coef_t = coef.T if coef.ndim == 2 else coef
    isfinite, argmax, take = np.isfinite, np.argmax, np.take

    def predict(rows: Array) -> Array | None:
        scores = prescale(rows) @ coef_t + intercept
        # An input that is not finite makes its score so, and the sum with it.
        if not isfinite(scores.sum()):
            return None
        if scores.ndim > 1 and scores.shape[1] == 1:
            scores = scores.reshape(-1)
        indices = (scores > 0).astype(np.intp) if scores.ndim == 1 else argmax(scores, axis=1)
        chosen: Array = take(classes, indices, axis=0)
        return chosen

    return predict


def _build_regressor(coef: Array, intercept: Any, prescale: Callable[[Array], Array]) -> Predict:
    coef_t = coef if coef.ndim == 1 else coef.T

    def predict(rows: Array) -> Array | None:
        values: Array = prescale(rows) @ coef_t + intercept
        return values if np.isfinite(values.sum()) else None

    return predict


def _is_equal(estimator: Any, predict: Predict) -> bool:
    """Whether both give the same bits for made-up rows of both types and many heights."""
    width = int(estimator.n_features_in_)
    random = np.random.default_rng(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fitted with column names, asked without
        for dtype in (np.float64, np.float32):
            for height in _TRIAL_ROWS:
                for scale in _TRIAL_SCALES:
                    rows = (random.standard_normal((height, width)) * scale).astype(dtype)
                    expected = np.asarray(estimator.predict(rows))
                    got = predict(rows)
                    if (
                        got is None
                        or got.dtype != expected.dtype
                        or got.shape != expected.shape
                        or got.tobytes() != expected.tobytes()
                    ):
                        return False
    return True
