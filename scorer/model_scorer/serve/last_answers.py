"""The answer to a request whose worker died on it: a 500 in the form of its dialect, written by the supervisor."""

from __future__ import annotations

from model_scorer.errors import ModelFailed
from model_scorer.http1.responses import render_head, render_lines
from model_scorer.serve.routes import INVOCATIONS, PREDICTIONS, SCORE, V1, V2

# In the order of `shared.DIALECTS`.
_DIALECTS = (SCORE, V1, V2, INVOCATIONS, PREDICTIONS, SCORE)


def render_lost(dialect: int) -> bytes:
    """The whole response.

    Args:
        dialect: index in `shared.DIALECTS`; beyond them when the request was not read so far.
    """
    answer = _DIALECTS[min(dialect, len(_DIALECTS) - 1)].error(
        ModelFailed("the model's process ended while it worked on this request")
    )
    lines = render_lines(answer.headers)
    head = render_head(
        answer.status, answer.content_type, len(answer.body), lines, keep_alive=False
    )
    return head + answer.body
