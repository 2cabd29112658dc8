import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import NMF, PCA, TruncatedSVD
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.metrics import f1_score, make_scorer
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    LabelEncoder,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
)
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from model_scorer.verify import check_pickle
from model_scorer.verify.versions import read_sklearn_versions

X = np.abs(np.random.RandomState(0).randn(40, 4))
Y = (X[:, 0] > np.median(X[:, 0])).astype(int)
WORDS = ["ab cd", "cd ef", "ef gh ab", "gh"] * 10
FRAME = pd.DataFrame({"n": X[:, 0], "c": ["a", "b"] * 20, "d": pd.Categorical(["x", "y"] * 20)})

NUMERIC: dict[str, Any] = {
    "linear": LinearRegression(),
    "logistic": LogisticRegression(),
    "sgd": SGDClassifier(loss="log_loss"),
    "svc": SVC(),
    "tree": DecisionTreeClassifier(),
    "forest": RandomForestClassifier(5),
    "extra trees": ExtraTreesRegressor(5),
    "isolation forest": IsolationForest(n_estimators=5),
    "gradient boosting": GradientBoostingClassifier(n_estimators=5),
    "histogram boosting": HistGradientBoostingClassifier(max_iter=5),
    "ada boost": AdaBoostClassifier(n_estimators=3),
    "voting": VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]),
    "stacking": StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], cv=2),
    "neighbours": KNeighborsClassifier(),
    "ball tree": NearestNeighbors(algorithm="ball_tree", metric="manhattan"),
    "perceptron": MLPClassifier((4,), max_iter=300, tol=1.0),
    "k-means": KMeans(2, n_init=1),
    "mixture": GaussianMixture(2),
    "gaussian process": GaussianProcessRegressor(optimizer=None),
    "isotonic": make_pipeline(PCA(1), IsotonicRegression(out_of_bounds="clip")),
    "calibrated": CalibratedClassifierCV(GaussianNB(), cv=2),
    "grid search": GridSearchCV(
        LogisticRegression(), {"C": [0.1, 1]}, cv=2, scoring=make_scorer(f1_score)
    ),
    "multi output": make_pipeline(StandardScaler(), LogisticRegression()),
    "target transformer": TransformedTargetRegressor(
        LinearRegression(), func=np.log1p, inverse_func=np.expm1
    ),
    "selection": make_pipeline(SelectKBest(f_classif, k=2), LogisticRegression()),
    "functions": make_pipeline(FunctionTransformer(np.log1p), LinearRegression()),
    "partial function": make_pipeline(
        FunctionTransformer(partial(np.clip, a_min=0, a_max=1)), LinearRegression()
    ),
    "preprocessing": make_pipeline(
        SimpleImputer(),
        PowerTransformer(),
        QuantileTransformer(n_quantiles=10),
        KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"),
        NMF(2, max_iter=500, tol=1.0),
        LogisticRegression(),
    ),
    "splines": make_pipeline(SplineTransformer(), LinearRegression()),
    "envelope": EllipticEnvelope(support_fraction=0.9),
}

DATA: dict[str, Callable[[], Any]] = {
    "text pipeline": lambda: make_pipeline(TfidfVectorizer(), MultinomialNB()).fit(WORDS, Y),
    "text union": lambda: make_pipeline(
        FeatureUnion(
            [
                ("words", CountVectorizer(dtype=np.int32)),
                ("chars", TfidfVectorizer(analyzer="char", ngram_range=(1, 3))),
                ("hashes", HashingVectorizer(n_features=16)),
            ]
        ),
        TruncatedSVD(2),
        LogisticRegression(),
    ).fit(WORDS, Y),
    "columns of a frame": lambda: make_pipeline(
        ColumnTransformer(
            [("n", StandardScaler(), ["n"]), ("c", OneHotEncoder(), ["c"]), ("d", OrdinalEncoder(), ["d"])]
        ),
        LogisticRegression(),
    ).fit(FRAME, Y),
    "several outputs": lambda: MultiOutputClassifier(LogisticRegression()).fit(X, np.c_[Y, 1 - Y]),
    "labels": lambda: LabelEncoder().fit(["a", "b"]),
    "dict of things": lambda: {"model": LogisticRegression().fit(X, Y), "classes": ["no", "yes"], "threshold": 0.5},
    "plain arrays": lambda: [X, X.T, X[::2], X.astype("f2"), np.array("text"), np.array([]), np.array(3)],
    "object array": lambda: np.array(["a", None, 1.5, {"k": (1, 2)}], dtype=object),
    "structured array": lambda: np.array([(1, 2.0, "x")], dtype=[("a", "i4"), ("b", "f8"), ("c", "U3")]),
    "dates": lambda: np.array(["2026-01-01"], dtype="datetime64[D]"),
    "masked array": lambda: np.ma.masked_invalid([1.0, np.nan]),
    "random states": lambda: (np.random.RandomState(1), np.random.default_rng(1)),
    "numpy scalars": lambda: {np.float64(1): np.int8(2), "s": np.str_("x"), "b": np.bool_(True)},
    "sparse matrices": lambda: [f(scipy.sparse.eye(3)) for f in (
        scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.coo_matrix, scipy.sparse.csr_array
    )],
    "frame": lambda: FRAME,
    "frame with dates and a multi-index": lambda: pd.DataFrame(
        {"t": pd.date_range("2026-01-01", periods=4, tz="UTC"), "i": pd.array([1, None, 2, 3], dtype="Int64")},
        index=pd.MultiIndex.from_product([[1, 2], ["a", "b"]]),
    ),
    "series": lambda: pd.Series([1.5, 2.5], index=pd.RangeIndex(2), name="s"),
    "builtins": lambda: [{1, 2}, frozenset("ab"), b"bytes", bytearray(b"x"), 2**70, -1, 1 + 2j, range(3), slice(1), ...],
    "long strings": lambda: ["x" * 300, "y" * 100_000, "z" * 70_000 + "\n" + "ü"],
    "cycles": lambda: (lambda a: a.append(a) or a)([1]),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMERIC)
def test_estimator_passes_in_every_protocol_and_compression(name: str, tmp_path: Path) -> None:
    model = NUMERIC[name].fit(X, Y)
    for proto in range(6):
        path = tmp_path / f"{proto}.pkl"
        path.write_bytes(pickle.dumps(model, proto))
        check_pickle(path, trust=False)
    for compress in (0, 3, ("gzip", 1), ("bz2", 1), ("xz", 0), ("lzma", 0)):
        path = tmp_path / "model.joblib"
        joblib.dump(model, path, compress=compress)
        check_pickle(path, trust=False)
    assert len(read_sklearn_versions(path)) == 1


@pytest.mark.parametrize("name", DATA)
def test_data_and_pipelines_pass(name: str, tmp_path: Path) -> None:
    value = DATA[name]()
    for proto in range(2, 6):
        path = tmp_path / f"{proto}.pkl"
        path.write_bytes(pickle.dumps(value, proto))
        check_pickle(path, trust=False)
    for proto in (2, 4, 5):
        path = tmp_path / f"{proto}.joblib"
        joblib.dump(value, path, protocol=proto)
        check_pickle(path, trust=False)


def test_estimator_with_metadata_requests_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    with sklearn.config_context(enable_metadata_routing=True):
        joblib.dump(LogisticRegression().set_fit_request(sample_weight=True), path)
    check_pickle(path, trust=False)


def test_pickles_one_behind_the_other_pass_when_all_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(LogisticRegression()) + pickle.dumps({"classes": [1, 2]}))
    check_pickle(path, trust=False)


def test_torch_state_dict_passes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pt"
    torch.save(
        torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict(), path
    )
    check_pickle(path, trust=False)
