"""MLflow: the loader module of a `python_function` model; `mlflow models serve` does the rest."""

import os

import numpy as np
from workloads.application import load


class BenchModel:
    """The application behind a pyfunc model."""

    def __init__(self):
        self.model = load()

    def predict(self, model_input, params=None):
        """Rows or texts, as MLflow parsed `inputs`."""
        if os.environ["BENCH_WORKLOAD"] == "faq":
            return self.model.score_many([str(text) for text in np.asarray(model_input).ravel()])
        return self.model.score_many([np.asarray(model_input)])[0]


def _load_pyfunc(path):
    return BenchModel()
