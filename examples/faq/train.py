"""Trains the FAQ model: which known JavaScript question does a new question repeat?

    python examples/faq/train.py

Takes a folder of questions, answers and duplicates (the shipped one, or that of the public
reference implementation), trains on most duplicates, prints how often the right question comes
first, among the first two and three for those held out, and writes a model folder that
`score.py` serves. It needs no network and one core.
"""

import argparse
import importlib.util
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import joblib
import numpy as np
import numpy.typing as npt
from faq_corpus import Corpus, CorpusError, Ints, build_pairs, read_corpus, split_stratified
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

Floats = npt.NDArray[np.float64]
HERE = Path(__file__).resolve().parent
FOLDS = 5  # for the one feature whose leave-one-out has no short cut
RIDGE = 1.0
CHUNK_ROWS = 256  # bounds memory when there are thousands of duplicates


class Progress:
    """A bar on a terminal, a line a stage anywhere else.

    Args:
        stages: how many `stage` calls will come.
        stream: where to write.
    """

    def __init__(self, stages: int, stream: TextIO) -> None:
        self._stages, self._stream, self._done = stages, stream, 0
        self._started = time.monotonic()

    def stage(self, text: str) -> None:
        """Say what begins now."""
        seconds = time.monotonic() - self._started
        if self._stream.isatty():
            filled = round(24 * self._done / self._stages)
            bar = "#" * filled + "." * (24 - filled)
            self._stream.write(f"\r\033[K[{bar}] {seconds:4.1f} s  {text}")
        else:
            self._stream.write(f"[{self._done + 1}/{self._stages}] {text}\n")
        self._stream.flush()
        self._done = min(self._done + 1, self._stages)

    def finish(self) -> None:
        """Close the bar."""
        if self._stream.isatty():
            seconds = time.monotonic() - self._started
            self._stream.write(f"\r\033[K[{'#' * 24}] {seconds:4.1f} s  done\n")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How the held-out duplicates fared: share ranked at 1, within 2, within 3; mean rank."""

    at_1: float
    at_2: float
    at_3: float
    mean_rank: float


def load_score() -> ModuleType:
    """Import the score.py beside this file under a name that cannot meet another score.py."""
    spec = importlib.util.spec_from_file_location("faq_score", HERE / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fit_ridge(similarities: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Fit ridge regression in its dual form, with the exact leave-one-out prediction.

    Args:
        similarities: shape (n, n), the kernel.
        targets: shape (n, questions).

    Returns:
        The dual weights and the leave-one-out predictions, both (n, questions).
        Source of the short cut: Hastie, Tibshirani, Friedman, The Elements of Statistical
        Learning, section 7.10.
    """
    inverse = np.linalg.inv(similarities + RIDGE * np.eye(len(similarities)))
    weights = inverse @ targets
    return weights, targets - weights / np.diag(inverse)[:, None]


def build_features() -> FeatureUnion:
    """The two TF-IDFs: words with pairs of words, and pieces of 2 to 5 characters."""
    return FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")),
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)),
        ]
    )  # fmt: skip


def train(corpus: Corpus, owners: Ints, rng: np.random.Generator, *, match: int, score: ModuleType,
          progress: Progress) -> dict[str, Any]:  # fmt: skip
    """Train on all duplicates of the corpus.

    Every feature of a training duplicate is computed as if that duplicate were unknown, as it will
    be for a new question; otherwise the classifier would learn to trust identical texts.

    Args:
        corpus: questions and the duplicates to train on.
        owners: question of each duplicate.
        rng: samples pairs, folds and trees.
        match: pairs a duplicate.
        score: the module score.py.
        progress: told of four stages.

    Returns:
        What score.Matcher takes as `model`.
    """
    count, known = len(corpus.questions), len(owners)
    progress.stage(f"TF-IDF of {known:,} phrasings of {count} questions")
    texts = score.known_texts(corpus.questions, corpus.duplicates)
    all_owners = np.concatenate([owners, *([np.arange(count)] * 3)])
    # Document frequencies are counted over questions, not over phrasings: a word that all
    # phrasings of one question share is a rare word, and the best there is.
    features = build_features().fit(score.build_profiles(texts, owners, count))

    progress.stage("similarities, leaving out the phrasing itself")
    slots = score.build_slots(owners, count)
    folds = rng.integers(0, FOLDS, known)
    columns: list[Floats] = []
    kernel = np.zeros((len(texts), len(texts)))
    for _, transformer in features.transformer_list:
        rows = transformer.transform(texts)
        similarities = (rows @ rows.T).toarray()
        kernel += similarities / len(features.transformer_list)
        columns += score.split_similarities(similarities[:known], known, count)
        parts = [
            score.summarise(similarities[part][:, :known], slots, part)
            for part in np.array_split(np.arange(known), -(-known // CHUNK_ROWS))
        ]
        columns += [np.concatenate(column) for column in zip(*parts, strict=True)]
        profile = np.zeros((known, count))
        for fold in range(FOLDS):
            kept = np.concatenate([folds != fold, np.ones(3 * count, dtype=bool)])
            joined: list[list[str]] = [[] for _ in range(count)]
            for row in np.flatnonzero(kept):
                joined[all_owners[row]].append(texts[row])
            profiles = transformer.transform([" ".join(parts) for parts in joined])
            inside = np.flatnonzero(folds == fold)
            profile[inside] = (rows[inside] @ profiles.T).toarray()
        columns.append(profile)
    targets = (all_owners[:, None] == np.arange(count)) - 1 / count
    weights, left_out = fit_ridge(kernel, targets)
    columns.append(left_out[:known])

    pairs = build_pairs(owners, count, match, rng)
    progress.stage(f"pair classifiers on {len(pairs.labels):,} pairs")
    table = score.compare_with_best(np.stack(columns, axis=2))[pairs.duplicates, pairs.questions]
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    linear.fit(table, pairs.labels, logisticregression__sample_weight=pairs.weights)
    boosted = GradientBoostingClassifier(
        n_estimators=100, learning_rate=0.1, max_depth=3, min_samples_leaf=20, subsample=0.25,
        max_features=6, random_state=int(rng.integers(2**31)),
    )  # fmt: skip
    boosted.fit(table, pairs.labels, sample_weight=pairs.weights)
    return {"features": features, "weights": weights, "linear": linear, "boosted": boosted}


def evaluate(probabilities: Floats, owners: Ints) -> Accuracy:
    """Rank the right question of each text; equal probabilities share the mean of their ranks."""
    right = probabilities[np.arange(len(owners)), owners][:, None]
    ties = (probabilities == right).sum(1) - 1
    ranks = 1 + (probabilities > right).sum(1) + ties / 2
    at = [float((ranks <= k).mean()) for k in (1, 2, 3)]
    return Accuracy(at_1=at[0], at_2=at[1], at_3=at[2], mean_rank=float(ranks.mean()))


def write_model(folder: Path, model: dict[str, Any], corpus: Corpus) -> None:
    """Write the folder that a ScoringModel's modelURI names."""
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "model.joblib")
    shutil.copyfile(HERE / "score.py", folder / "score.py")
    for name, table in (("questions", corpus.questions), ("phrasings", corpus.duplicates)):
        flat = table.apply(lambda column: column.str.replace(r"[\t\r\n]+", " ", regex=True))
        lines = ["\t".join(row) for row in [flat.columns, *flat.itertuples(index=False)]]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf8")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--data", type=Path, default=HERE / "data", metavar="DIR",
        help="questions.tsv, duplicates.tsv and answers.tsv, or the reference's orig-q.tsv.gz,"
             " dup-q.tsv.gz and ans.tsv.gz (default: the shipped data)")  # fmt: skip
    add("--out", type=Path, default=HERE / "model", metavar="DIR",
        help="where the model goes (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=7, help="decides split, samples and trees (default: 7)")
    add("--match", type=int, default=20, help="pairs a duplicate, one of them true (default: 20)")
    add("--test-share", type=float, default=0.21, help="part held out (default: 0.21)")
    add("--min-text", type=int, help="shortest text in characters (default: 1; reference: 150)")
    add("--min-duplicates", type=int, help="fewest a question (default: 2; reference: 12)")
    parsed = parser.parse_args(arguments)
    if parsed.match < 2 or not 0 < parsed.test_share < 1:
        parser.error("--match must be at least 2, and --test-share between 0 and 1")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Train, write the model folder, and print the accuracy on what was held out."""
    options = parse_arguments(arguments)
    score = load_score()
    progress = Progress(5, sys.stderr)
    started = time.monotonic()
    progress.stage(f"reading {options.data}")
    try:
        corpus = read_corpus(options.data, score.clean_text, min_text=options.min_text,
                             min_duplicates=options.min_duplicates)  # fmt: skip
    except CorpusError as err:
        print(f"train.py: {err}", file=sys.stderr)
        return 1
    rng = np.random.default_rng(options.seed)
    owners = corpus.positions()
    kept, held_out = split_stratified(owners, options.test_share, rng)
    known = Corpus(corpus.questions, corpus.duplicates.iloc[kept].reset_index(drop=True))
    # A second BLAS thread saves half a second on an idle machine and costs many on a busy one.
    with threadpool_limits(limits=1):
        model = train(known, owners[kept], rng, match=options.match, score=score, progress=progress)

    progress.stage(f"asking the {len(held_out):,} duplicates held out")
    write_model(options.out, model, known)
    matcher = score.load(options.out)
    texts = list(corpus.duplicates["Text"].iloc[held_out])
    probabilities = np.concatenate(
        [matcher.probabilities(texts[i : i + CHUNK_ROWS]) for i in range(0, len(texts), CHUNK_ROWS)]
    )
    accuracy = evaluate(probabilities, owners[held_out])
    progress.finish()
    seconds = time.monotonic() - started
    metrics = {
        "accuracy_at_1": accuracy.at_1, "accuracy_at_2": accuracy.at_2,
        "accuracy_at_3": accuracy.at_3, "mean_rank": accuracy.mean_rank,
        "questions": len(corpus.questions), "trained_on": len(kept), "held_out": len(held_out),
    }  # fmt: skip
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(f"{len(corpus.questions)} questions, {len(kept):,} duplicates trained on,"
          f" {len(held_out):,} held out, {seconds:.1f} s")  # fmt: skip
    print(f"accuracy at 1  {accuracy.at_1:6.1%}\naccuracy at 2  {accuracy.at_2:6.1%}\n"
          f"accuracy at 3  {accuracy.at_3:6.1%}\nmean rank      {accuracy.mean_rank:6.2f}")  # fmt: skip
    print(f"model written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
