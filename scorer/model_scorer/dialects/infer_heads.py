"""JSON parts of binary Open Inference requests that were read before: clients send the very same one again and again.

A plan is what a JSON part says, checked: which tensors follow, where each begins, what is asked for. It holds no value of
any request, so that two requests with the same JSON part differ in their raw tensors alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from model_scorer.dialects.infer_context import InferContext
from model_scorer.dialects.protocol import Target
from model_scorer.dialects.tensor_bytes import parse_binary_tensor
from model_scorer.runtimes.protocol import Call, Tensors, TensorsInput
from model_scorer.runtimes.tensors import DTYPES

MAX_PLANS = 256
# What is longer is rare, and would keep memory for nothing.
MAX_HEAD_BYTES = 2048


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One raw tensor.

    Attributes:
        name: as the client wrote it.
        datatype: of the protocol.
        shape: checked; of as many elements as `size` holds.
        start: behind the JSON part, in bytes.
        size: in bytes.
        dtype: for numbers that need no conversion, else None.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    start: int
    size: int
    dtype: np.dtype[Any] | None


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """A whole JSON part.

    Attributes:
        target: the model that it was checked against.
        tensors: in their order, without gaps.
        size: of all of them in bytes.
        outputs: names asked for, as the runtime knows them.
        parameters: of the request.
        context: for the answer.
    """

    target: Target
    tensors: tuple[TensorPlan, ...]
    size: int
    outputs: tuple[str, ...]
    parameters: dict[str, Any]
    context: InferContext

    def read(self, body: bytes | bytearray | memoryview, begin: int) -> Call:
        """The call of a body whose raw tensors begin at `begin` and have this plan's size.

        Raises:
            BadRequest: texts whose lengths do not add up.
        """
        tensors: Tensors = {}
        for tensor in self.tensors:
            start = begin + tensor.start
            dtype = tensor.dtype
            if dtype is not None:
                count = tensor.size // dtype.itemsize
                array = np.frombuffer(body, dtype, count, start).reshape(tensor.shape)
            else:
                data = memoryview(body)[start : start + tensor.size]
                array = parse_binary_tensor(data, tensor.datatype, tensor.shape, tensor.name)
            tensors[tensor.name] = array
        return Call(TensorsInput(tensors), self.outputs, self.parameters)


class HeadPlans:
    """Plans by the bytes of their JSON part; a bounded number."""

    def __init__(self) -> None:
        self._plans: dict[bytes, HeadPlan] = {}

    def find(self, head: bytes, target: Target) -> HeadPlan | None:
        """The plan of these bytes for this model, if there is one."""
        plan = self._plans.get(head)
        return plan if plan is not None and plan.target is target else None

    def learn(
        self,
        head: bytes,
        target: Target,
        message: dict[str, Any],
        call: Call,
        context: InferContext,
    ) -> None:
        """Keep what was read, if all of its tensors were raw and it will come again: no id of its own.

        Args:
            head: the JSON part.
            target: the model.
            message: the JSON part decoded, already found valid.
            call: made of it.
            context: made of it.
        """
        if len(head) > MAX_HEAD_BYTES or context.request_id:
            return
        tensors = []
        start = 0
        for item in message["inputs"]:
            if "data" in item:
                return
            size = item["parameters"]["binary_data_size"]
            dtype = DTYPES.get(item["datatype"])
            plain = dtype is not None and dtype.kind in "iuf" and size > 0
            tensors.append(
                TensorPlan(
                    item["name"],
                    item["datatype"],
                    tuple(item["shape"]),
                    start,
                    size,
                    dtype.newbyteorder("<") if plain and dtype is not None else None,
                )
            )
            start += size
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[head] = HeadPlan(
            target, tuple(tensors), start, call.outputs, dict(call.parameters), context
        )
