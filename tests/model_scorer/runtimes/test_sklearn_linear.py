"""The short way of linear estimators: taken only where it gives the very same bits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

from model_scorer.runtimes.sklearn_linear import compile_linear

FEATURES, CLASSES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
PATIENTS, PROGRESS = load_diabetes(return_X_y=True)
BINARY = CLASSES > 0


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(max_iter=500).fit(FEATURES, CLASSES),
        LogisticRegression(max_iter=500).fit(FEATURES, BINARY),
        LogisticRegression(max_iter=500).fit(FEATURES, NAMES[CLASSES]),
        LogisticRegression(max_iter=500).fit(FEATURES.astype(np.float32), CLASSES),
        LinearSVC().fit(FEATURES, CLASSES),
        SGDClassifier(random_state=0).fit(FEATURES, CLASSES),
        Perceptron(random_state=0).fit(FEATURES, CLASSES),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(FEATURES, CLASSES),
        make_pipeline(StandardScaler(with_mean=False), Ridge()).fit(PATIENTS, PROGRESS),
        LinearRegression().fit(PATIENTS, PROGRESS),
        LinearRegression().fit(PATIENTS, np.stack([PROGRESS, -PROGRESS], axis=1)),
        ElasticNet().fit(PATIENTS, PROGRESS),
    ],
    ids=lambda e: f"{type(e).__name__}-{getattr(e, 'n_features_in_', '')}",
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_short_way_gives_the_same_bits(estimator, dtype):
    predict = compile_linear(estimator)
    assert predict is not None
    rows = (FEATURES if estimator.n_features_in_ == 4 else PATIENTS).astype(dtype)
    for height in (1, 5, 32, len(rows)):
        expected = np.asarray(estimator.predict(rows[:height]))
        got = predict(rows[:height])
        assert got.dtype == expected.dtype
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_goes_the_long_way(value):
    estimator = LogisticRegression(max_iter=500).fit(FEATURES, CLASSES)
    rows = FEATURES[:3].copy()
    rows[1, 2] = value
    predict = compile_linear(estimator)
    assert predict is not None
    with np.errstate(all="ignore"):
        assert predict(rows) is None


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(n_estimators=2).fit(FEATURES, CLASSES),
        RidgeClassifier().fit(FEATURES, CLASSES),  # it has a predict of its own
        make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=500)).fit(FEATURES, CLASSES),
        LogisticRegression(max_iter=500).fit(FEATURES, CLASSES).sparsify(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_others_have_no_short_way(estimator):
    assert compile_linear(estimator) is None


def test_a_subclass_with_its_own_predict_has_no_short_way():
    class Louder(LogisticRegression):
        def predict(self, X):  # noqa: N803 - scikit-learn's name
            return super().predict(X) + 1

    assert compile_linear(Louder(max_iter=500).fit(FEATURES, CLASSES)) is None


def test_a_difference_in_one_answer_forbids_the_short_way():
    estimator = LogisticRegression(max_iter=500).fit(FEATURES, CLASSES)
    estimator.decision_function = lambda rows: -(rows @ estimator.coef_.T + estimator.intercept_)
    assert compile_linear(estimator) is None
