"""A PyTorch module made fast: one forward function from a NumPy batch to a NumPy batch, on the CPU or on one GPU.

CPU: the network with its activation is traced into one graph, frozen and fused by oneDNN, used only if its answers agree
with the module's own. Batches of different threads run side by side; a lone batch gets all cores.
GPU: the same graph is captured as a CUDA graph for each batch size in use, fed from pinned memory on a stream of its own,
so that one batch is copied while the other computes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from model_scorer.errors import LoadFailed, OutOfMemory
from model_scorer.images import Preprocess
from model_scorer.runtimes.protocol import Array

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Fusing changes the order of additions: what float32 loses by it in a network of hundreds of layers stays below this
# share of the largest output. A fused graph that differs by more is not used.
_AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}


class Network(torch.nn.Module):
    """A network between its own input and scores: precision, the network, its first output, activation."""

    def __init__(self, network: torch.nn.Module, activation: str, dtype: torch.dtype) -> None:
        super().__init__()
        # Not `.eval()`: exported programs refuse it, and are in evaluation mode already.
        self.training = False
        self.network = network
        self.activation = activation
        self.dtype = dtype

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Score rows as the network takes them; float32 (n, …)."""
        if batch.is_floating_point():
            batch = batch.to(self.dtype)
        output = self.network(batch)
        if isinstance(output, dict):
            output = next(iter(output.values()))
        elif isinstance(output, list | tuple):
            output = output[0]
        output = output.to(torch.float32)
        if self.activation == "softmax":
            output = output.softmax(-1)
        elif self.activation == "sigmoid":
            output = output.sigmoid()
        return output


class Scored(torch.nn.Module):
    """A network with what comes before it: pixels are laid out and normalised, numbers are taken as they are.

    Only the network itself is traced and fused, so that one copy of its weights serves both.
    """

    def __init__(self, core: Network, preprocess: Preprocess | None) -> None:
        super().__init__()
        self.training = False
        self.core: torch.nn.Module = core
        self.dtype = core.dtype
        self.images = preprocess is not None
        self.channels_first = preprocess is None or preprocess.layout == "NCHW"
        if preprocess is not None:
            factor, offset = preprocess.affine()
            shape = (1, -1, 1, 1) if self.channels_first else (1, 1, 1, -1)
            self.register_buffer("factor", torch.from_numpy(factor).reshape(shape))
            self.register_buffer("offset", torch.from_numpy(offset).reshape(shape))

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Pixels, uint8 (n, h, w, c), as the network's input; numbers unchanged."""
        if not self.images:
            return batch
        if batch.dtype == torch.uint8:
            # Pixels that lie (n, h, w, c) and are read as (n, c, h, w) are channels-last already: no copy.
            pixels = batch.permute(0, 3, 1, 2) if self.channels_first else batch
            return torch.addcmul(self.offset, pixels.to(torch.float32), self.factor)
        if batch.dim() == 4 and self.channels_first:
            return batch.contiguous(memory_format=torch.channels_last)
        return batch

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Score pixels, uint8 (n, h, w, c), or numbers (n, …); float32 (n, …)."""
        scores: torch.Tensor = self.core(self.prepare(batch))
        return scores

    def fuse(self, example: torch.Tensor) -> None:
        """Trace, freeze and fuse the network; leave it as it is when that fails or changes its answers.

        Args:
            example: a batch of two rows on the device, as `forward` takes them.
        """
        with torch.inference_mode(), warnings.catch_warnings():
            # Tracing warns of Python branches on shapes and of its own deprecation; the comparison below is what decides.
            warnings.simplefilter("ignore")
            rows = self.prepare(example)
            plain = self.core(rows)
            try:
                traced = torch.jit.trace(self.core, rows, check_trace=False)
                fused: torch.nn.Module = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
                difference = 0.0
                for batch in (rows, rows[:1], torch.cat([rows, rows])):
                    apart = (fused(batch) - self.core(batch)).abs().max().item()
                    # A NaN is never smaller, whatever comes after it.
                    difference = apart if not apart <= difference else difference
            except Exception as err:
                log.info("the network is run unfused", extra={"cause": str(err).splitlines()[:1]})
                return
        bound = _AGREEMENT[self.dtype] * max(plain.abs().max().item(), 1e-6)
        if difference <= bound:
            self.core = fused
        else:
            log.info("the network is run unfused: fused answers differ", extra={"by": difference})


class CpuEngine:
    """A module on the CPU.

    Args:
        module: in evaluation mode.
        cores: threads for a lone batch; batches that run side by side get one each.
    """

    def __init__(self, module: Scored, *, cores: int) -> None:
        self._module = module
        self._fused = False
        self._cores = cores
        self._running = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
            alone = self._running == 1
        # OpenMP keeps the number of threads per calling thread, so that this does not disturb the other batch.
        torch.set_num_threads(self._cores if alone else 1)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def forward(self, batch: Array) -> Array:
        """See `Engine.forward`."""
        with self._threads(), torch.inference_mode():
            scores: Array = self._module(torch.from_numpy(batch)).numpy()
            return scores

    def warm_up(self, row: Array, sizes: Sequence[int]) -> Array:
        """Fuse for this row shape, then run each batch size once."""
        if not self._fused:
            self._fused = True
            example = torch.from_numpy(_varied(np.repeat(row, 2, axis=0)))
            with self._threads():
                self._module.fuse(example)
        scores = self.forward(row)
        for size in sizes:
            scores = self.forward(np.repeat(row, size, axis=0))
        return scores

    def close(self) -> None:
        """Nothing to give back: the process's memory goes with it."""


def _varied(rows: Array) -> Array:
    random = np.random.default_rng(0)
    varied: Array = rows
    if rows.dtype == np.uint8:
        varied = random.integers(0, 256, rows.shape, np.uint8)
    elif np.issubdtype(rows.dtype, np.floating):
        varied = np.asarray(random.standard_normal(rows.shape), rows.dtype)
    return varied


class _Lane:
    """One stream with its pinned buffers and its captured graphs."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.done = torch.cuda.Event(blocking=True)
        self.inputs: torch.Tensor | None = None
        self.outputs: torch.Tensor | None = None
        self.graphs: dict[int, tuple[Any, torch.Tensor, torch.Tensor]] = {}


class GpuEngine:
    """A module on one GPU.

    Args:
        module: on the GPU, in evaluation mode.
        device: the GPU.
        max_rows: the largest batch.
        lanes: batches in flight at the same time.
    """

    def __init__(
        self, module: Scored, *, device: torch.device, max_rows: int, lanes: int = 2
    ) -> None:
        self._module = module
        self._fused = False
        self._device = device
        self._max_rows = max_rows
        self._lanes = [_Lane(device) for _ in range(lanes)]
        self._idle = threading.Semaphore(lanes)
        self._lock = threading.Lock()

    @property
    def sizes(self) -> list[int]:
        """Batch sizes with a captured graph: powers of two up to the largest batch."""
        sizes, size = [], 1
        while size < self._max_rows:
            sizes.append(size)
            size *= 2
        return [*sizes, self._max_rows]

    @contextlib.contextmanager
    def _lane(self) -> Iterator[_Lane]:
        with self._idle:
            with self._lock:
                lane = self._lanes.pop()
            try:
                yield lane
            finally:
                with self._lock:
                    self._lanes.append(lane)

    def forward(self, batch: Array) -> Array:
        """See `Engine.forward`."""
        try:
            with self._lane() as lane, torch.inference_mode(), torch.cuda.stream(lane.stream):
                size = next((size for size in sorted(lane.graphs) if size >= len(batch)), None)
                rows = lane.inputs
                # Graphs are for the rows that the warm-up had; numbers for a network of pictures go without.
                fits = (
                    rows is not None
                    and rows.shape[1:] == batch.shape[1:]
                    and rows.dtype == torch.from_numpy(batch[:0]).dtype
                )
                if size is None or not fits:
                    inputs = torch.from_numpy(batch).to(self._device, non_blocking=True)
                    scores: Array = self._module(inputs).cpu().numpy()
                    return scores
                return self._replay(lane, size, batch)
        except torch.cuda.OutOfMemoryError as err:
            raise MemoryError(f"the GPU's memory does not hold a batch of {len(batch)}") from err

    @staticmethod
    def _replay(lane: _Lane, size: int, batch: Array) -> Array:
        graph, inputs, outputs = lane.graphs[size]
        assert lane.inputs is not None
        assert lane.outputs is not None
        count = len(batch)
        # Rows beyond the batch keep what was there before: they are computed and thrown away.
        lane.inputs[:count].copy_(torch.from_numpy(batch))
        inputs[:count].copy_(lane.inputs[:count], non_blocking=True)
        graph.replay()
        lane.outputs[:count].copy_(outputs[:count], non_blocking=True)
        lane.done.record(lane.stream)
        lane.done.synchronize()
        scores: Array = lane.outputs[:count].numpy().copy()
        return scores

    def warm_up(self, row: Array, sizes: Sequence[int]) -> Array:
        """Fuse for this row shape, then capture a graph for each batch size on each lane."""
        rows = torch.from_numpy(_varied(np.repeat(row, 2, axis=0))).to(self._device)
        try:
            if not self._fused:
                self._fused = True
                self._module.fuse(rows)
            for lane in self._lanes:
                self._capture(lane, row)
        except torch.cuda.OutOfMemoryError as err:
            raise OutOfMemory(
                f"the GPU's memory does not hold a batch of {self._max_rows}",
                "lower `batching.maxSize`, use precision float16, or a larger GPU",
            ) from err
        except RuntimeError as err:
            if "CUDA" in str(err) or "cuda" in str(err):
                raise LoadFailed(
                    f"the GPU refused the network: {str(err).splitlines()[0]}",
                    "check that the image's CUDA version fits the node's driver",
                ) from err
            raise
        return self.forward(row)

    def _capture(self, lane: _Lane, row: Array) -> None:
        shape = (self._max_rows, *row.shape[1:])
        lane.inputs = torch.zeros(shape, dtype=torch.from_numpy(row).dtype).pin_memory()
        pool = None
        with torch.inference_mode(), torch.cuda.stream(lane.stream):
            # The largest first: smaller graphs then fit into its memory pool.
            for size in reversed(self.sizes):
                inputs = lane.inputs[:size].to(self._device)
                for _ in range(3):
                    outputs = self._module(inputs)
                lane.stream.synchronize()
                if lane.outputs is None:
                    lane.outputs = torch.zeros_like(outputs, device="cpu").pin_memory()
                graph = torch.cuda.CUDAGraph()
                try:
                    with torch.cuda.graph(graph, pool=pool, stream=lane.stream):
                        outputs = self._module(inputs)
                except RuntimeError as err:
                    log.info("no CUDA graph", extra={"rows": size, "cause": str(err)[:200]})
                    lane.graphs.clear()
                    return
                pool = graph.pool()
                lane.graphs[size] = (graph, inputs, outputs)

    def close(self) -> None:
        """Drop graphs, buffers and the network."""
        self._lanes.clear()
        torch.cuda.empty_cache()
