"""MLflow's `POST /invocations`: `dataframe_split`, `dataframe_records`, `instances`, `inputs`, CSV.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#json-input
"""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from model_scorer.dialects.blobs import blobs_from_body
from model_scorer.dialects.inputs import input_from_rows, json_value, table_from_split
from model_scorer.dialects.kserve_v1 import raw_answer
from model_scorer.dialects.protocol import (
    Answer,
    HttpRequest,
    Target,
    decode_text,
    refuse_encoding,
    require_json,
)
from model_scorer.errors import BadRequest, RequestError, UnsupportedMedia
from model_scorer.json_text import decode_json, encode_json
from model_scorer.runtimes.protocol import (
    Call,
    Input,
    JsonValue,
    Output,
    RawResponse,
    RowsInput,
    TableInput,
    TensorsInput,
    TextInput,
)

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")

# MLflow's error codes by HTTP status (mlflow/protos/databricks.proto).
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    404: "RESOURCE_DOES_NOT_EXIST",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "TEMPORARILY_UNAVAILABLE",
}


class InvocationsDialect:
    """The codec of `/invocations`."""

    name = "invocations"

    def decode(self, request: HttpRequest, target: Target) -> tuple[Call, Any]:
        """Exactly one of the forms."""
        media = request.media_type()
        if media == "text/csv":
            refuse_encoding(request)
            return Call(parse_csv(decode_text(request.body))), None
        if media == "application/vnd.apache.parquet":
            raise UnsupportedMedia("parquet is not supported; send application/json or text/csv")
        files = None if target.info.scripted else blobs_from_body(request, target)
        if files is not None:
            return Call(files), None
        require_json(request)
        value = decode_json(request.body)
        if target.info.scripted:
            text = decode_text(request.body)
            return Call(TextInput(text), headers=request.public_headers(), body=request.body), None
        if not isinstance(value, dict):
            raise BadRequest(f"Invalid input. Expected an object with one of {', '.join(FORMS)}")
        given = [form for form in FORMS if form in value]
        if len(given) != 1:
            raise BadRequest(
                f"Invalid input. Expected exactly one of {', '.join(FORMS)}, got {', '.join(given) or 'none'}"
            )
        parameters = value.get("params") or {}
        if not isinstance(parameters, dict):
            raise BadRequest('Invalid input. "params" must be an object')
        return Call(_parse_form(given[0], value[given[0]], target), parameters=parameters), None

    def encode(self, output: Output, context: Any, target: Target, exec_ms: float) -> Answer:
        """`{"predictions": …}`."""
        if isinstance(output, RawResponse):
            return raw_answer(output)
        value = output.value if isinstance(output, JsonValue) else json_value(output)
        if not (isinstance(value, dict) and "predictions" in value):
            value = {"predictions": value}
        return Answer(200, encode_json(value))

    def error(self, error: RequestError) -> Answer:
        """`{"error_code", "message"}`; MLflow's stack trace is left out on purpose."""
        code = _CODES.get(error.status, "BAD_REQUEST" if error.status < 500 else "INTERNAL_ERROR")
        body = encode_json({"error_code": code, "message": error.message})
        return Answer(error.status, body, headers=error.headers)


def _parse_form(form: str, value: Any, target: Target) -> Input:
    if form == "dataframe_split":
        return table_from_split(value, key=form)
    if form == "dataframe_records":
        if not isinstance(value, list) or not value or not all(isinstance(r, dict) for r in value):
            raise BadRequest('Invalid input. "dataframe_records" must be a list of objects')
        return RowsInput(value)
    if isinstance(value, dict):
        return _columns_input(form, value)
    return input_from_rows(value, target, key=form)


def _columns_input(form: str, value: dict[str, Any]) -> Input:
    """`{"a": [1, 2], "b": [3, 4]}`: one list for each column."""
    if not value:
        raise BadRequest(f'Invalid input. "{form}" is empty')
    tensors = {}
    for name, items in value.items():
        values = items if isinstance(items, list) else [items]
        array = np.empty(len(values), dtype=object)
        array[:] = values
        try:
            numbers = np.array(values)
        except (ValueError, OverflowError):
            numbers = array
        tensors[name] = numbers if numbers.dtype.kind in "iufb" else array
    return TensorsInput(tensors)


def parse_csv(text: str) -> TableInput:
    """A CSV table with a header row; cells that are numbers become numbers, empty ones null.

    Raises:
        BadRequest: no header, no rows, or rows of another length.
    """
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as err:
        raise BadRequest(f"Invalid input. The body is not valid CSV: {err}") from None
    if len(lines) < 2:
        raise BadRequest("Invalid input. Expected a CSV header row and at least one row")
    columns = lines[0]
    if len(set(columns)) != len(columns):
        raise BadRequest("Invalid input. The CSV header names a column twice")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(columns):
            raise BadRequest(
                f"Invalid input. CSV line {number} has {len(line)} cells, the header {len(columns)}"
            )
    return TableInput(columns, [[_parse_cell(cell) for cell in line] for line in lines[1:]])


def _parse_cell(cell: str) -> Any:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return cell
