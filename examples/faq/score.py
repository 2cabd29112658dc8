"""Scores a question against a list of known questions, by Azure ML's contract: `init()` and `run(data)`.

Takes the raw JSON body `{"input": "question text"}` and gives every known question as
`[question id, answer id, probability]`, best first. `train.py` copies this file beside the model
that it made; the folder is then complete: no other code of this example is needed to score. It
never trains, never writes, and featurises what does not change once, in `init`.

On the command line: `python score.py "why is this undefined in my callback"` prints the best three.
"""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
import sklearn
from scipy import sparse

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_CHARACTERS = 20_000  # a question is a few hundred; a whole file would only block the others
TOP = 3  # similarities averaged for "the nearest phrasings"

_CODE = re.compile(r"<pre[^>]*>\s*<code>.*?</code>\s*</pre>", re.DOTALL | re.IGNORECASE)
_LINK = re.compile(r"<a\s[^>]*>(.*?)</a>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^>]*>")
_URL = re.compile(r"\b[a-z]+://\S+", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z]+|\d+|[=!<>?.+*&|$%^~{}#@\[\]-]{2,}")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SUFFIXES = (
    ("ations", "at"), ("ation", "at"), ("ings", ""), ("ing", ""), ("ies", "y"), ("ied", "y"),
    ("ers", ""), ("er", ""), ("ed", ""), ("es", ""), ("s", ""), ("ly", ""), ("e", ""),
)  # fmt: skip


def clean_text(text: str) -> str:
    """Take code blocks, link targets, URLs and HTML tags out of a post and leave its words."""
    text = _CODE.sub(" ", text)
    text = _LINK.sub(r"\1", text)
    text = _TAG.sub(" ", text)
    return " ".join(_URL.sub(" ", text).split())


def _stem(word: str) -> str:
    """Cut the commonest English endings, so that "looping", "loops" and "loop" meet."""
    if len(word) < 4:
        return word
    for ending, replacement in _SUFFIXES:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + replacement
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    return word


def normalise(text: str) -> str:
    """Give the text as stems separated by blanks; `addEventListener` also as its three words."""
    stems: list[str] = []
    for token in _TOKEN.findall(clean_text(text).replace("n't", " not").replace("'", " ")):
        humps = _HUMP.split(token)
        stems += [_stem(t.lower()) for t in ([token, *humps] if len(humps) > 1 else [token])]
    return " ".join(stems)


def build_slots(owners: Sequence[int], count: int) -> Ints:
    """Say which phrasings belong to which question.

    Args:
        owners: position of the question of each phrasing, any order.
        count: number of questions.

    Returns:
        shape (count, most phrasings of one question): columns of a similarity matrix; where a
        question has fewer, the column after the last, which `summarise` fills with zeros.
    """
    lists: list[list[int]] = [[] for _ in range(count)]
    for column, owner in enumerate(owners):
        lists[owner].append(column)
    slots = np.full((count, max(TOP, *map(len, lists))), len(owners), dtype=np.int64)
    for row, columns in zip(slots, lists, strict=True):
        row[: len(columns)] = columns
    return slots


def summarise(similarities: Floats, slots: Ints, left_out: Ints | None = None) -> list[Floats]:
    """Reduce similarities to phrasings to three numbers a question: best, mean of TOP, mean of all.

    Args:
        similarities: shape (texts, phrasings), each in [0, 1].
        slots: from `build_slots`, shape (questions, most).
        left_out: for each text the phrasing that it is itself, which must not count; only in
            training.

    Returns:
        Three arrays of shape (texts, questions).
    """
    texts, phrasings = similarities.shape
    padded = np.zeros((texts, phrasings + 1))
    padded[:, :phrasings] = similarities
    counts = np.broadcast_to((slots < phrasings).sum(1).astype(float), (texts, len(slots)))
    if left_out is not None:
        padded[np.arange(texts), left_out] = 0.0
        counts = counts - (slots[None] == left_out[:, None, None]).any(2)
    of_question = padded[:, slots]
    nearest = np.partition(of_question, -TOP, axis=2)[:, :, -TOP:]
    return [nearest.max(2), nearest.mean(2), of_question.sum(2) / np.maximum(counts, 1.0)]


def compare_with_best(features: Floats) -> Floats:
    """Add to each feature how far it lies behind the best candidate, as difference and as ratio.

    Args:
        features: shape (texts, questions, n).

    Returns:
        shape (texts, questions, 3 n).
    """
    best = features.max(axis=1, keepdims=True)
    return np.concatenate([features, features - best, features / np.maximum(best, 0.01)], axis=2)


class Vectoriser:
    """A fitted TfidfVectorizer's `transform` without its checks, half of the time of a request.

    Args:
        fitted: with sublinear_tf and the l2 norm, as train.py makes it.
    """

    def __init__(self, fitted: Any) -> None:
        self._analyse = fitted.build_analyzer()
        self._vocabulary: dict[str, int] = fitted.vocabulary_
        self._idf: Floats = fitted.idf_

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Give one row of length 1 a text; a text without known terms gives a row of zeros."""
        columns: list[npt.NDArray[np.int32]] = []
        values: list[Floats] = []
        for text in texts:
            counts = Counter(map(self._vocabulary.get, self._analyse(text)))
            counts.pop(None, None)
            known = np.fromiter(counts.keys(), dtype=np.int32, count=len(counts))
            frequencies = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
            value = (1.0 + np.log(frequencies)) * self._idf[known]
            columns.append(known)
            values.append(value / max(float(np.sqrt(value @ value)), 1e-12))
        ends = np.cumsum([0, *map(len, columns)])
        return sparse.csr_matrix(
            (np.concatenate(values), np.concatenate(columns), ends),
            shape=(len(texts), len(self._idf)),
        )


class Matcher:
    """The trained model with its constant side featurised: texts in, probabilities out.

    Args:
        model: what train.py stored: `features` (a FeatureUnion of two TF-IDFs), `weights` (ridge
            scores, shape (phrasings + 3 questions, questions)), `linear` and `boosted` (pair
            classifiers).
        questions: columns Id, AnswerId, Title, Text, Answer; the order is the candidates' order.
        phrasings: columns AnswerId, Text: the known duplicates.
    """

    def __init__(
        self, model: dict[str, Any], questions: pd.DataFrame, phrasings: pd.DataFrame
    ) -> None:
        self.questions = questions
        self.count = len(questions)
        self._linear, self._boosted = fold_linear(model["linear"]), model["boosted"]
        self._weights: Floats = model["weights"]
        position = {answer: i for i, answer in enumerate(questions["AnswerId"])}
        owners = [position[answer] for answer in phrasings["AnswerId"]]
        self._phrasings = len(owners)
        self._slots = build_slots(owners, self.count)
        texts = known_texts(questions, phrasings)
        profiles = build_profiles(texts, owners, self.count)
        self._transformers = [
            Vectoriser(fitted) for _, fitted in model["features"].transformer_list
        ]
        self._known = [t.transform([*texts, *profiles]).T.tocsr() for t in self._transformers]
        self._keys = [
            (_as_number(q), _as_number(a))
            for q, a in zip(questions["Id"], questions["AnswerId"], strict=True)
        ]

    def pair_features(self, texts: Sequence[str]) -> Floats:
        """Featurise each text against each question; shape (texts, questions, features)."""
        normal = [normalise(text) for text in texts]
        features: list[Floats] = []
        total: Floats | None = None
        for transformer, known in zip(self._transformers, self._known, strict=True):
            everything = (transformer.transform(normal) @ known).toarray()
            similarities = everything[:, : -self.count]
            features += split_similarities(similarities, self._phrasings, self.count)
            features += summarise(similarities[:, : self._phrasings], self._slots)
            features.append(everything[:, -self.count :])
            total = similarities if total is None else total + similarities
        assert total is not None
        features.append(total / len(self._transformers) @ self._weights)
        return compare_with_best(np.stack(features, axis=2))

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Probability that a text asks what a question asks; shape (texts, questions)."""
        # What goes in is finite and typed by construction; checking it again at every step takes
        # as long as the arithmetic.
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            return predict_pairs(self._linear, self._boosted, self.pair_features(texts))

    def rank(self, texts: Sequence[str]) -> list[list[list[Any]]]:
        """Give for each text all questions as [question id, answer id, probability], best first."""
        answers = []
        for row in self.probabilities(texts):
            order = np.argsort(-row, kind="stable")
            answers.append([[*self._keys[i], float(row[i])] for i in order])
        return answers


def fold_linear(linear: Any) -> tuple[Floats, float]:
    """Make one weight a feature and an intercept of a scaler followed by a logistic regression."""
    scaler, regression = linear[0], linear[-1]
    weights = regression.coef_[0] / scaler.scale_
    return weights, float(regression.intercept_[0] - scaler.mean_ @ weights)


def predict_pairs(linear: tuple[Floats, float], boosted: Any, features: Floats) -> Floats:
    """Average the two pair classifiers; features (texts, questions, n) to (texts, questions)."""
    flat = features.reshape(-1, features.shape[2])
    weights, intercept = linear
    by_linear = 1 / (1 + np.exp(-(flat @ weights + intercept)))
    by_boosted = boosted.predict_proba(flat)[:, 1]
    return np.asarray((by_linear + by_boosted) / 2).reshape(features.shape[:2])


def known_texts(questions: pd.DataFrame, phrasings: pd.DataFrame) -> list[str]:
    """Normalised texts of the constant side: phrasings, whole questions, titles, answers."""
    whole = questions["Title"] + ". " + questions["Text"]
    parts = (phrasings["Text"], whole, questions["Title"], questions["Answer"])
    return [normalise(text) for part in parts for text in part]


def build_profiles(texts: Sequence[str], owners: Sequence[int], count: int) -> list[str]:
    """Join all that is known of each question into one text; `texts` as from `known_texts`."""
    owner_of_all = [*owners, *(list(range(count)) * 3)]
    joined: list[list[str]] = [[] for _ in range(count)]
    for owner, text in zip(owner_of_all, texts, strict=True):
        joined[owner].append(text)
    return [" ".join(parts) for parts in joined]


def split_similarities(similarities: Floats, phrasings: int, count: int) -> list[Floats]:
    """Cut the columns after the phrasings into those of whole questions, titles and answers."""
    return [similarities[:, phrasings + k * count : phrasings + (k + 1) * count] for k in range(3)]


def read_table(path: Path) -> pd.DataFrame:
    """Read one of our tab-separated files: a header, no quoting, every cell a text."""
    return pd.read_csv(path, sep="\t", quoting=3, dtype=str, keep_default_na=False)


def load(folder: Path) -> Matcher:
    """Load the model of a folder that train.py wrote."""
    return Matcher(
        joblib.load(folder / "model.joblib"),
        read_table(folder / "questions.tsv"),
        read_table(folder / "phrasings.tsv"),
    )


def _as_number(key: str) -> int | str:
    return int(key) if key.isdecimal() else key


def parse_texts(body: str | bytes) -> tuple[list[str], bool]:
    """Read a request body.

    Returns:
        The texts, and whether `input` was a list.

    Raises:
        ValueError: not JSON, or `input` is missing or no text; the message names the key.
    """
    try:
        request = json.loads(body)
    except ValueError as err:
        raise ValueError(
            f'the body is not JSON ({err}); send {{"input": "your question"}}'
        ) from err
    if not isinstance(request, dict) or "input" not in request:
        raise ValueError('key "input" is missing; send {"input": "your question"}')
    many = isinstance(request["input"], list)
    texts = request["input"] if many else [request["input"]]
    if not texts:
        raise ValueError('key "input" is an empty list; give at least one question')
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                'key "input" must be a text that is not empty, or a list of such texts'
            )
        if len(text) > MAX_CHARACTERS:
            raise ValueError(
                f'key "input" has {len(text)} characters; at most {MAX_CHARACTERS} are scored'
            )
    return texts, many


_matcher: Matcher | None = None


def init() -> None:
    """Load the model from AZUREML_MODEL_DIR, or from the folder of this file."""
    global _matcher
    folder = os.environ.get("AZUREML_MODEL_DIR")
    _matcher = load(Path(folder) if folder else Path(__file__).resolve().parent)


def run_batch(bodies: Sequence[str | bytes]) -> list[Any]:
    """Score several bodies in one go; the i-th result equals `run(bodies[i])`.

    Raises:
        ValueError: one of the bodies is not valid, and none was scored.
    """
    if _matcher is None:
        raise RuntimeError("init() must be called before run()")
    parsed = [parse_texts(body) for body in bodies]
    ranked = iter(_matcher.rank([text for texts, _ in parsed for text in texts]))
    results: list[Any] = []
    for texts, many in parsed:
        answers = [next(ranked) for _ in texts]
        results.append(answers if many else answers[0])
    return results


def run(data: str | bytes) -> list[Any]:
    """Score one body.

    Args:
        data: the raw JSON text, `{"input": "text"}` or `{"input": ["text", …]}`.

    Returns:
        All questions as [question id, answer id, probability], best first; for a list of texts
        one such list a text.

    Raises:
        ValueError: the body is not valid; the message names the key.
    """
    result: list[Any] = run_batch([data])[0]
    return result


def main(arguments: Sequence[str]) -> int:
    """Print the best three known questions for the text on the command line."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print('usage: python score.py "your question"')
        return 0 if arguments else 2
    init()
    assert _matcher is not None
    titles = {_as_number(row.Id): row.Title for row in _matcher.questions.itertuples()}
    for question, answer, probability in _matcher.rank([" ".join(arguments)])[0][:3]:
        print(f"{probability:6.1%}  question {question}, answer {answer}: {titles[question]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
