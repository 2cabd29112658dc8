"""What every neural-network runtime shares: images and numbers in, batches through, labelled scores out.

A framework's runtime brings an `Engine`: a function from one batch array to one array of outputs. Everything that a
client can get wrong is decided here, so that an engine sees arrays of one dtype and shape only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from model_scorer.errors import InvalidInput, NotSupported, RequestError
from model_scorer.images import Preprocess, decode_image, fit_image
from model_scorer.runtimes.files import find_file
from model_scorer.runtimes.network_config import NetworkConfig, check_labels
from model_scorer.runtimes.protocol import (
    Array,
    BlobsInput,
    Call,
    Output,
    Prediction,
    Prepared,
    RowsInput,
    RuntimeInfo,
    Signature,
    TableInput,
    TensorsInput,
    TensorSpec,
    stack_rows,
)
from model_scorer.settings import Settings

_OUTPUT = "scores"
_DATATYPES = {
    np.dtype(np.float32): "FP32",
    np.dtype(np.float16): "FP16",
    np.dtype(np.int64): "INT64",
    np.dtype(np.uint8): "UINT8",
}


# Inputs that a client may name without knowing the network's own name for it.
_INPUT_NAMES = frozenset({"input", "inputs", "image", "images", "data", "input-0", "input_0"})


def count_cores(settings: Settings) -> int:
    """Cores to compute on: what the server found in the cgroup's quota, else the affinity mask."""
    return settings.workers or len(os.sched_getaffinity(0))


class Engine(Protocol):
    """A loaded network on its device.

    Attributes:
        batch_rows: rows in a call beyond which nothing is gained, found out by the warm-up; None: what the runtime said.
    """

    batch_rows: int | None

    def forward(self, batch: Array) -> Array:
        """Score one batch.

        Args:
            batch: uint8 pixels of shape (n, height, width, channels) when the network takes images, else numbers of
                shape (n, …) in the network's own layout and dtype.

        Returns:
            float32 of shape (n, …): scores after the activation.
        """
        ...

    def warm_up(self, row: Array, sizes: Sequence[int]) -> Array:
        """Run batches of the given sizes made of one row, and prepare what pays for them; returns the last output."""
        ...

    def close(self) -> None:
        """Give back the device's memory."""
        ...


def normalise(pixels: Array, how: Preprocess) -> Array:
    """Scale, subtract the mean and divide by std, for engines without a graph of their own to do it in.

    Args:
        pixels: uint8 (n, height, width, channels).
        how: the factors, and the layout wanted.

    Returns:
        float32 in the layout wanted, contiguous.
    """
    factor, offset = how.affine()
    scaled = pixels * factor + offset
    return np.ascontiguousarray(
        scaled.transpose(0, 3, 1, 2) if how.layout == "NCHW" else scaled, dtype=np.float32
    )


def activate(outputs: Array, activation: str) -> Array:
    """Make scores of a network's outputs: `softmax` over the last axis, `sigmoid`, or `none`; float32."""
    scores = np.asarray(outputs, np.float32)
    if activation == "softmax":
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
    elif activation == "sigmoid":
        # The form that overflows in neither direction.
        small = np.exp(-np.abs(scores))
        scores = np.where(scores >= 0, 1 / (1 + small), small / (1 + small))
    return scores


def warm_up_by_forward(
    forward: Callable[[Array], Array], row: Array, sizes: Sequence[int]
) -> Array:
    """Run each batch size once, for engines with nothing else to prepare."""
    scores = forward(row)
    for size in sizes:
        scores = forward(np.repeat(row, size, axis=0))
    return scores


@dataclass(slots=True)
class NetworkPayload:
    """A prepared call.

    Attributes:
        batch: the rows that can be scored, or None when an image request has none.
        errors: by position in the request, what was wrong with the images that cannot.
        count: items in the request.
    """

    batch: Array
    errors: dict[int, RequestError]
    count: int


class NetworkRuntime:
    """A neural network behind the runtime protocol."""

    def __init__(
        self,
        engine: Engine,
        config: NetworkConfig,
        info: RuntimeInfo,
        *,
        input_name: str = "input",
        dtype: Any = np.float32,
        warm_up_sizes: Sequence[int] = (1,),
    ) -> None:
        self._engine = engine
        self._config = config
        self._info = info
        self._dtype = np.dtype(dtype)
        self._warm_up_sizes = warm_up_sizes
        shape = (-1, *(config.input_shape or (-1,)))
        self._input = TensorSpec(input_name, _DATATYPES.get(self._dtype, "FP32"), shape)
        self._signature = Signature(
            (self._input,),
            (TensorSpec(_OUTPUT, "FP32", (-1, -1)),),
            classes=config.labels or (),
        )

    @property
    def info(self) -> RuntimeInfo:
        """See `Runtime.info`."""
        return self._info

    @property
    def signature(self) -> Signature:
        """See `Runtime.signature`."""
        return self._signature

    # ------------------------------------------------------------------------------------------------ prepare

    def prepare(self, call: Call) -> Prepared:
        """Decode images, or make an array of numbers; see `Runtime.prepare`."""
        given = call.input
        if call.outputs and set(call.outputs) != {_OUTPUT}:
            raise InvalidInput(
                f"no output {call.outputs[0]!r}: this model has the output {_OUTPUT!r}"
            )
        if isinstance(given, BlobsInput):
            return self._prepare_images(given.blobs)
        if isinstance(given, RowsInput | TableInput):
            if self._config.preprocess is not None and any(map(_may_hold_image, given.rows)):
                return self._prepare_images(given.rows)
            return self._prepare_numbers(given.rows)
        if isinstance(given, TensorsInput):
            return self._prepare_tensors(given.tensors)
        raise InvalidInput("this model takes images or numbers, and the body is neither")

    def _prepare_images(self, items: Sequence[Any]) -> Prepared:
        """Decode files: blobs, or JSON values with base64 in them."""
        how = self._config.preprocess
        if how is None:
            raise NotSupported("this model takes no images: its model.yaml has no `preprocess`")
        rows, errors = [], {}
        for position, item in enumerate(items):
            try:
                image = decode_image(find_file(item), target_side=how.target_side)
                rows.append(fit_image(image, how))
            except RequestError as err:
                errors[position] = err
        if not rows:
            raise errors[0] if errors else InvalidInput("the request has no image")
        shapes = {row.shape for row in rows}
        if len(shapes) > 1:
            raise InvalidInput(
                "images of one request must be equally large where model.yaml's preprocess neither crops nor resizes to "
                f"[height, width]; got {sorted(shape[:2] for shape in shapes)}"
            )
        batch = np.stack(rows) if len(rows) > 1 else rows[0][None]
        return Prepared(
            NetworkPayload(batch, errors, len(items)), len(rows), ("images", batch.shape[1:])
        )

    def _prepare_numbers(self, rows: Sequence[Any]) -> Prepared:
        try:
            batch = np.asarray(rows, dtype=self._dtype)
        except (ValueError, TypeError, OverflowError) as err:
            raise InvalidInput(f"rows must be numbers in {self._wanted()}: {err}") from err
        return self._prepared(batch)

    def _prepare_tensors(self, tensors: dict[str, Array]) -> Prepared:
        if len(tensors) != 1:
            raise InvalidInput(
                f"one input {self._input.name!r} is expected, got {len(tensors)}: {sorted(tensors)}"
            )
        name, batch = next(iter(tensors.items()))
        if name != self._input.name and name not in _INPUT_NAMES:
            raise InvalidInput(f"no input {name!r}: this model has the input {self._input.name!r}")
        if batch.dtype == object:
            return self._prepare_images(batch.reshape(-1).tolist())
        return self._prepared(batch.astype(self._dtype, copy=False))

    def _prepared(self, batch: Array) -> Prepared:
        wanted = self._config.input_shape
        if batch.ndim < 1 or len(batch) < 1:
            raise InvalidInput(f"at least one row is needed, each of {self._wanted()}")
        if wanted is not None and batch.shape[1:] != wanted:
            if batch.shape == wanted:  # one row without the batch axis
                batch = batch[None]
            elif batch[0].size != int(np.prod(wanted)):
                got = list(batch.shape[1:])
                raise InvalidInput(f"each row must have {self._wanted()}, got shape {got}")
            else:
                batch = batch.reshape(len(batch), *wanted)
        return Prepared(
            # Tensors of binary requests are views of the body; frameworks want arrays that they may write to.
            NetworkPayload(np.require(batch, requirements=("C", "W")), {}, len(batch)),
            len(batch),
            ("numbers", batch.dtype.str, batch.shape[1:]),
        )

    def _wanted(self) -> str:
        shape = self._config.input_shape
        return f"shape {list(shape)}" if shape else "the network's input shape"

    # ------------------------------------------------------------------------------------------------ execute

    def execute(self, batch: Sequence[Prepared]) -> Sequence[Output | Exception]:
        """Score prepared calls in one forward pass; see `Runtime.execute`."""
        payloads: list[NetworkPayload] = [item.payload for item in batch]
        scores = self._forward(stack_rows([payload.batch for payload in payloads]))
        shown = self._show(scores) if self._config.classifies and scores.ndim == 2 else None
        outputs: list[Output | Exception] = []
        start = 0
        for payload in payloads:
            end = start + len(payload.batch)
            own = shown[start:end] if shown is not None else None
            if payload.errors:
                own = self._with_errors(payload, own or scores[start:end].tolist())
            outputs.append(Prediction({_OUTPUT: scores[start:end]}, own))
            start = end
        return outputs

    def _forward(self, rows: Array) -> Array:
        """Score rows in calls of no more than the engine's largest batch: one request may bring any number."""
        most = self._info.max_batch_rows or len(rows)
        if len(rows) <= most:
            return self._engine.forward(rows)
        parts = [
            self._engine.forward(rows[start : start + most]) for start in range(0, len(rows), most)
        ]
        return np.concatenate(parts)

    def _show(self, scores: Array) -> list[Any]:
        count = min(self._config.top_k, scores.shape[1])
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        picked = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-picked, axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1).tolist()
        picked = np.take_along_axis(picked, order, axis=1).tolist()
        labels = self._config.labels
        names = labels.__getitem__ if labels is not None else str
        return [
            [[names(index), score] for index, score in zip(indices, values, strict=True)]
            for indices, values in zip(best, picked, strict=True)
        ]

    @staticmethod
    def _with_errors(payload: NetworkPayload, shown: list[Any]) -> list[Any]:
        good = iter(shown)
        return [
            {"error": payload.errors[position].message}
            if position in payload.errors
            else next(good)
            for position in range(payload.count)
        ]

    # ------------------------------------------------------------------------------------------------ warm-up

    def warm_up(self) -> Prepared | None:
        """Run the batch sizes in use, check the labels against the outputs; see `Runtime.warm_up`."""
        how = self._config.preprocess
        shape = self._config.input_shape
        if how is not None:
            side = how.target_side or 224
            size = how.size or (side, side)
            row: Array = np.zeros((1, *size, how.channels), np.uint8)
            prepared = Prepared(NetworkPayload(row, {}, 1), 1, ("images", row.shape[1:]))
        elif shape is not None:
            row = np.zeros((1, *shape), self._dtype)
            prepared = self._prepared(row)
        else:
            return None
        scores = self._engine.warm_up(row, self._warm_up_sizes)
        if self._engine.batch_rows is not None:
            self._info = replace(self._info, max_batch_rows=self._engine.batch_rows)
        if scores.ndim == 2:
            check_labels(self._config, scores.shape[1])
        self._signature = replace(
            self._signature, outputs=(TensorSpec(_OUTPUT, "FP32", (-1, *scores.shape[1:])),)
        )
        return prepared

    def close(self) -> None:
        """Give back the device's memory."""
        self._engine.close()


def _may_hold_image(row: Any) -> bool:
    if isinstance(row, list) and len(row) == 1:
        row = row[0]
    return isinstance(row, str | bytes | dict)
