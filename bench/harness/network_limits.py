"""In-process limits of a network: eager, frozen, fused and compiled; over processes, threads, batch sizes and precisions.

Imports torch in the measuring processes only: `measure_limits` calls `build_network_jobs` there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.limits import Jobs

# Fused: TorchScript's optimize_for_inference. Graph: whole subgraphs compiled by oneDNN Graph. Compiled: torch.compile with
# frozen weights, which needs a C++ compiler and a minute for each batch size; it has to be asked for.
MODES = ("eager", "frozen", "fused", "graph")
COMPILED = "compiled"
# Of a job before it is timed: the first notes shapes, the second compiles.
WARM_UP_CALLS = 3
# Calls between two looks at the GPU: the host's launch time is then hidden, as a good server hides it.
CALLS = 10


def build_network_jobs(
    folder: Path,
    images: Sequence[bytes],
    threads: int,
    modes: Sequence[str],
    batches: Sequence[int],
    precision: str,
) -> Jobs:
    """One job for each mode and batch size, on tensors that are ready.

    Args:
        folder: of the model.
        images: JPEGs.
        threads: of PyTorch, in this process.
        modes: of MODES, or COMPILED; all channels-last, in inference mode.
        batches: images in a call.
        precision: `float32` or `bfloat16`.
    """
    import torch
    from workloads.network import load_network, preprocess

    torch.set_num_threads(threads)
    dtype = getattr(torch, precision)
    rows = torch.stack([preprocess(data) for data in images])
    rows = rows.to(dtype).contiguous(memory_format=torch.channels_last)
    network, _ = load_network(folder)
    network = network.to(dtype).to(memory_format=torch.channels_last)
    jobs: dict[str, tuple[Callable[[], Any], int]] = {}
    for mode in modes:
        module = None
        for size in batches:
            batch = torch.cat([rows] * (size // len(rows) + 1))[:size]
            batch = batch.contiguous(memory_format=torch.channels_last)
            # What is compiled is compiled for one shape.
            if module is None or mode in ("graph", COMPILED):
                module = compile_network(network, mode, batch)
            jobs[f"{mode}, batch {size}"] = (_forward(module, batch), size)
    return jobs


def compile_network(network: Any, mode: str, example: Any) -> Any:
    """A network in one of the modes, warm.

    Args:
        network: in evaluation mode, channels-last.
        mode: of MODES, or COMPILED.
        example: a batch.
    """
    import torch

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if mode == "eager":
            module = network
        elif mode == COMPILED:
            import torch._inductor.config as inductor

            inductor.freezing = True
            module = torch.compile(network, dynamic=False)
        else:
            torch.jit.enable_onednn_fusion(mode == "graph")
            module = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))
            if mode == "fused":
                module = torch.jit.optimize_for_inference(module)
        for _ in range(WARM_UP_CALLS):
            module(example)
        torch.jit.enable_onednn_fusion(False)
    return module


def _forward(module: Any, batch: Any) -> Callable[[], Any]:
    import torch

    def call() -> Any:
        with torch.inference_mode():
            return module(batch).float().softmax(1)

    return call


def build_decode_jobs(images: Sequence[bytes]) -> Jobs:
    """What comes before the network for one image: base64, JPEG, resize, crop."""
    import base64

    from workloads.network import preprocess

    texts = [base64.b64encode(data) for data in images]
    places = iter(range(10**12))

    def call() -> Any:
        return preprocess(base64.b64decode(texts[next(places) % len(texts)]))

    return {"decode": (call, 1)}


def build_gpu_jobs(
    folder: Path, images: Sequence[bytes], device: str, batches: Sequence[int], precision: str
) -> Jobs:
    """Batches that lie on the device already; eager and, on a GPU, as a CUDA graph."""
    import torch
    from workloads.network import load_network, preprocess

    dtype = getattr(torch, precision)
    rows = torch.stack([preprocess(data) for data in images])
    network, _ = load_network(folder)
    network = network.to(device, dtype).to(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    jobs: dict[str, tuple[Callable[[], Any], int]] = {}
    for size in batches:
        batch = torch.cat([rows] * (size // len(rows) + 1))[:size].to(device, dtype)
        batch = batch.contiguous(memory_format=torch.channels_last)
        if device == "cpu":
            jobs[f"eager, batch {size}"] = (_forward(network, batch), size)
            continue
        jobs[f"eager, batch {size}"] = (_synchronised(_forward(network, batch)), CALLS * size)
        jobs[f"CUDA graph, batch {size}"] = (_synchronised(_captured(network, batch)), CALLS * size)
    return jobs


def _synchronised(call: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    def calls() -> None:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()

    return calls


def _captured(network: Any, batch: Any) -> Callable[[], Any]:
    import torch

    forward = _forward(network, batch)
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            forward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()

    def replay() -> None:
        graph.replay()

    return replay
