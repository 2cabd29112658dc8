"""The FAQ corpus: reads the tables, splits the duplicates, and pairs them with questions.

Takes the folder with this example's own TSV files, or with those of the public reference
implementation, and gives data frames and index arrays. It never trains and never writes.
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]
Clean = Callable[[str], str]
REFERENCE_FILES = ("orig-q.tsv.gz", "dup-q.tsv.gz", "ans.tsv.gz")
OWN_FILES = ("questions.tsv", "duplicates.tsv", "answers.tsv")


class CorpusError(Exception):
    """The data folder does not hold what training needs; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Questions with their answers, and duplicates of them.

    Attributes:
        questions: columns Id, AnswerId, Title, Text, Answer; all texts.
        duplicates: columns Id, AnswerId, Text; each AnswerId is that of one question.
    """

    questions: pd.DataFrame
    duplicates: pd.DataFrame

    def positions(self) -> Ints:
        """Row number in `questions` of the original of each duplicate."""
        place = {answer: i for i, answer in enumerate(self.questions["AnswerId"])}
        return np.array([place[a] for a in self.duplicates["AnswerId"]], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a duplicate and a question: row numbers, label 1 where they match, weight."""

    duplicates: Ints
    questions: Ints
    labels: Ints
    weights: npt.NDArray[np.float64]


def read_corpus(
    folder: Path, clean: Clean, *, min_text: int | None = None, min_duplicates: int | None = None
) -> Corpus:
    """Read whichever of the two layouts the folder holds.

    Args:
        folder: has `questions.tsv, duplicates.tsv, answers.tsv`, or the reference's
            `orig-q.tsv.gz, dup-q.tsv.gz, ans.tsv.gz`.
        clean: takes markup out of a text.
        min_text: shortest text, in characters after cleaning, of a question or duplicate that is
            kept. Default: 1 for our files, 150 for the reference's, as there.
        min_duplicates: fewest duplicates of a question that is kept. Default: 2, or 12.

    Raises:
        CorpusError: files are missing, or nothing is left.
    """
    if all((folder / name).is_file() for name in OWN_FILES):
        corpus = _read_own(folder, clean)
        defaults = (1, 2)
    elif all((folder / name).is_file() for name in REFERENCE_FILES):
        corpus = _read_reference(folder, clean)
        defaults = (150, 12)
    else:
        raise CorpusError(
            f"{folder} holds neither {', '.join(OWN_FILES)} nor {', '.join(REFERENCE_FILES)}"
        )
    return _restrict(
        corpus,
        defaults[0] if min_text is None else min_text,
        defaults[1] if min_duplicates is None else min_duplicates,
    )


def _read_own(folder: Path, clean: Clean) -> Corpus:
    tables = [
        pd.read_csv(folder / name, sep="\t", quoting=3, dtype=str, keep_default_na=False)
        for name in OWN_FILES
    ]
    questions, duplicates, answers = tables
    questions["Answer"] = questions["AnswerId"].map(answers.set_index("Id")["Text"])
    duplicates["AnswerId"] = duplicates["QuestionId"].map(questions.set_index("Id")["AnswerId"])
    if questions["Answer"].isna().any() or duplicates["AnswerId"].isna().any():
        raise CorpusError(f"{folder}: a question has no answer, or a duplicate has no question")
    duplicates["Text"] = duplicates["Text"].map(clean)
    return Corpus(questions, duplicates[["Id", "AnswerId", "Text"]])


def _read_reference(folder: Path, clean: Clean) -> Corpus:
    # No header in these files. Id, AnswerId, Text0, CreationDate; the answers have Id and Text0.
    tables = []
    for name, columns in zip(
        REFERENCE_FILES, (["Id", "AnswerId", "Text"], ["Id", "AnswerId", "Text"], ["Id", "Text"]),
        strict=True,
    ):  # fmt: skip
        with gzip.open(folder / name, "rt", encoding="utf8") as stream:
            table = pd.read_csv(stream, sep="\t", header=None, dtype=str, keep_default_na=False)
        table = table.iloc[:, : len(columns)].set_axis(columns, axis=1)
        table["Text"] = table["Text"].map(clean)
        tables.append(table[table["Text"] != ""].drop_duplicates("Id"))
    questions, duplicates, answers = tables
    duplicates = duplicates[~duplicates["Id"].isin(questions["Id"])]
    questions = questions.drop_duplicates("AnswerId")
    questions = questions[questions["AnswerId"].isin(answers["Id"])].copy()
    questions["Answer"] = questions["AnswerId"].map(answers.set_index("Id")["Text"])
    # The reference has title and body in one text; what fits a line stands in for the title.
    questions["Title"] = questions["Text"].str.slice(0, 100)
    return Corpus(questions[["Id", "AnswerId", "Title", "Text", "Answer"]], duplicates)


def _restrict(corpus: Corpus, min_text: int, min_duplicates: int) -> Corpus:
    questions, duplicates = corpus.questions, corpus.duplicates
    questions = questions[questions["Text"].str.len() >= min_text]
    duplicates = duplicates[duplicates["Text"].str.len() >= min_text]
    duplicates = duplicates[duplicates["AnswerId"].isin(questions["AnswerId"])]
    counts = duplicates["AnswerId"].value_counts()
    kept = counts.index[counts >= max(min_duplicates, 2)]  # one to train on, one to hold out
    questions = questions[questions["AnswerId"].isin(kept)].reset_index(drop=True)
    duplicates = duplicates[duplicates["AnswerId"].isin(kept)].reset_index(drop=True)
    if len(questions) < 2:
        raise CorpusError(
            f"{len(questions)} questions have {min_duplicates} duplicates of {min_text} characters;"
            " lower --min-duplicates or --min-text"
        )
    return Corpus(questions, duplicates)


def split_stratified(owners: Ints, share: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Hold out a share of the duplicates of every question, at least one of each.

    Args:
        owners: question of each duplicate.
        share: part that is held out, 0 to 1; rounded down per question, as the reference did.
        rng: decides which.

    Returns:
        Row numbers to train on and row numbers held out, both ascending.
    """
    held_out = np.zeros(len(owners), dtype=bool)
    for question in np.unique(owners):
        rows = np.flatnonzero(owners == question)
        held_out[rng.choice(rows, max(1, int(len(rows) * share)), replace=False)] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def build_pairs(owners: Ints, questions: int, match: int, rng: np.random.Generator) -> Pairs:
    """Pair every duplicate with its question and with match - 1 sampled others.

    Args:
        owners: question of each duplicate.
        questions: how many there are.
        match: pairs a duplicate, one of them the true one; fewer where there are fewer questions.
        rng: samples the others, without repetition.

    Returns:
        The pairs; weights make both labels count the same in total.
    """
    others = min(match, questions) - 1
    columns = np.empty((len(owners), others + 1), dtype=np.int64)
    columns[:, 0] = owners
    for row, owner in enumerate(owners):
        sampled = rng.choice(questions - 1, others, replace=False)
        columns[row, 1:] = sampled + (sampled >= owner)
    labels = np.zeros_like(columns)
    labels[:, 0] = 1
    weights = np.where(labels == 1, 0.5, 0.5 / others) * (others + 1)
    rows = np.repeat(np.arange(len(owners)), others + 1)
    return Pairs(rows, columns.ravel(), labels.ravel(), weights.ravel())
