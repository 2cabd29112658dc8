"""The payload log: off by default; when switched on, a share of the requests is logged with bodies, fields redacted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import orjson

log = logging.getLogger("payload")

# Larger payloads are told by their size alone.
MAX_PAYLOAD_BYTES = 16 * 1024
_MAX_DEPTH = 64
_HIDDEN = "***"


class PayloadLog:
    """Chooses requests and logs them with their payloads.

    Args:
        sample: share of the requests, 0 to 1.
        redact: names of fields, columns and tensors whose values are never logged, at any depth, in any case of
            letters.
        columns: of the model, in order: a row without names is redacted by position.
    """

    def __init__(
        self, sample: float, redact: tuple[str, ...], columns: tuple[str, ...] = ()
    ) -> None:
        self._sample = sample
        self._due = 0.0
        self._redact = frozenset(name.casefold() for name in redact)
        self._width = len(columns)
        self._places = self._find(columns)

    def offer(self, request_id: str, dialect: str, status: int, asked: bytes, told: bytes) -> None:
        """Log an answered request if it is its turn."""
        self._due += self._sample
        if self._due < 1.0:
            return
        self._due -= 1.0
        log.info(
            "payload",
            extra={
                "request_id": request_id,
                "dialect": dialect,
                "status": status,
                "request": self.show(asked),
                "response": self.show(told),
            },
        )

    def show(self, body: bytes) -> Any:
        """A body as it may be logged: JSON with fields taken out; of anything else the size only."""
        if len(body) > MAX_PAYLOAD_BYTES:
            return f"{len(body)} bytes"
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            # Fields cannot be found in it, so nothing of it may be shown.
            return f"{len(body)} bytes that are no JSON"
        return self._without(value, self._places, 0)

    def _find(self, names: Sequence[Any]) -> frozenset[int]:
        """Positions of the redacted among names."""
        return frozenset(
            place
            for place, name in enumerate(names)
            if isinstance(name, str) and name.casefold() in self._redact
        )

    def _without(self, value: Any, places: frozenset[int], depth: int) -> Any:
        if depth > _MAX_DEPTH:
            return _HIDDEN
        if isinstance(value, dict):
            named = value.get("name")
            if isinstance(named, str) and named.casefold() in self._redact:
                return {"name": named, "data": _HIDDEN}  # a tensor of the Open Inference Protocol
            names = value.get("columns")
            if isinstance(names, list) and isinstance(value.get("data"), list):
                hidden, places = self._find(names), frozenset()
                if hidden:
                    value = {**value, "data": [_blank(row, hidden) for row in value["data"]]}
            return {
                name: _HIDDEN
                if name.casefold() in self._redact
                else self._without(item, places, depth + 1)
                for name, item in value.items()
            }
        if isinstance(value, list):
            if places and len(value) == self._width and not isinstance(value[0], list | dict):
                value = _blank(value, places)
            return [self._without(item, places, depth + 1) for item in value]
        return value


def _blank(row: Any, places: frozenset[int]) -> Any:
    if not isinstance(row, list):
        return _HIDDEN
    return [_HIDDEN if place in places else item for place, item in enumerate(row)]
