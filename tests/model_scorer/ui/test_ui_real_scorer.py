"""The page of the real server, with small models behind it."""

from __future__ import annotations

import joblib
import pytest

KEY = "test-key-1"
FAQ = """
import json

def run(data):
    words = len(json.loads(data)["input"].split())
    return [[100 + n, 200 + n, round(1 / (n + words), 4)] for n in range(20)]
"""


@pytest.fixture(scope="module")
def iris(start_scorer, iris_folder):
    row = [5.1, 3.5, 1.4, 0.2]
    return start_scorer(
        iris_folder,
        "sklearn",
        model_name="iris",
        revision="r7",
        sample={"request": {"data": [row]}},
    )


def address(scorer):
    return f"http://127.0.0.1:{scorer.port}/ui"


def test_files_need_no_key_and_the_description_does(iris):
    for path in ("/ui", "/ui/app.js", "/ui/app.css"):
        reply = iris.get(path, key=None)
        assert reply.status == 200
        assert "Set-Cookie" not in reply.headers
    assert "default-src 'none'" in iris.get("/ui", key=None).headers["Content-Security-Policy"]
    refused = iris.get("/ui/model.json", key=None)
    assert (refused.status, "message" in refused.json) == (401, True)
    assert iris.get("/ui/model.json").json["kind"] == "rows"
    assert iris.request("POST", "/ui", b"{}").status == 405
    assert iris.get("/ui/nothing", key=None).status == 401
    slash = iris.get("/ui/", key=None)
    assert (slash.status, slash.headers["Location"]) == (308, "../ui")


def test_an_unchanged_file_is_answered_with_304(iris):
    first = iris.get("/ui/app.js", key=None)
    again = iris.get("/ui/app.js", key=None, headers={"If-None-Match": first.headers["Etag"]})
    assert (again.status, again.body) == (304, b"")


def test_head_gives_the_pages_headers(iris):
    reply = iris.request("HEAD", "/ui", key=None)
    assert (reply.status, reply.body) == (200, b"")


def test_a_row_of_iris_gets_probabilities(iris, page):
    page.open(address(iris), key=KEY)
    assert page.text("#about").endswith("revision r7")
    assert page.find("#cell-0-0").get_property("value") == "5.1"
    page.score()
    assert page.texts("#answers caption") == ["Row 1: 0"]
    assert page.texts("#answers tbody tr")[0].startswith("class 0 9")
    page.type("#cell-0-0", "6.7")
    page.type("#cell-0-2", "5.2")
    page.type("#cell-0-3", "2.3")
    page.score()
    assert page.texts("#answers caption") == ["Row 1: 2"]


def test_classes_have_their_names(start_scorer, tmp_path, page):
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    iris = load_iris()
    fitted = LogisticRegression(max_iter=500).fit(iris.data, iris.target_names[iris.target])
    joblib.dump(fitted, tmp_path / "model.joblib")
    sample = {"request": {"data": [[5.1, 3.5, 1.4, 0.2]]}}
    scorer = start_scorer(tmp_path, "sklearn", workers=1, sample=sample, auth_mode="None")
    page.open(address(scorer))
    page.score()
    assert page.texts("#answers caption") == ["Row 1: setosa"]
    assert [row.rsplit(" ", 2)[0] for row in page.texts("#answers tbody tr")] == [
        "setosa",
        "versicolor",
        "virginica",
    ]
    assert page.text("#status").startswith("Row 1: setosa: 9")


def test_plain_rows_are_scored_from_the_json_editor(iris, page):
    page.open(address(iris), key=KEY)
    page.click("#as-json")
    page.score()
    assert page.texts("#answers li") == ["0"]
    assert "in the model" in page.text(".facts")
    page.type("#json", '{"data": [[1, 2]]}')
    page.score()
    assert "expected 4 features" in page.text("#answers .bad")
    page.type("#json", "{")
    assert "not JSON yet" in page.text("#send-note")


def test_a_wrong_key_is_told_as_the_server_tells_it(iris, page):
    page.open(address(iris))
    page.type("#key", "wrong")
    page.click("#key-form .primary")
    page.until(lambda: page.texts("#trouble .bad"))
    assert "the API key is wrong" in page.text("#trouble .bad")
    assert not page.find("#request").is_displayed()


def test_a_question_is_matched_by_a_score_script(start_scorer, make_script, page):
    sample = {"request": {"input": "why so"}}
    scorer = start_scorer(make_script(FAQ), "python", workers=1, sample=sample, auth_mode="None")
    page.open(address(scorer))
    assert page.find("#question").get_property("value") == "why so"
    page.type("#question", "one two three four")
    page.score()
    rows = page.texts("#answers tbody tr")
    assert (len(rows), rows[0]) == (15, "100 200 25.0 %")


def test_columns_of_a_table_become_fields(start_scorer, tmp_path, page):
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = pandas.DataFrame({"age": [20.0, 60.0] * 10, "job": ["cook", "clerk"] * 10})
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["job"]), remainder="passthrough"
    )
    fitted = make_pipeline(encode, LogisticRegression()).fit(table, ["young", "old"] * 10)
    joblib.dump(fitted, tmp_path / "model.joblib")
    sample = {"request": {"data": [{"age": 20, "job": "cook"}]}}
    scorer = start_scorer(tmp_path, "sklearn", workers=1, sample=sample, auth_mode="None")
    page.open(address(scorer))
    assert page.texts("fieldset label") == ["age", "job"]
    page.score()
    assert page.texts("#answers caption") == ["Row 1: young"]


def test_the_page_can_be_switched_off(start_scorer, make_script):
    scorer = start_scorer(make_script("def run(data): return 1\n"), "python", workers=1, ui="false")
    for path in ("/ui", "/ui/app.js", "/ui/model.json"):
        assert scorer.get(path).status == 404
