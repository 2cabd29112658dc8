"""A PyTorch module made fast: one forward function from a NumPy batch to a NumPy batch, on the CPU or on one GPU.

CPU: the network with its activation is traced into one graph and handed to oneDNN, used only if its answers agree with the
module's own: as a whole where a row takes so long that batches gain nothing, else operator by operator. Batches of different
threads run side by side; a lone batch gets all cores.
GPU: the same graph is captured as a CUDA graph for each batch size in use, fed from pinned memory on a stream of its own,
so that one batch is copied while the other computes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from model_scorer.errors import LoadFailed, OutOfMemory
from model_scorer.images import Preprocess
from model_scorer.runtimes.protocol import Array

log = logging.getLogger(__name__)
_T = TypeVar("_T")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Fusing changes the order of additions: what float32 loses by it in a network of hundreds of layers stays below this
# share of the largest output. A fused graph that differs by more is not used.
_AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
# From here on a convolutional network gains nothing from batches on a CPU (docs/image-classification.md), so that its graph may be compiled
# for single rows; below it, what each call costs whatever it does counts, and batches share that.
_SLOW_ROW_SECONDS = 0.01


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
        with torch.inference_mode():
            rows = self.prepare(example)
            self._replace_core(
                lambda: torch.jit.optimize_for_inference(_trace(self.core, rows)),
                (rows, rows[:1], torch.cat([rows, rows])),
            )

    def fuse_for_single_rows(self, example: torch.Tensor) -> bool:
        """Have oneDNN compile the network as a whole for calls of one row, if the answers stay.

        Its graph compiler keeps one memory layout from convolution to convolution. What it compiles is for one shape:
        another would be compiled anew, in seconds and with a copy of the weights of its own.

        Args:
            example: a batch of two rows, as `forward` takes them.

        Returns:
            Whether it is used from now on.
        """
        with torch.inference_mode(), _graph_compiler():
            rows = self.prepare(example)

            def build() -> torch.nn.Module:
                compiled = _trace(self.core, rows[:1])
                # The first call notes the shapes, the second compiles.
                for _ in range(2):
                    compiled(rows[:1])
                return compiled

            return self._replace_core(build, (rows[:1], rows[1:]))

    def _agreement(self, device: torch.device) -> float:
        """How far fused answers may be off, as a share of the largest."""
        dtype = self.dtype
        if device.type == "cuda" and dtype is torch.float32 and torch.backends.cudnn.allow_tf32:
            # cuDNN multiplies float32 with float16's ten bits of mantissa unless told otherwise
            # (https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices).
            dtype = torch.float16
        return _AGREEMENT[dtype]

    def _replace_core(
        self, build: Callable[[], torch.nn.Module], batches: Sequence[torch.Tensor]
    ) -> bool:
        """Put what `build` makes in the network's place if both give the same answers to the batches."""
        largest = max(self.core(batch).abs().max().item() for batch in batches)
        difference = 0.0
        try:
            with warnings.catch_warnings():
                # Tracing warns of Python branches on shapes and of its own deprecation; the comparison is what decides.
                warnings.simplefilter("ignore")
                fused = build()
            for batch in batches:
                apart = (fused(batch) - self.core(batch)).abs().max().item()
                # A NaN is never smaller, whatever comes after it.
                difference = apart if not apart <= difference else difference
        except Exception as err:
            log.info("the network is run unfused", extra={"cause": str(err).splitlines()[:1]})
            return False
        if not difference <= self._agreement(batches[0].device) * max(largest, 1e-6):
            log.info("the network is run unfused: fused answers differ", extra={"by": difference})
            return False
        self.core = fused
        return True


def _trace(core: torch.nn.Module, rows: torch.Tensor) -> Any:
    return torch.jit.freeze(torch.jit.trace(core, rows, check_trace=False))


@contextlib.contextmanager
def _graph_compiler() -> Iterator[None]:
    """Let TorchScript give whole subgraphs to oneDNN Graph; what was compiled meanwhile stays so."""
    before = torch.jit.onednn_fusion_enabled()
    torch.jit.enable_onednn_fusion(True)
    try:
        yield
    finally:
        torch.jit.enable_onednn_fusion(before)


class CpuEngine:
    """A module on the CPU.

    Args:
        module: in evaluation mode.
        cores: threads for a lone batch; batches that run side by side share them.
        one_shape: all rows have the shape of the warm-up's.

    Attributes:
        batch_rows: 1 once the network is compiled for single rows; see `Engine`.
    """

    def __init__(self, module: Scored, *, cores: int, one_shape: bool = False) -> None:
        self._module = module
        self._cores = cores
        self._one_shape = one_shape
        self._fused = False
        self._running = 0
        self._lock = threading.Lock()
        self._wide: ThreadPoolExecutor | None = (
            ThreadPoolExecutor(1, "all-cores", torch.set_num_threads, (cores,))
            if cores > 1
            else None
        )
        self.batch_rows: int | None = None

    def forward(self, batch: Array) -> Array:
        """See `Engine.forward`."""
        with self._lock:
            self._running += 1
            running = self._running
        try:
            return self._run(lambda: self._score(batch), max(1, self._cores // running))
        finally:
            with self._lock:
                self._running -= 1

    def _score(self, batch: Array) -> Array:
        with torch.inference_mode():
            rows = torch.from_numpy(batch)
            if self.batch_rows == 1 and len(rows) > 1:
                scores = torch.cat([self._module(row[None]) for row in rows])
            else:
                scores = self._module(rows)
            answer: Array = scores.numpy()
            return answer

    def _run(self, call: Callable[[], _T], threads: int) -> _T:
        """Run a call on so many OpenMP threads.

        Each thread that has called OpenMP keeps a team of its own. Once the teams together have more threads than there are
        CPUs, libgomp lets all of them sleep between parallel sections instead of spinning, and a network of 150
        convolutions loses a fifth of its time to waking them. Slow networks therefore have one team of all cores, on a
        thread of its own; smaller teams end with their thread.
        """
        if threads == 1 or self._wide is None:
            # OpenMP keeps the number of threads per calling thread, so that this does not disturb the other batch.
            torch.set_num_threads(threads)
            return call()
        if threads == self._cores:
            return self._wide.submit(call).result()
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as team:
            return team.submit(call).result()

    def warm_up(self, row: Array, sizes: Sequence[int]) -> Array:
        """Fuse for this row shape, then run each batch size once."""
        if not self._fused:
            self._fused = True
            example = torch.from_numpy(_varied(np.repeat(row, 2, axis=0)))
            self._run(lambda: self._fuse(example), self._cores)
            if self.batch_rows is None and self._wide is not None:
                # Where a call takes little, so must what comes before it.
                self._wide.shutdown()
                self._wide = None
        scores = self.forward(row)
        if self.batch_rows is None:
            for size in sizes:
                scores = self.forward(np.repeat(row, size, axis=0))
        return scores

    def _fuse(self, example: torch.Tensor) -> None:
        module = self._module
        if (
            self._one_shape
            and _time_call(module, example[:1]) >= _SLOW_ROW_SECONDS
            and module.fuse_for_single_rows(example)
        ):
            self.batch_rows = 1
        else:
            module.fuse(example)

    def close(self) -> None:
        """End the thread; the memory goes with the process."""
        if self._wide is not None:
            self._wide.shutdown()


def _time_call(module: torch.nn.Module, rows: torch.Tensor) -> float:
    """The fastest of a few calls in seconds."""
    seconds = []
    with torch.inference_mode():
        for _ in range(3):
            started = time.perf_counter()
            module(rows)
            seconds.append(time.perf_counter() - started)
    return min(seconds)


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

    batch_rows: int | None = None

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
        # Weights were copied, folded and compared on the default stream, which this one does not wait for by itself.
        lane.stream.wait_stream(torch.cuda.default_stream(self._device))
        with torch.inference_mode(), torch.cuda.stream(lane.stream), _tuned_convolutions():
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


@contextlib.contextmanager
def _tuned_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms for each shape that it meets: it pays for shapes that come again for hours."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
