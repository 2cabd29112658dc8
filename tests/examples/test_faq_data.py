"""The shipped FAQ data: enough of it, consistent, and written by hand rather than by a pattern."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

DATA = Path(__file__).parents[2] / "examples" / "faq" / "data"


def read(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture(scope="module")
def questions() -> list[dict[str, str]]:
    return read("questions.tsv")


@pytest.fixture(scope="module")
def duplicates() -> list[dict[str, str]]:
    return read("duplicates.tsv")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_there_are_at_least_100_questions_with_8_duplicates_each(questions, duplicates):
    counts = Counter(row["QuestionId"] for row in duplicates)
    assert len(questions) >= 100
    assert set(counts) == {row["Id"] for row in questions}
    assert min(counts.values()) >= 8


def test_every_question_has_one_answer_of_two_sentences_or_more(questions):
    answers = {row["Id"]: row["Text"] for row in read("answers.tsv")}
    assert set(answers) == {row["AnswerId"] for row in questions}
    for text in answers.values():
        assert len(re.findall(r"[.!?;:](?:\s|$)", text)) >= 2, text
        assert len(text) >= 100, text


def test_ids_and_texts_are_unique(questions, duplicates):
    for rows, key in ((questions, "Id"), (questions, "AnswerId"), (duplicates, "Id")):
        assert len({row[key] for row in rows}) == len(rows)
    texts = [row["Text"] for row in (*questions, *duplicates)] + [q["Title"] for q in questions]
    # Signs count here: "== or ===" and "|| or ??" have the same words.
    normal = Counter(" ".join(text.casefold().split()) for text in texts)
    assert [text for text, count in normal.items() if count > 1] == []


def test_no_row_has_empty_or_padded_cells(questions, duplicates):
    for row in (*questions, *duplicates, *read("answers.tsv")):
        assert all(cell and cell == cell.strip() for cell in row.values()), row


def test_no_two_duplicates_are_nearly_the_same_sentence(duplicates):
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(
        [row["Text"] for row in duplicates]
    )
    similar = (vectors @ vectors.T).tocoo()
    pairs = [
        (duplicates[i]["Text"], duplicates[j]["Text"])
        for i, j, value in zip(similar.row, similar.col, similar.data, strict=True)
        if i < j and value > 0.9
    ]
    assert pairs == []


def test_no_sentence_frame_repeats(duplicates):
    openings = Counter(
        tuple(tokens[:4]) for row in duplicates if len(tokens := words(row["Text"])) >= 6
    )
    opening, count = openings.most_common(1)[0]
    assert count <= 8, opening
    endings = Counter(
        tuple(tokens[-4:]) for row in duplicates if len(tokens := words(row["Text"])) >= 6
    )
    ending, count = endings.most_common(1)[0]
    assert count <= 8, ending


def test_short_and_long_ways_of_asking_are_there(duplicates):
    lengths = sorted(len(row["Text"]) for row in duplicates)
    assert lengths[len(lengths) // 20] < 30
    assert lengths[-len(lengths) // 20] > 150
