"""Many rows of numbers in one JSON text → a matrix, without a Python object for each number.

Only for the plainest form, one key with a list of equally long lists of numbers; everything else, malformed or not, is left
to the codecs' usual way, which says what is wrong with it.
"""

from __future__ import annotations

import threading

import numpy as np

from model_scorer.dialects.protocol import Target
from model_scorer.runtimes.protocol import Array

try:
    import simdjson
except ImportError:  # it has no wheels for the newest Python
    simdjson = None  # type: ignore[assignment]

# Below this the usual way is as fast.
MIN_BYTES = 8 * 1024
# A parser keeps about ten times its largest text in memory; for larger texts one is made and dropped.
MAX_KEPT_BYTES = 2 * 1024 * 1024

_OPENING = ord("[")
_parsers = threading.local()


def parse_wide_rows(body: bytes | memoryview, target: Target) -> tuple[str, Array] | None:
    """The only key of a JSON object, and its rows as a float64 matrix of the model's width.

    Args:
        body: a JSON text, or anything else.
        target: the model; only those that take a few rows as well as a matrix.

    Returns:
        None for every other text. The numbers are those that the usual way gives: both round correctly.
    """
    width = target.signature.row_width
    if (
        simdjson is None
        or not target.info.takes_rows
        or width is None
        or width < 2
        or len(body) < MIN_BYTES
    ):
        return None
    try:
        return _parse(_parser_for(len(body)), body, width)
    except (ValueError, TypeError, RuntimeError, KeyError):
        return None  # no JSON, no numbers, numbers beyond 64 bits


def _parser_for(size: int) -> simdjson.Parser:
    if size > MAX_KEPT_BYTES:
        return simdjson.Parser()
    parser = getattr(_parsers, "parser", None)
    if parser is None:
        parser = _parsers.parser = simdjson.Parser()
    return parser


def _parse(
    parser: simdjson.Parser, body: bytes | memoryview, width: int
) -> tuple[str, Array] | None:
    # Objects of the parser must be gone before it is used again, so none outlives this function.
    document = parser.parse(body)
    if not isinstance(document, simdjson.Object) or len(document) != 1:
        return None
    (key,) = document
    rows = document[key]
    if not isinstance(rows, simdjson.Array) or not len(rows):
        return None
    # It flattens whatever is nested, so the nesting is checked apart: as many lists as rows and one around them, each row
    # one of them and as long as it must be.
    values = np.frombuffer(rows.as_buffer(of_type="d"), np.float64)
    count = len(rows)
    if len(values) != count * width or "[" in key:
        return None
    if np.count_nonzero(np.frombuffer(body, np.uint8) == _OPENING) != count + 1:
        return None
    if any(not isinstance(row, simdjson.Array) or len(row) != width for row in rows):
        return None
    return key, values.reshape(count, width)
