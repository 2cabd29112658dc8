"""The words of malformed requests, and a seeded random generator of them.

Hypothesis makes its cases of the same words; the generator is less clever, and twenty times as fast.
"""

from __future__ import annotations

import json
import random
from typing import Any

KEYS = [
    "data",
    "input",
    "instances",
    "inputs",
    "dataframe_split",
    "dataframe_records",
    "columns",
    "index",
    "name",
    "shape",
    "datatype",
    "parameters",
    "binary_data_size",
    "binary_data",
    "outputs",
    "id",
    "params",
    "b64",
    "binary_data_output",
    "content_type",
]
SCALARS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    4,
    10**9,
    2**62,
    2**63,
    10**30,
    1.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "X",
    "FP32",
    "BYTES",
    "BOOL",
    "\ud800",
    "predict",
    "a\x00b",
)
SIZES = (0, 1, 2, 4, 4, -1, 10**9, 2**62)
KINDS = ("FP16", "FP32", "FP64", "BOOL", "INT8", "INT64", "UINT64", "BYTES", "BF16", "X")
PATHS = (
    "/score",
    "/v1/models/iris:predict",
    "/v2/models/iris/infer",
    "/invocations",
    "/predictions/iris",
)


class Noise:
    """Makes cases.

    Args:
        seed: equal seeds make equal cases.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def value(self, depth: int = 0) -> Any:
        """Any JSON value, not deep."""
        rnd = self._random
        if depth > 3 or rnd.random() < 0.4:
            return rnd.choice(SCALARS)
        if rnd.random() < 0.5:
            return [self.value(depth + 1) for _ in range(rnd.randrange(6))]
        return {rnd.choice(KEYS): self.value(depth + 1) for _ in range(rnd.randrange(5))}

    def row(self) -> list[Any]:
        """Four numbers, now and then with something else among them."""
        rnd = self._random
        width = 4 if rnd.random() < 0.8 else rnd.randrange(7)
        return [
            rnd.choice(SCALARS) if rnd.random() < 0.1 else round(rnd.uniform(0, 8), 1)
            for _ in range(width)
        ]

    def tensor(self, *, binary: bool) -> tuple[dict[str, Any], bytes]:
        """A tensor of the Open Inference Protocol and its raw bytes, often not fitting."""
        rnd = self._random
        shape: Any = [rnd.choice(SIZES) for _ in range(rnd.randrange(4))]
        if rnd.random() < 0.1:
            shape = self.value()
        item: dict[str, Any] = {"name": "X", "shape": shape, "datatype": rnd.choice(KINDS)}
        raw = b""
        if binary:
            raw = rnd.randbytes(rnd.choice((0, 1, 4, 8, 16, 32, 33)))
            size: Any = len(raw) if rnd.random() < 0.6 else rnd.choice(SCALARS)
            item["parameters"] = {"binary_data_size": size}
        elif rnd.random() < 0.9:
            item["data"] = self.row() if rnd.random() < 0.7 else self.value()
        return item, raw

    def message(self) -> Any:
        """A body that is right, nearly right or nothing."""
        rnd = self._random
        kind = rnd.randrange(6)
        if kind == 0:
            return self.value()
        if kind == 1:
            return {rnd.choice(KEYS): [self.row() for _ in range(rnd.randrange(4))]}
        if kind == 2:
            return {"inputs": [self.tensor(binary=False)[0] for _ in range(rnd.randrange(3))]}
        if kind == 3:
            columns = [rnd.choice(SCALARS) for _ in range(rnd.randrange(5))]
            return {"dataframe_split": {"columns": columns, "data": [self.row()]}}
        if kind == 4:
            return {"data": [self.row()], rnd.choice(KEYS): self.value()}
        return {"instances": [self.row(), self.value()]}

    def request(self) -> bytes:
        """One complete request with a key."""
        rnd = self._random
        path = rnd.choice(PATHS)
        headers = ["Host: x", "Authorization: Bearer test-key-1"]
        media = "application/json"
        if rnd.random() < 0.2:
            item, raw = self.tensor(binary=True)
            head = json.dumps({"inputs": [item]}).encode("utf-8", "surrogatepass")
            told = len(head) if rnd.random() < 0.8 else rnd.randrange(-1, 500)
            path, media = "/v2/models/iris/infer", "application/octet-stream"
            headers.append(f"Inference-Header-Content-Length: {told}")
            body = head + raw
        else:
            body = json.dumps(self.message()).encode("utf-8", "surrogatepass")
        if rnd.random() < 0.2 and body:  # damaged
            at = rnd.randrange(len(body))
            body = body[:at] + rnd.randbytes(rnd.randrange(4)) + body[at + rnd.randrange(4) :]
        if rnd.random() < 0.1:
            media = rnd.choice(("text/csv", "image/png", "", "application/json; charset=x"))
        if rnd.random() < 0.05:
            headers.append("Content-Encoding: " + rnd.choice(("gzip", "identity", "br")))
        if media:
            headers.append(f"Content-Type: {media}")
        head_lines = "\r\n".join((f"POST {path} HTTP/1.1", *headers))
        return f"{head_lines}\r\nContent-Length: {len(body)}\r\n\r\n".encode("latin-1") + body
