"""FAQ matching: a question in, the answers that fit best out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from deployed import ROOT, Request, Scorer
from stages import DemoError, stage

FOLDER = ROOT / "examples" / "faq"
MODEL = FOLDER / "model"
TITLE = "FAQ"
_QUESTION = "my click handlers made in a loop all print the same number, why?"


def training_command(out: Path) -> list[str]:
    """What trains the example into a model folder."""
    return [sys.executable, str(FOLDER / "train.py"), "--out", str(out)]


def sample_request() -> Request:
    """The question that is asked."""
    return Request(json.dumps({"input": _QUESTION}).encode(), "application/json")


def ask(scorer: Scorer) -> list[str]:
    """Ask, and show the five best matches as a table; returns what was wrong with the answer."""
    with stage(f"Asking over HTTPS: POST {scorer.url}/score"):
        status, answer = scorer.score(sample_request(), scorer.key)
    if status != 200:
        raise DemoError(f"the question was answered with {status}: {answer}")
    _show_matches(answer)
    return []


def _show_matches(answer: Any) -> None:
    lines = (FOLDER / "data" / "questions.tsv").read_text().splitlines()[1:]
    titles = dict(line.split("\t")[:3:2] for line in lines)
    triples, timing = answer["result"]
    print(f"\n  {_QUESTION}\n\n  {'score':>6}  {'question':<9} matched question")
    for question_id, _answer_id, probability in triples[:5]:
        title = titles.get(str(question_id), "")
        print(f"  {probability:6.3f}  {question_id!s:<9} {title[:84]}")
    print(f"\n  {timing}\n")


def next_command(scorer: Scorer) -> str:
    """One more request, as a shell command for a terminal that has KEY and the certificate."""
    return f"""curl --cacert {scorer.name}.crt --resolve {scorer.host}:{scorer.cluster.https_port}:127.0.0.1 {scorer.url}/score \\
    -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \\
    -d '{{"input": "how do i wait for two promises at once"}}'"""
