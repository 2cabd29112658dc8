"""A folder that MLflow saved, as it is: the signature in its MLmodel file says what clients may send."""

from __future__ import annotations

import warnings

import pytest

NAMES = ("sepal length", "sepal width", "petal length", "petal width")
ROW = [6.7, 3.0, 5.2, 2.3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, start_scorer):
    """Fitted with an array, its signature inferred from a table."""
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    features, classes = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(features, classes)
    table = pd.DataFrame(features, columns=NAMES)
    folder = tmp_path_factory.mktemp("mlflow") / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            model,
            folder,
            signature=infer_signature(table, classes),
            pip_requirements=["scikit-learn"],
        )
    return start_scorer(folder, "sklearn", model_name="iris", workers="1")


def test_rows_are_taken_by_the_declared_names(saved):
    row = dict(zip(reversed(NAMES), reversed(ROW), strict=True))
    split = {"columns": list(row), "data": [list(row.values())]}
    assert saved.post("/invocations", {"dataframe_split": split}).json == {"predictions": [2]}
    assert saved.post("/invocations", {"dataframe_records": [row]}).json == {"predictions": [2]}
    assert saved.post("/score", {"data": [row]}).json == [2]
    assert saved.post("/score", {"data": [ROW]}).json == [2]
    assert "Traceback" not in saved.log()


def test_refusals_name_the_declared_column(saved):
    row = dict(zip(NAMES, ROW, strict=True))
    reply = saved.post("/score", {"data": [row | {"petal width": "wide"}]})
    assert reply.status in (400, 422)
    assert "column 'petal width': expected a number, got the text 'wide'" in reply.json["message"]
    del row["petal width"]
    assert "missing 'petal width'" in saved.post("/score", {"data": [row]}).json["message"]


def test_the_descriptions_have_the_declared_names(saved):
    document = saved.get("/openapi.json").json
    record = document["components"]["schemas"]["Rows"]["items"]["oneOf"][0]
    assert record["required"] == list(NAMES)
    body = document["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["example"]["data"][0]) == set(NAMES)
    page = saved.get("/ui/model.json").json
    assert [column["name"] for column in page["rows"]["columns"]] == list(NAMES)
    metadata = saved.get("/v2/models/iris").json
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP64", "shape": [-1, 4]}]
