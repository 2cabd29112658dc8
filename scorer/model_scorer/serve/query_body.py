"""`GET /score?a=1&b=[1,2]`: Azure ML's way of asking without a body; the parameters become one JSON object."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from model_scorer.errors import BadRequest
from model_scorer.json_text import encode_json


def body_from_query(query: str) -> bytes:
    """The JSON object that a query string stands for.

    A value that is JSON is taken as JSON, any other as text; a repeated name makes a list.

    Raises:
        BadRequest: no parameters at all, or too many.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=1000)
    except ValueError as err:
        raise BadRequest(f"malformed query: {err}") from None
    if not pairs:
        raise BadRequest("missing data: send a JSON body with POST, or query parameters")
    out: dict[str, Any] = {}
    for name, text in pairs:
        value = _parse_value(text)
        if name in out:
            earlier = out[name]
            out[name] = [*earlier, value] if isinstance(earlier, list) else [earlier, value]
        else:
            out[name] = value
    try:
        return encode_json(out)
    except TypeError as err:
        raise BadRequest("malformed query") from err


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
