"""Models and scripts that compute in parallel while they are loaded, before the workers are forked."""

from __future__ import annotations

import joblib
import pytest

# A parallel region of OpenMP on the loading thread: in a fork of it, the next one would wait for threads that are gone.
PARALLEL = """
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

ROWS = np.random.default_rng(0).random((2000, 4))

class Eager:
    n_features_in_ = 4

    def __init__(self):
        self.inner = HistGradientBoostingClassifier(max_iter=3).fit(ROWS, ROWS[:, 0] > 0.5)

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, rows):
        return self.inner.predict(rows).astype(int)

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.predict(ROWS)
"""
SCRIPT = """
import json
from eager_model import Eager

def init():
    global model
    model = Eager()

def run(data):
    return model.predict(json.loads(data)["data"]).tolist()
"""


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def test_a_script_may_compute_in_parallel_in_init(start_scorer, make_script):
    folder = make_script(SCRIPT, eager_model__py=PARALLEL)
    scorer = start_scorer(folder, "python", workers=1)
    assert scorer.post("/score", {"data": [[0.9, 0, 0, 0], [0.1, 0, 0, 0]]}).json == [1, 0]


def test_a_model_may_compute_in_parallel_while_it_is_unpickled(start_scorer, tmp_path, monkeypatch):
    (tmp_path / "eager_model.py").write_text(PARALLEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    import eager_model

    joblib.dump(eager_model.Eager(), tmp_path / "model.joblib")
    scorer = start_scorer(tmp_path, "sklearn", workers=1, trust_pickle="true")
    assert scorer.post("/score", {"data": [[0.9, 0, 0, 0], [0.1, 0, 0, 0]]}).json == [1, 0]
    assert any("native code" in str(record.get("threads")) for record in scorer.records())
