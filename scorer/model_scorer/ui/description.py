"""What the page must know of a model: which form to show, what to fill it with, where to send it. Pure.

One of four forms is chosen: `image` for models that take image files, `text` for a question, `rows` for a table of few
enough columns to edit by hand, `json` for everything else.
"""

from __future__ import annotations

from typing import Any

from model_scorer.dialects.openapi import column_types, example_row
from model_scorer.dialects.protocol import Target
from model_scorer.runtimes.protocol import Signature

# More fields than this nobody fills in by hand: such models get the JSON editor.
MAX_FIELDS = 64
MAX_EXAMPLE_ROWS = 5
MAX_TEXT = 5000
_ROW_KEYS = ("data", "input", "instances", "inputs", "dataframe_records")
_LABELS = "predict"
_PROBABILITIES = "predict_proba"


def describe_model(
    target: Target, *, sample: Any = None, needs_key: bool, max_body_bytes: int
) -> dict[str, Any]:
    """The content of `/ui/model.json`.

    Args:
        target: the model.
        sample: `spec.test.request`, or None: the best example there is.
        needs_key: whether scoring needs an API key.
        max_body_bytes: beyond it the server answers 413.

    Returns:
        `kind` (`text`, `image`, `rows` or `json`), the form's own part under the same name, an example `body` for the
        JSON editor, and what the page shows of the model.
    """
    signature = target.signature
    row = example_row(signature)
    body = sample if sample is not None else {"data": [] if row is None else [row]}
    described: dict[str, Any] = {
        "model": target.name,
        "version": target.version,
        "framework": target.info.framework,
        "frameworkVersion": target.info.version,
        "needsKey": needs_key,
        "maxBodyBytes": max_body_bytes,
        "labels": _class_names(target),
        "body": body,
        "path": "score",
    }
    if "image/*" in target.info.media:
        return {**described, "kind": "image"}
    text = _text_form(target, sample)
    if text is not None:
        return {**described, "kind": "text", "text": text}
    rows = None if target.info.scripted else _rows_form(target, body)
    if rows is not None:
        return {**described, "kind": "rows", "rows": rows}
    return {**described, "kind": "json"}


def _class_names(target: Target) -> list[str]:
    """What the scores stand for: `labels` of model.yaml, or else the classes that the model itself knows."""
    labels = target.config.get("labels")
    if isinstance(labels, list):
        return [str(label) for label in labels]
    return [name if isinstance(name, str) else f"class {name}" for name in target.signature.classes]


def _text_form(target: Target, sample: Any) -> dict[str, str] | None:
    """One text field: a sample of one key with a text says its name, or the model takes texts by its signature."""
    if isinstance(sample, dict) and len(sample) == 1:
        ((key, value),) = sample.items()
        if isinstance(value, str) and _is_prose(value):
            return {"key": key, "example": value}
    inputs = target.signature.inputs
    takes_texts = len(inputs) == 1 and inputs[0].datatype == "BYTES"
    if takes_texts and not target.signature.columns and not target.info.scripted:
        value = _first_row(sample)
        return {"key": "input", "example": value if isinstance(value, str) else ""}
    return None


def _is_prose(text: str) -> bool:
    """Not JSON within JSON, and not a file in base64: those are no use in a text field."""
    return len(text) <= MAX_TEXT and not text.lstrip().startswith(("{", "["))


def _rows_form(target: Target, body: Any) -> dict[str, Any] | None:
    signature = target.signature
    columns = _columns(signature)
    if not columns or len(columns) > MAX_FIELDS:
        return None
    names = [column["name"] for column in columns]
    example = [_in_order(row, names) for row in _rows_of(body)[:MAX_EXAMPLE_ROWS]]
    fallback = _in_order(example_row(signature), names)
    return {
        "columns": columns,
        "named": bool(signature.columns),
        "example": [row for row in example if row is not None] or [fallback],
        "infer": _infer_form(target),
    }


def _columns(signature: Signature) -> list[dict[str, str]]:
    if signature.columns:
        return [{"name": name, "type": kind} for name, kind in column_types(signature).items()]
    if signature.row_width is None:
        return []
    return [
        {"name": f"Feature {number}", "type": "number"}
        for number in range(1, signature.row_width + 1)
    ]


def _infer_form(target: Target) -> dict[str, Any] | None:
    """How V2 is asked for a classifier's probabilities beside its label, which `/score` alone would show."""
    signature = target.signature
    names = [spec.name for spec in signature.outputs]
    if names[:1] != [_LABELS] or _PROBABILITIES not in names or signature.optional:
        return None  # a tensor of numbers has no place for the null of a field that was left empty
    return {
        "path": f"v2/models/{target.name}/infer",
        "inputs": [{"name": s.name, "datatype": s.datatype} for s in signature.inputs],
        "outputs": [_LABELS, _PROBABILITIES],
    }


def _rows_of(body: Any) -> list[Any]:
    if isinstance(body, list):
        return body
    if not isinstance(body, dict):
        return []
    split = body.get("dataframe_split")
    if isinstance(split, dict):
        columns, data = split.get("columns"), split.get("data")
        if isinstance(columns, list) and isinstance(data, list):
            return [dict(zip(columns, row, strict=False)) for row in data if isinstance(row, list)]
        return []
    for key in _ROW_KEYS:
        value = body.get(key)
        if isinstance(value, dict | str):
            return [value]
        if isinstance(value, list) and value:
            return value if isinstance(value[0], list | dict | str) else [value]
    return []


def _first_row(body: Any) -> Any:
    rows = _rows_of(body)
    return rows[0] if rows else None


def _in_order(row: Any, names: list[str]) -> list[Any] | None:
    """A row's values in the columns' order, or None when it does not have these columns."""
    if isinstance(row, dict):
        values = [row.get(name) for name in names] if set(row) <= set(names) else []
    else:
        values = row if isinstance(row, list) else []
    plain = all(value is None or isinstance(value, str | int | float) for value in values)
    return list(values) if len(values) == len(names) and plain else None
