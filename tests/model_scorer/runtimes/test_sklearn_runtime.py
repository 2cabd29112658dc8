"""The scikit-learn runtime: what it learns from an estimator, what it takes, what it refuses."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model_scorer.errors import (
    InvalidInput,
    InvalidSpec,
    LoadFailed,
    MissingDependency,
    ScorerError,
    UnsafePickle,
)
from model_scorer.runtimes.protocol import Call, RowsInput, TableInput, TensorsInput
from model_scorer.runtimes.registry import open_and_load
from model_scorer.settings import Settings

FEATURES, CLASSES = load_iris(return_X_y=True)
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]


@pytest.fixture
def load(tmp_path):
    def do(estimator, *, config="", file="model.joblib", **settings):
        if file.endswith(".skops"):
            import skops.io

            skops.io.dump(estimator, tmp_path / file)
        elif file.endswith(".pkl"):
            (tmp_path / file).write_bytes(pickle.dumps(estimator))
        else:
            joblib.dump(estimator, tmp_path / file)
        if config:
            (tmp_path / "model.yaml").write_text(config)
        runtime = open_and_load(Settings(framework="sklearn", model_dir=tmp_path, **settings))
        runtime.warm_up()
        return runtime

    return do


def score(runtime, given, **options):
    (outcome,) = runtime.execute([runtime.prepare(Call(given, **options))])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome.tensors


@pytest.fixture(scope="module")
def classifier():
    return LogisticRegression(max_iter=500).fit(FEATURES, CLASSES)


@pytest.fixture(scope="module")
def named_classifier():
    frame = pd.DataFrame(FEATURES, columns=NAMES)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, CLASSES)


@pytest.fixture(scope="module")
def mixed_regression():
    frame = pd.DataFrame({"city": ["a", "b", "a", "c"], "rooms": [1, 2, 3, 4]})
    columns = ColumnTransformer(
        [
            ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
            ("rooms", StandardScaler(), ["rooms"]),
        ]
    )
    return make_pipeline(columns, LinearRegression()).fit(frame, [1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("file", ["model.joblib", "model.pkl", "iris.pickle", "model.skops"])
def test_every_file_format_gives_the_estimators_own_answer(load, classifier, file):
    runtime = load(classifier, file=file)
    answer = score(runtime, RowsInput(FEATURES[:5].tolist()))["predict"]
    assert answer.tolist() == classifier.predict(FEATURES[:5]).tolist()


def test_model_yaml_makes_probabilities_the_answer(load, classifier):
    runtime = load(classifier, config="output: predict_proba\n")
    answer = score(runtime, RowsInput(FEATURES[:2].tolist()))
    assert np.allclose(answer["predict_proba"], classifier.predict_proba(FEATURES[:2]))
    assert runtime.signature.outputs[0].name == "predict_proba"


def test_outputs_may_be_asked_for_by_name(load, classifier):
    runtime = load(classifier)
    answer = score(runtime, RowsInput(FEATURES[:2].tolist()), outputs=("predict_proba", "predict"))
    assert list(answer) == ["predict_proba", "predict"]
    with pytest.raises(InvalidInput, match="no output 'score'"):
        runtime.prepare(Call(RowsInput([[1, 2, 3, 4]]), outputs=("score",)))


def test_a_batch_gives_each_call_its_rows(load, classifier):
    runtime = load(classifier)
    calls = [runtime.prepare(Call(RowsInput(FEATURES[n : n + 2].tolist()))) for n in (0, 60, 120)]
    assert len({call.group for call in calls}) == 1
    answers = [o.tensors["predict"].tolist() for o in runtime.execute(calls)]
    assert answers == [classifier.predict(FEATURES[n : n + 2]).tolist() for n in (0, 60, 120)]


def test_named_columns_may_come_in_any_order(load, named_classifier):
    runtime = load(named_classifier)
    row = dict(zip(reversed(NAMES), reversed(FEATURES[100].tolist()), strict=True))
    expected = [CLASSES[100]]
    assert score(runtime, RowsInput([row]))["predict"].tolist() == expected
    table = TableInput(list(row), [list(row.values())])
    assert score(runtime, table)["predict"].tolist() == expected
    tensors = TensorsInput({name: np.array([value]) for name, value in row.items()})
    assert score(runtime, tensors)["predict"].tolist() == expected
    matrix = TensorsInput({"X": FEATURES[100:101].astype(np.float32)})
    assert score(runtime, matrix)["predict"].tolist() == expected


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"sepal length": 1}], "missing 'sepal width', 'petal length', 'petal width'"),
        ([dict.fromkeys([*NAMES, "extra"], 1)], "unknown 'extra'"),
        ([[1, 2, 3]], "expected 4 features per row .*'sepal length'.*, got 3"),
        ([[1, 2, 3, "x"]], "row 0, column 'petal width': expected a number, got the text 'x'"),
        ([[1, 2, 3, [4]]], "column 'petal width': expected a number, got a list of 1"),
        ([1], "row 0: expected a list of 4 values, got the number 1"),
        ([], "at least one row"),
    ],
)
def test_refusals_name_the_column(load, named_classifier, rows, words):
    with pytest.raises(InvalidInput, match=words):
        score(load(named_classifier), RowsInput(rows))


def test_a_bad_row_fails_alone_and_costs_the_batch_one_more_call(load, classifier):
    runtime = load(classifier)
    rows: list[list] = [[row] for row in FEATURES[::25].tolist()]
    rows[1] = [["x", 1, 2, 3]]
    rows[3] = [[1e400, 1, 2, 3]]
    calls = [Call(RowsInput(r)) for r in rows]
    outcomes = runtime.execute([runtime.prepare(call) for call in calls])
    assert [isinstance(o, InvalidInput) for o in outcomes] == [i in (1, 3) for i in range(6)]
    answers = [o.tensors["predict"].tolist() for o in outcomes if not isinstance(o, Exception)]
    expected = classifier.predict(FEATURES[[0, 50, 100, 125]])
    assert answers == [[value] for value in expected]


@pytest.mark.parametrize(
    "rows",
    [
        [[5, 3, 1, 0]],
        [[5.5, 3, 1, 0]],
        [[True, False, True, True]],
        [[2**63, 1, 2, 3]],
        [[10**30, 1, 2, 3]],
        [[0.1, -0.0, 1e-320, 3]],
    ],
)
def test_rows_joined_in_a_batch_give_what_they_give_alone(load, classifier, rows):
    runtime = load(classifier)
    others = [runtime.prepare(Call(RowsInput([row]))) for row in FEATURES[::40].tolist()]
    mine = runtime.prepare(Call(RowsInput(rows)))
    together = runtime.execute([others[0], mine, *others[1:]])[1]
    expected = classifier.predict(np.array(rows, dtype=np.float64))
    assert together.tensors["predict"].tolist() == expected.tolist()
    assert runtime.execute([mine])[0].tensors["predict"].tolist() == expected.tolist()


def test_columns_of_texts_and_numbers_are_told_apart(load, mixed_regression):
    runtime = load(mixed_regression)
    assert [(s.name, s.datatype) for s in runtime.signature.inputs] == [
        ("city", "BYTES"),
        ("rooms", "FP64"),
    ]
    expected = mixed_regression.predict(pd.DataFrame({"city": ["b"], "rooms": [2]}))
    for given in (RowsInput([["b", 2]]), RowsInput([{"rooms": 2, "city": "b"}])):
        assert np.allclose(score(runtime, given)["predict"], expected)
    with pytest.raises(InvalidInput, match="column 'rooms': expected a number"):
        runtime.prepare(Call(RowsInput([["b", "two"]])))
    with pytest.raises(InvalidInput, match="column 'city': expected a text"):
        runtime.prepare(Call(RowsInput([[1, 2]])))


def test_text_pipelines_take_texts(load):
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    pipeline.fit(["good film", "bad film", "good day", "bad day"], ["up", "down", "up", "down"])
    runtime = load(pipeline)
    assert runtime.signature.inputs[0].datatype == "BYTES"
    assert runtime.signature.outputs[0].datatype == "BYTES"
    assert score(runtime, RowsInput(["a good one", "bad"]))["predict"].tolist() == ["up", "down"]
    with pytest.raises(InvalidInput, match="row 1: expected a text, got the number 7"):
        runtime.prepare(Call(RowsInput(["good", 7])))


class Halved(StandardScaler):
    """A type that skops does not know."""


def test_a_skops_file_with_an_unknown_type_is_refused_by_its_name(load):
    model = make_pipeline(Halved(), LogisticRegression()).fit(FEATURES, CLASSES)
    with pytest.raises(UnsafePickle, match=r"model\.skops holds types .*\bHalved\b"):
        load(model, file="model.skops")


def test_a_skops_file_with_an_unknown_type_is_loaded_by_who_trusts_it(load):
    model = make_pipeline(Halved(), LogisticRegression()).fit(FEATURES, CLASSES)
    runtime = load(model, file="model.skops", trust_pickle=True)
    row = FEATURES[:1].tolist()
    assert score(runtime, RowsInput(row))["predict"].tolist() == [CLASSES[0]]


def test_null_is_a_missing_value(load):
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=3).fit(FEATURES, CLASSES)
    runtime = load(model, trust_pickle=True)
    assert score(runtime, RowsInput([[5.1, None, 1.4, 0.2]]))["predict"].tolist() == [0]


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "row 0, column 1: the model does not take null"), (1e300, "does not take 1e\\+300")],
)
def test_values_that_the_estimator_refuses_are_the_clients_mistake(load, value, words):
    forest = RandomForestClassifier(n_estimators=2).fit(FEATURES, CLASSES)
    scaled = make_pipeline(StandardScaler(), LogisticRegression()).fit(FEATURES, CLASSES)
    runtime = load(forest if value else scaled)
    with pytest.raises(InvalidInput, match=words):
        score(runtime, RowsInput([[5.1, value, 1.4, 0.2]]))


@pytest.mark.parametrize("row", [[1.0, None], {"age": 1.0, "height": None}])
def test_values_that_the_estimator_refuses_are_told_with_their_column(load, row):
    frame = pd.DataFrame({"age": [1.0, 2.0], "height": [3.0, 4.0]})
    runtime = load(make_pipeline(StandardScaler(), LinearRegression()).fit(frame, [1.0, 2.0]))
    with pytest.raises(InvalidInput, match="row 0, column 'height': the model does not take null"):
        score(runtime, RowsInput([row]))


def test_a_table_for_a_model_without_names_is_taken_by_position(load):
    runtime = load(LogisticRegression(max_iter=500).fit(FEATURES, CLASSES))
    table = TableInput(["a", "b", "c", "d"], [[5.1, 3.5, 1.4, 0.2]])
    assert score(runtime, table)["predict"].tolist() == [0]
    with pytest.raises(InvalidInput, match="column 'b': expected a number"):
        score(runtime, TableInput(["a", "b", "c", "d"], [[1, "x", 1, 1]]))
    with pytest.raises(InvalidInput, match="expected 4 features per row, got 2"):
        score(runtime, TableInput(["a", "b"], [[1, 2]]))


@pytest.mark.parametrize(
    "given",
    [
        TableInput(["text"], [["good"], ["bad"]]),
        RowsInput([{"text": "good"}, {"text": "bad"}]),
        RowsInput(["good", "bad"]),
    ],
    ids=["table", "records", "texts"],
)
def test_a_column_of_texts_is_taken_whatever_its_name(load, given):
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good", "bad"], [1, 0])
    assert score(load(model), given)["predict"].tolist() == [1, 0]


def test_two_columns_for_a_model_of_texts_are_refused(load):
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good", "bad"], [1, 0])
    with pytest.raises(InvalidInput, match="row 0: expected one text"):
        score(load(model), RowsInput([{"a": "good", "b": "bad"}]))


def test_unknown_categories_are_the_clients_mistake(load):
    frame = pd.DataFrame({"city": ["a", "b"]})
    model = make_pipeline(OneHotEncoder(), LinearRegression()).fit(frame, [1.0, 2.0])
    runtime = load(model)
    with pytest.raises(InvalidInput, match="unknown categories"):
        score(runtime, RowsInput([["z"]]))


def test_pools_of_the_estimator_are_limited(load):
    forest = RandomForestClassifier(n_estimators=2, n_jobs=-1).fit(FEATURES, CLASSES)
    assert load(forest)._estimator.n_jobs == 1


@pytest.mark.parametrize(
    ("value", "config", "error", "words"),
    [
        ({"a": 1}, "", LoadFailed, "holds a dict, which has no predict"),
        (LogisticRegression(), "", LoadFailed, "never fitted"),
        (LinearRegression().fit([[1]], [1]), "output: predict_proba", InvalidSpec, "has not"),
        (LinearRegression().fit([[1]], [1]), "output: labels", InvalidSpec, "got 'labels'"),
        (LinearRegression().fit([[1]], [1]), "- a\n- b", InvalidSpec, "must be a mapping"),
        (LinearRegression().fit([[1]], [1]), "file: ../x", LoadFailed, "not in the model folder"),
    ],
)
def test_what_cannot_be_served_has_a_reason(load, value, config, error, words):
    with pytest.raises(error, match=words):
        load(value, config=config)


def test_files_that_are_no_model_have_a_reason(tmp_path):
    settings = Settings(framework="sklearn", model_dir=tmp_path)
    with pytest.raises(LoadFailed, match="is empty"):
        open_and_load(settings)
    (tmp_path / "model.pkl").write_bytes(b"this is not a pickle")
    with pytest.raises(ScorerError):
        open_and_load(settings)
    (tmp_path / "other.joblib").write_bytes(b"x")
    (tmp_path / "model.pkl").rename(tmp_path / "mine.pkl")
    with pytest.raises(LoadFailed, match="several files"):
        open_and_load(settings)


def test_a_missing_module_is_named(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"cno_such_package_z.things\nModel\n.")
    settings = Settings(framework="sklearn", model_dir=tmp_path, trust_pickle=True)
    with pytest.raises(MissingDependency, match="no_such_package_z"):
        open_and_load(settings)


@pytest.mark.parametrize("shape", [(), (0,), (0, 2), (1, 0)])
def test_columns_without_rows_are_the_clients_mistake(load, classifier, shape):
    given = TensorsInput({"a": np.zeros(shape), "b": np.zeros(shape)})
    with pytest.raises(InvalidInput, match="at least one row"):
        load(classifier).prepare(Call(given))
