"""Reading, splitting and pairing of the FAQ example."""

import gzip
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FAQ = Path(__file__).parents[2] / "examples" / "faq"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"faq_example_{name}", FAQ / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus() -> ModuleType:
    return load("faq_corpus")


@pytest.fixture(scope="module")
def score() -> ModuleType:
    return load("score")


def write_reference(folder: Path, tables: dict[str, list[list[str]]]) -> None:
    for name, rows in tables.items():
        with gzip.open(folder / name, "wt", encoding="utf8") as stream:
            stream.writelines("\t".join(row) + "\n" for row in rows)


@pytest.fixture
def reference_folder(tmp_path: Path) -> Path:
    day = "2012-05-01"
    write_reference(
        tmp_path,
        {
            "orig-q.tsv.gz": [
                [
                    "10",
                    "11",
                    "<p>How do I loop? <pre><code>for (;;) {}</code></pre> Tell me.</p>",
                    day,
                ],
                ["20", "21", "<p>What is a closure, really?</p>", day],
                ["30", "31", "<p>Nobody asked this one again.</p>", day],
                ["40", "41", "<p>This question has no answer.</p>", day],
            ],
            "dup-q.tsv.gz": [
                ["101", "11", "loop over things", day],
                ["102", "11", "<b>looping</b> in a list", day],
                ["103", "21", 'see <a href="http://a.example/x">closures</a> please', day],
                ["104", "21", "inner function remembers", day],
                ["104", "21", "inner function remembers, given twice", day],
                ["10", "21", "an original among the duplicates", day],
                ["105", "31", "only one duplicate", day],
            ],
            "ans.tsv.gz": [["11", "Use for."], ["21", "A function."], ["31", "Yes."]],
        },
    )
    return tmp_path


def test_reference_files_are_read_cleaned_and_restricted(corpus, score, reference_folder):
    read = corpus.read_corpus(reference_folder, score.clean_text, min_text=5, min_duplicates=2)
    assert list(read.questions["Id"]) == ["10", "20"]
    assert read.questions["Text"][0] == "How do I loop? Tell me."
    assert list(read.questions["Answer"]) == ["Use for.", "A function."]
    assert list(read.duplicates["Id"]) == ["101", "102", "103", "104"]
    assert read.duplicates["Text"][2] == "see closures please"
    assert list(read.positions()) == [0, 0, 1, 1]


def test_reference_defaults_are_those_of_the_reference(corpus, score, reference_folder):
    with pytest.raises(corpus.CorpusError, match="12 duplicates of 150 characters"):
        corpus.read_corpus(reference_folder, score.clean_text)


def test_folder_without_tables_is_refused_with_the_names_of_the_files(corpus, score, tmp_path):
    with pytest.raises(corpus.CorpusError, match=r"questions\.tsv.*orig-q\.tsv\.gz"):
        corpus.read_corpus(tmp_path, score.clean_text)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a <pre><code>if (x)\n  y()</code></pre> b", "a b"),
        ('see <a href="http://x.example">the manual</a> now', "see the manual now"),
        ("read https://x.example/a?b=1 first", "read first"),
        ("<p>one</p><p>two</p>", "one two"),
        ("i < 5 and j > 3", "i < 5 and j > 3"),
    ],
)
def test_clean_text_leaves_the_words(score, text, clean):
    assert score.clean_text(text) == clean


def test_split_holds_out_the_share_of_every_question_and_at_least_one(corpus):
    owners = np.repeat([0, 1, 2], [14, 3, 30])
    kept, held_out = corpus.split_stratified(owners, 0.21, np.random.default_rng(0))
    assert np.bincount(owners[held_out]).tolist() == [2, 1, 6]
    assert sorted([*kept, *held_out]) == list(range(47))


def test_split_depends_on_the_seed_alone(corpus):
    owners = np.repeat(np.arange(9), 14)
    first, again, other = (
        corpus.split_stratified(owners, 0.21, np.random.default_rng(seed))[1] for seed in (3, 3, 4)
    )
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_each_duplicate_meets_its_question_once_and_others_without_repetition(corpus):
    owners = np.repeat(np.arange(30), 4)
    pairs = corpus.build_pairs(owners, 30, 20, np.random.default_rng(0))
    assert len(pairs.labels) == 120 * 20
    assert (pairs.labels == (owners[pairs.duplicates] == pairs.questions)).all()
    assert np.bincount(pairs.duplicates[pairs.labels == 1]).tolist() == [1] * 120
    assert len(set(zip(pairs.duplicates, pairs.questions, strict=True))) == len(pairs.labels)


def test_weights_balance_matches_and_others(corpus):
    pairs = corpus.build_pairs(np.repeat(np.arange(30), 4), 30, 20, np.random.default_rng(0))
    matching = pairs.weights[pairs.labels == 1].sum()
    assert matching == pytest.approx(pairs.weights[pairs.labels == 0].sum())
    assert pairs.weights.mean() == pytest.approx(1.0)


def test_few_questions_give_fewer_pairs(corpus):
    pairs = corpus.build_pairs(np.array([0, 1, 2]), 3, 20, np.random.default_rng(0))
    assert sorted(zip(pairs.duplicates, pairs.questions, strict=True)) == [
        (i, j) for i in range(3) for j in range(3)
    ]


def test_stems_of_the_same_word_meet_and_names_are_taken_apart(score):
    assert score.normalise("looping loops looped") == "loop loop loop"
    assert {"add", "event"} <= set(score.normalise("addEventListener").split())


def test_summary_leaves_out_the_text_itself(score):
    slots = score.build_slots([0, 0, 1], 2)
    similarities = np.array([[1.0, 0.4, 0.2]])
    best, _, mean = score.summarise(similarities, slots)
    assert best.tolist() == [[1.0, 0.2]]
    best, _, mean = score.summarise(similarities, slots, np.array([0]))
    assert best.tolist() == [[0.4, 0.2]]
    assert mean.tolist() == [[0.4, 0.2]]
