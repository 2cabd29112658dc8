"""Open Inference answers as bytes. What is the same in every answer of a model is encoded once; values never are.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md#inference-response-json-object
"""

from __future__ import annotations

import os
import random

from model_scorer.dialects.infer_context import InferContext
from model_scorer.dialects.protocol import Answer, Target
from model_scorer.dialects.tensor_bytes import render_binary_tensor
from model_scorer.dialects.tensor_json import render_json_data
from model_scorer.json_text import encode_json
from model_scorer.runtimes.protocol import Array, Tensors
from model_scorer.runtimes.tensors import datatype_of

BINARY = "application/octet-stream"
# Names and shapes that are kept; clients choose how many rows they send.
MAX_FRAMES = 512

_Headers = tuple[tuple[str, str], ...]


class NewIds:
    """UUIDs (version 4 in form) for requests that brought no id: a random start, then a count.

    Nothing depends on their being hard to guess. A forked process begins anew.
    """

    def __init__(self) -> None:
        self.restart()
        os.register_at_fork(after_in_child=self.restart)

    def restart(self) -> None:
        """Another random start."""
        digits = f"{random.SystemRandom().getrandbits(80):020x}"
        self._prefix = f"{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-a{digits[15:18]}-"
        self._count = random.SystemRandom().getrandbits(40)

    def new(self) -> str:
        """One that was not given before."""
        self._count = count = self._count + 1
        return f"{self._prefix}{count & 0xFFFFFFFFFFFF:012x}"


class AnswerFrames:
    """The parts of answers that do not change from request to request."""

    def __init__(self) -> None:
        self._ids: NewIds | None = None
        self._target: Target | None = None
        self._begin = b""
        self._frames: dict[tuple[object, ...], bytes] = {}
        self._lengths: dict[int, _Headers] = {}

    def render(self, tensors: Tensors, context: InferContext, target: Target) -> Answer:
        """JSON, or JSON followed by the raw tensors that were asked for in binary."""
        if self._target is not target:
            self._begin_with(target)
        head = [self._begin, self._id(context), b',"outputs":[']
        chunks: list[bytes] = []
        asked, choices = context.asked, context.binary
        for name, array in tensors.items():
            if len(head) > 3:
                head.append(b",")
            binary = (
                choices.get(name, context.binary_default) if choices else context.binary_default
            )
            shown = asked.get(name, name) if asked else name
            if binary:
                chunk = render_binary_tensor(array)
                chunks.append(chunk)
                head.append(self._frame(shown, array, len(chunk)))
            else:
                head += (
                    self._frame(shown, array, None),
                    encode_json(render_json_data(array)),
                    b"}",
                )
        head.append(b"]}")
        if not chunks:
            return Answer(200, b"".join(head))
        text = b"".join(head)
        return Answer(200, b"".join((text, *chunks)), BINARY, self._length_header(len(text)))

    def _begin_with(self, target: Target) -> None:
        self._target = target
        names = encode_json({"model_name": target.name, "model_version": target.version})
        self._begin = names[:-1] + b',"id":'

    def _id(self, context: InferContext) -> bytes:
        if context.request_id:
            return encode_json(context.request_id)
        if self._ids is None:
            self._ids = NewIds()
        return b'"%b"' % self._ids.new().encode()

    def _frame(self, name: str, array: Array, size: int | None) -> bytes:
        """An output's JSON: up to its data, or the whole of it when its data follows as `size` raw bytes."""
        key = (name, array.dtype, array.shape, size)
        frame = self._frames.get(key)
        if frame is None:
            item = {"name": name, "datatype": datatype_of(array), "shape": list(array.shape)}
            if size is None:
                frame = encode_json(item)[:-1] + b',"data":'
            else:
                frame = encode_json(item | {"parameters": {"binary_data_size": size}})
            if len(self._frames) >= MAX_FRAMES:
                self._frames.clear()
            self._frames[key] = frame
        return frame

    def _length_header(self, length: int) -> _Headers:
        headers = self._lengths.get(length)
        if headers is None:
            headers = (("Inference-Header-Content-Length", str(length)),)
            if len(self._lengths) >= MAX_FRAMES:
                self._lengths.clear()
            self._lengths[length] = headers
        return headers
