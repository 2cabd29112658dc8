"""The FAQ example trained on its own data: accuracy, the score.py contract, the command line."""

import importlib.util
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import joblib
import pytest
import yaml

# One worker trains once for all of these.

FAQ = Path(__file__).parents[2] / "examples" / "faq"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run_program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, env=ENVIRONMENT,
    )  # fmt: skip


class Trained:
    def __init__(self, folder: Path) -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run_program(FAQ / "train.py", "--out", folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        self.folder, self.output, self.progress = folder, done.stdout, done.stderr
        self.cpu_seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        self.metrics = json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("faq") / "model")


@pytest.fixture(scope="session")
def score(trained: Trained) -> ModuleType:
    spec = importlib.util.spec_from_file_location("faq_trained_score", trained.folder / "score.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.init()
    return module


def body(text: object) -> str:
    return json.dumps({"input": text})


def test_held_out_duplicates_find_their_question_as_often_as_the_readme_says(trained):
    assert trained.metrics["accuracy_at_1"] >= 0.64
    assert trained.metrics["accuracy_at_2"] >= 0.74
    assert trained.metrics["accuracy_at_3"] >= 0.79
    assert trained.metrics["mean_rank"] <= 4.8


def test_accuracy_and_rank_are_printed(trained):
    shown = f"accuracy at 1  {trained.metrics['accuracy_at_1']:6.1%}"
    assert shown in trained.output
    assert "mean rank" in trained.output


def test_training_takes_less_than_15_seconds_of_one_core(trained):
    assert trained.cpu_seconds < 15


def test_progress_is_a_line_a_stage_when_not_on_a_terminal(trained):
    lines = trained.progress.strip().split("\n")
    assert [line[:5] for line in lines] == [f"[{i}/5]" for i in range(1, 6)]


def test_model_pickles_nothing_but_scikit_learn_and_numpy(trained, tmp_path):
    joblib.dump(joblib.load(trained.folder / "model.joblib"), tmp_path / "plain.joblib")
    modules = set()

    class Recorder(joblib.numpy_pickle.NumpyUnpickler):
        def find_class(self, module: str, name: str) -> object:
            modules.add(module.split(".")[0])
            return super().find_class(module, name)

    with (tmp_path / "plain.joblib").open("rb") as stream:
        Recorder(str(tmp_path / "plain.joblib"), stream, True).load()
    assert modules <= {"sklearn", "numpy", "joblib"}


def test_answer_is_every_question_as_a_triple_best_first(score, trained):
    triples = score.run((FAQ / "request.json").read_text())
    assert len(triples) == trained.metrics["questions"]
    assert len({question for question, _, _ in triples}) == len(triples)
    assert [triples[0][0], triples[0][1]] == [101, 1001]
    probabilities = [p for _, _, p in triples]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(0 <= p <= 1 for p in probabilities)
    assert json.loads(json.dumps(triples)) == triples


def test_list_of_texts_gives_a_list_of_answers(score):
    texts = ["how do I shuffle an array", "fetch and cookies"]
    assert score.run(body(texts))[1][0][0] == score.run(body(texts[1]))[0][0]


def test_batch_equals_single(score):
    bodies = [
        body("sleep for two seconds"),
        body(["NaN check", "a b"]),
        body("CORS " * 100).encode(),
    ]
    together = score.run_batch(bodies)
    for one, answer in zip(bodies, together, strict=True):
        flat = answer if isinstance(answer[0][0], list) else [answer]
        alone = score.run(one)
        for left, right in zip(
            flat, alone if isinstance(alone[0][0], list) else [alone], strict=True
        ):
            assert [row[2] for row in left] == pytest.approx([row[2] for row in right])


def test_fast_vectoriser_equals_the_fitted_one(score, trained):
    texts = ["how do i loop", "", "loop loop loop closure", "漢字"]
    model = joblib.load(trained.folder / "model.joblib")
    for _, fitted in model["features"].transformer_list:
        difference = score.Vectoriser(fitted).transform(texts) - fitted.transform(texts)
        assert abs(difference).max() < 1e-12


def test_text_without_known_words_is_answered_too(score):
    assert len(score.run(body("漢字 ☃"))) == len(score.run(body("closure")))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("not json", "not JSON"),
        ("", "not JSON"),
        ("[1]", 'key "input" is missing'),
        ('{"inputs": "a"}', 'key "input" is missing'),
        ('{"input": 3}', 'key "input" must be a text'),
        ('{"input": " "}', 'key "input" must be a text'),
        ('{"input": []}', 'key "input" is an empty list'),
        ('{"input": ["a", null]}', 'key "input" must be a text'),
        (json.dumps({"input": "x" * 20_001}), "at most 20000"),
    ],
)
def test_bad_body_raises_value_error_that_names_the_key(score, raw, message):
    with pytest.raises(ValueError, match=message):
        score.run(raw)


def test_init_reads_the_folder_named_by_the_environment(trained, monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("faq_other_score", FAQ / "score.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(trained.folder))
    with pytest.raises(RuntimeError, match="init"):
        module.run(body("x"))
    module.init()
    assert module.run(body("closures"))


def test_command_line_prints_three_titles(trained):
    done = run_program(trained.folder / "score.py", "sort numbers ascending")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().split("\n")) == 3
    assert "Why does sort order numbers wrongly?" in done.stdout.split("\n")[0]


def test_sample_request_of_the_manifest_is_the_request_file():
    manifest = yaml.safe_load((FAQ / "scoringmodel.yaml").read_text())
    assert manifest["spec"]["test"]["request"] == json.loads((FAQ / "request.json").read_text())


def test_missing_data_folder_ends_with_a_sentence(tmp_path):
    done = run_program(FAQ / "train.py", "--data", tmp_path, "--out", tmp_path / "model")
    assert done.returncode == 1
    assert "train.py: " in done.stderr
    assert "Traceback" not in done.stderr
