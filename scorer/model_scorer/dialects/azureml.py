"""`POST /score`: Azure ML's contract, and the forms of the reference implementations' Flask servers.

The top-level key says which is spoken: `input` → the Flask servers' `{"result": [answer, "Computed in N ms"]}`; `data`
→ the bare answer, as Azure ML encodes what `run` returns; `instances`, `inputs`, `dataframe_split`,
`dataframe_records` → `{"predictions": answer}`. Score scripts take the body as text, whatever its keys.
https://learn.microsoft.com/azure/machine-learning/how-to-inference-server-http
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np

from model_scorer.dialects.blobs import blobs_from_body, blobs_from_json, is_object_text
from model_scorer.dialects.inputs import input_from_rows, json_value, table_from_split
from model_scorer.dialects.protocol import (
    Answer,
    HttpRequest,
    Target,
    decode_text,
    refuse_encoding,
    require_json,
)
from model_scorer.dialects.wide_rows import parse_wide_rows
from model_scorer.errors import BadRequest, RequestError
from model_scorer.json_text import decode_json, encode_json, is_json_type
from model_scorer.runtimes.protocol import (
    Call,
    Input,
    JsonValue,
    Output,
    RawResponse,
    RowsInput,
    TensorsInput,
    TextInput,
)

SCRIPT_ERROR = "An unexpected error occurred in scoring script. Check the logs for more info."
_KEYS = "input, data, instances, inputs, dataframe_split, dataframe_records"
_SYNSET = re.compile(r"(n\d{8}) ([^,]+)(?:,.*)?")
# What counts as a failure of `run` in Azure ML's header.
_RUN_FAILURES = frozenset({"model_failed", "deadline_exceeded"})


class Form(Enum):
    """How the answer is wrapped."""

    FLASK = "result"
    BARE = "bare"
    PREDICTIONS = "predictions"


# The keys whose value is rows.
_ROWS_FORMS = {
    "input": Form.FLASK,
    "data": Form.BARE,
    "inputs": Form.PREDICTIONS,
    "instances": Form.PREDICTIONS,
}


@dataclass(frozen=True, slots=True)
class KeyedFiles:
    """The Flask servers' form for files: `{"input": {"image": base64}}` → `{"result": [{"image": answer}, …]}`.

    Attributes:
        keys: in the request's order.
        as_repr: the Keras server's form, JSON in a string → Python's repr in one, which its clients evaluate.
    """

    keys: tuple[str, ...]
    as_repr: bool = False


class ScoreDialect:
    """The codec of `/score`."""

    name = "score"

    def decode(self, request: HttpRequest, target: Target) -> tuple[Call, Form | KeyedFiles]:
        """See the module; score scripts get the body as text."""
        if target.info.scripted:
            return self._decode_for_script(request, target)
        files = blobs_from_body(request, target)
        if files is not None:
            return Call(files), Form.BARE
        require_json(request)
        wide = parse_wide_rows(request.buffer, target)
        if wide is not None and wide[0] in _ROWS_FORMS:
            key, matrix = wide
            return Call(TensorsInput({key: matrix})), _ROWS_FORMS[key]
        value = decode_json(request.buffer)
        given: Input
        form: Form | KeyedFiles
        if isinstance(value, dict):
            given, form = self._decode_files(value, target) or self._decode_object(value, target)
        elif isinstance(value, list):
            given, form = input_from_rows(value, target, key="body"), Form.BARE
        else:
            raise BadRequest(f"expected a JSON object with one of the keys {_KEYS}")
        return Call(given), form

    def _decode_files(
        self, value: dict[str, Any], target: Target
    ) -> tuple[Input, KeyedFiles] | None:
        """The Flask servers' forms for files by key; None when it is something else."""
        asked = value.get("input")
        if not target.info.media or not (isinstance(asked, dict) or is_object_text(asked)):
            return None
        files = blobs_from_json(asked)
        if files is None or not all(blob.key for blob in files.blobs):
            return None
        if isinstance(asked, str):
            # The Keras server scores the first key and no other.
            del files.blobs[1:]
        return files, KeyedFiles(tuple(b.key for b in files.blobs), as_repr=isinstance(asked, str))

    def _decode_object(self, value: dict[str, Any], target: Target) -> tuple[Input, Form]:
        if "input" in value:
            return input_from_rows(value["input"], target, key="input"), Form.FLASK
        if "data" in value:
            return input_from_rows(value["data"], target, key="data"), Form.BARE
        for key in ("inputs", "instances"):
            if key in value:
                return input_from_rows(value[key], target, key=key), Form.PREDICTIONS
        if "dataframe_split" in value:
            given = table_from_split(value["dataframe_split"], key="dataframe_split")
            return given, Form.PREDICTIONS
        if "dataframe_records" in value:
            records = value["dataframe_records"]
            if not isinstance(records, list) or not records:
                raise BadRequest('"dataframe_records" must be a list of objects')
            return RowsInput(records), Form.PREDICTIONS
        raise BadRequest(f"missing key: expected one of {_KEYS}")

    def _decode_for_script(self, request: HttpRequest, target: Target) -> tuple[Call, Form]:
        if target.info.media:  # the script takes the request itself
            parameters = {"query": request.query, "target": request.path}
            return (
                Call(
                    TextInput(""),
                    parameters=parameters,
                    headers=request.public_headers(),
                    method=request.method,
                    body=request.body,
                ),
                Form.BARE,
            )
        if not is_json_type(request.header(b"content-type")):
            # As Azure ML's server has it: the script gets the text, whatever its type.
            refuse_encoding(request)
            text = decode_text(request.body)
            return Call(TextInput(text), headers=request.public_headers()), Form.BARE
        require_json(request)
        text = decode_text(request.body)
        value = decode_json(request.body)
        form = Form.FLASK if isinstance(value, dict) and "input" in value else Form.BARE
        return Call(TextInput(text), headers=request.public_headers(), body=request.body), form

    def encode(
        self, output: Output, context: Form | KeyedFiles, target: Target, exec_ms: float
    ) -> Answer:
        """The answer in the form that was asked in."""
        if isinstance(output, RawResponse):
            kind = next((v for k, v in output.headers if k.lower() == "content-type"), "text/plain")
            rest = tuple((k, v) for k, v in output.headers if k.lower() != "content-type")
            failed = "True" if output.status >= 500 else "False"
            return Answer(
                output.status,
                output.body,
                kind,
                (*rest, *_run_headers(failed, output.exec_ms)),
            )
        if isinstance(output, JsonValue):
            value, exec_ms = output.value, output.exec_ms
        else:
            value = json_value(output)
        if isinstance(context, KeyedFiles):
            items = value.tolist() if isinstance(value, np.ndarray) else value
            keyed = dict(zip(context.keys, items, strict=True))
            timing = f"Computed in {exec_ms:.2f} ms"
            if context.as_repr:
                shown = {key: _like_keras(answer) for key, answer in keyed.items()}
                value = {"result": repr((shown, timing))}
            else:
                value = {"result": [keyed, timing]}
        elif context is Form.FLASK:
            if not (isinstance(value, dict) and "result" in value):
                value = {"result": [value, f"Computed in {exec_ms:.2f} ms"]}
        elif context is Form.PREDICTIONS:
            value = {"predictions": value}
        elif value is None:
            value = {}
        return Answer(200, encode_json(value), headers=_run_headers("False", exec_ms))

    def error(self, error: RequestError) -> Answer:
        """`{"message": …}`."""
        failed = "True" if error.reason in _RUN_FAILURES else "False"
        return Answer(
            error.status,
            encode_json({"message": error.message}),
            headers=(*error.headers, ("x-ms-run-function-failed", failed)),
        )


def _like_keras(answer: Any) -> Any:
    """Labelled scores as Keras' `decode_predictions` gives them: (WordNet id, name, score) for each.

    Labels of the form `n02127052 lynx, catamount` have both; any other label stands in both places.
    """
    if not isinstance(answer, list):
        return answer
    triples = []
    for item in answer:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            return answer
        found = _SYNSET.fullmatch(item[0])
        name = found[2].replace(" ", "_") if found else item[0]
        # The shortest text of the number that float32 holds, as numpy prints it.
        triples.append((found[1] if found else item[0], name, float(str(np.float32(item[1])))))
    return triples


@lru_cache(maxsize=8)
def _run_headers(failed: str, exec_ms: float) -> tuple[tuple[str, str], ...]:
    """The same object for all answers of one call of the model, so that the server renders them once."""
    return (
        ("x-ms-run-function-failed", failed),
        ("x-ms-run-fn-exec-ms", f"{exec_ms:.3f}"),
    )
