"""The forms in which servers are asked: one request and one parsed answer for each dialect and kind of content.

Content is an array of rows, a text, or the bytes of a JPEG. What `parse` returns has the shape of what the workload's
application returns: a list of predictions, a ranked list, or the best labels.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from harness.load import Request, Response

Content = np.ndarray | str | bytes
JSON = ("Content-Type", "application/json")
_V2_TYPES = {"float64": "FP64", "float32": "FP32"}


@dataclass(frozen=True, slots=True)
class Form:
    """How one dialect asks and answers.

    Attributes:
        build: path and content to a request.
        parse: an answer to what the application would have returned.
    """

    build: Callable[[str, Content], Request]
    parse: Callable[[Response], Any]


class AnswerError(Exception):
    """A server's answer is not what the model says; the message has both."""


def _post(path: str, document: Any) -> Request:
    return Request(path, orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))


# ---------------------------------------------------------------------------------------------------------- plain JSON


def build_plain(path: str, content: Content) -> Request:
    """`{"data": rows}`, or `{"input": …}` as in the reference."""
    if isinstance(content, np.ndarray):
        return _post(path, {"data": content})
    if isinstance(content, str):
        return _post(path, {"input": content})
    return _post(path, {"input": {"image": base64.b64encode(content).decode()}})


def parse_plain(response: Response) -> Any:
    """The bare answer, or what lies in its one wrapper: result, predictions, output."""
    value = json.loads(response.body)
    if isinstance(value, dict):
        for key in ("result", "predictions", "output"):
            if key in value:
                value = value[key]
                break
    # The reference's servers append the time they took: [answer, "Computed in 1 ms"].
    if isinstance(value, list) and len(value) == 2 and str(value[1]).startswith("Computed in"):
        value = value[0]
    if isinstance(value, dict) and "image" in value:
        value = value["image"]
    return value


def build_plain_list(path: str, content: Content) -> Request:
    """`{"input": [one]}`, for servers that join the lists of several requests."""
    if isinstance(content, str):
        return _post(path, {"input": [content]})
    assert isinstance(content, bytes)
    return _post(path, {"input": [{"image": base64.b64encode(content).decode()}]})


def parse_plain_list(response: Response) -> Any:
    """The only element of the list."""
    return json.loads(response.body)[0]


def parse_images(response: Response) -> Any:
    """The only image's labels: some servers answer a raw image with a list of one, some with its labels."""
    value = parse_plain(response)
    return value[0] if len(value) == 1 else value


def build_image(path: str, content: Content) -> Request:
    """The image itself as the body."""
    assert isinstance(content, bytes)
    return Request(path, content, (("Content-Type", "image/jpeg"),))


# ------------------------------------------------------------------------------------------------- KServe V1, MLflow


def build_v1(path: str, content: Content) -> Request:
    """`{"instances": …}`."""
    if isinstance(content, np.ndarray):
        return _post(path, {"instances": content})
    if isinstance(content, str):
        return _post(path, {"instances": [{"input": content}]})
    return _post(path, {"instances": [{"image": base64.b64encode(content).decode()}]})


def build_mlflow(path: str, content: Content) -> Request:
    """`{"inputs": …}`."""
    return _post(path, {"inputs": content if isinstance(content, np.ndarray) else [content]})


def parse_predictions(response: Response) -> Any:
    """`predictions`; where one thing was asked for that is no row, its only element."""
    value = json.loads(response.body)["predictions"]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list | dict):
        value = value[0]
    return value["image"] if isinstance(value, dict) and "image" in value else value


# ------------------------------------------------------------------------------------------------------ Open Inference


def build_v2_json(path: str, content: Content) -> Request:
    """An infer request; texts as BYTES."""
    if isinstance(content, np.ndarray):
        tensor: dict[str, Any] = {"shape": content.shape, "data": content.reshape(-1)}
        tensor["datatype"] = _V2_TYPES[str(content.dtype)]
    else:
        tensor = {"shape": (1,), "datatype": "BYTES", "data": [content]}
    tensor["name"] = "X"
    return _post(path, {"inputs": [tensor]})


def build_v2_binary(path: str, content: Content) -> Request:
    """The binary tensor extension in both directions."""
    assert isinstance(content, np.ndarray)
    data = content.tobytes()
    tensor = {
        "name": "X",
        "shape": content.shape,
        "datatype": _V2_TYPES[str(content.dtype)],
        "parameters": {"binary_data_size": len(data)},
    }
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(head))),
    )
    return Request(path, head + data, headers)


def parse_v2(response: Response) -> Any:
    """The first output, of JSON or binary; a text in it is parsed as JSON."""
    length = response.headers.get("inference-header-content-length")
    head, rest = response.body, b""
    if length is not None:
        head, rest = response.body[: int(length)], response.body[int(length) :]
    output = json.loads(head)["outputs"][0]
    if "data" not in output:
        return _read_tensor(output["datatype"], rest)
    values = output["data"]
    return json.loads(values[0]) if values and isinstance(values[0], str) else values


def _read_tensor(kind: str, data: bytes) -> list[Any]:
    if kind == "BYTES":
        (size,) = struct.unpack_from("<I", data)
        return list(json.loads(data[4 : 4 + size]))
    names = {"INT64": "<i8", "INT32": "<i4", "FP64": "<f8", "FP32": "<f4"}
    return list(np.frombuffer(data, names[kind]).tolist())


FORMS = {
    "plain": Form(build_plain, parse_plain),
    "plain_list": Form(build_plain_list, parse_plain_list),
    "image": Form(build_image, parse_images),
    "v1": Form(build_v1, parse_predictions),
    "mlflow": Form(build_mlflow, parse_predictions),
    "v2_json": Form(build_v2_json, parse_v2),
    "v2_binary": Form(build_v2_binary, parse_v2),
}


# ------------------------------------------------------------------------------------------------------------ checking


def check_answer(given: Any, expected: Any, tolerance: float) -> None:
    """Compare an answer with the application's own.

    Args:
        given: from `Form.parse`.
        expected: from `Application.score_many`.
        tolerance: of probabilities, absolute.

    Raises:
        AnswerError: they differ.
    """
    try:
        right = _agrees(given, expected, tolerance)
    except (TypeError, ValueError, IndexError, KeyError):
        right = False
    if not right:
        raise AnswerError(f"answered {str(given)[:160]}, expected {str(expected)[:160]}")


def _agrees(given: Any, expected: Any, tolerance: float) -> bool:
    if not isinstance(expected[0], list):
        return [float(v) for v in given] == [float(v) for v in expected]
    if len(given) != len(expected):
        return False
    # Names with equal probabilities may change places: each name's probability is compared instead.
    mine = {tuple(entry[:-1]): float(entry[-1]) for entry in given}
    best, first = expected[0], given[0]
    if abs(float(first[-1]) - best[-1]) > tolerance:
        return False
    shared = [entry for entry in expected if tuple(entry[:-1]) in mine]
    if len(shared) < len(expected) - 1:
        return False
    return all(abs(mine[tuple(e[:-1])] - e[-1]) <= tolerance for e in shared)
