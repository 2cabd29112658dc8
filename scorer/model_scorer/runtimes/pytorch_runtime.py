"""PyTorch behind the runtime protocol: finds the device, loads the file, makes it fast."""

from __future__ import annotations

import warnings

import torch

from model_scorer.errors import InvalidSpec, NoGPU, OutOfMemory
from model_scorer.runtimes.model_folder import ModelFolder
from model_scorer.runtimes.network import Engine, NetworkRuntime, count_cores
from model_scorer.runtimes.network_config import NetworkConfig, read_network_config
from model_scorer.runtimes.protocol import RuntimeInfo
from model_scorer.runtimes.pytorch_engine import DTYPES, CpuEngine, GpuEngine, Network, Scored
from model_scorer.runtimes.pytorch_loading import load_module
from model_scorer.settings import Settings

# On a CPU a convolution gains nothing from batches beyond this, and the others wait longer (bench/RESULTS.md).
_CPU_BATCH_ROWS = 4
_GPU_DECODE_THREADS = 8


def load_in_worker(settings: Settings) -> bool:
    """A CUDA context does not survive a fork, and neither do OpenMP's threads."""
    return True


def find_device(settings: Settings) -> torch.device:
    """The device that the settings ask for; nothing falls back to the CPU.

    Raises:
        NoGPU: `device: gpu`, and torch sees none.
    """
    if settings.device == "cpu":
        return torch.device("cpu")
    if torch.version.cuda is None and torch.version.hip is None:
        raise NoGPU(
            f"device is gpu, and this image has the CPU build of torch ({torch.__version__})",
            "use the scorer image with CUDA (the operator's SCORER_IMAGE_GPU)",
        )
    device = torch.device("cuda", 0)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if not torch.cuda.is_available():
                # Why not, torch says in a warning: a driver that is too old, a device that is lost.
                raise RuntimeError("; ".join(str(each.message) for each in said) or "sees no GPU")
        # The driver's answer is one thing, a kernel that runs on this GPU another.
        torch.zeros(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError) as err:
        raise NoGPU(
            f"device is gpu, and torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use one: "
            f"{str(err).partition(chr(10))[0][:300]}",
            "check the node's driver, that the pod has a GPU in its limits, and that the image's CUDA version fits both",
        ) from err
    return device


def load(folder: ModelFolder, settings: Settings) -> NetworkRuntime:
    """Load the folder's network; see `RuntimeModule.load`."""
    config = read_network_config(folder)
    device = find_device(settings)
    dtype = DTYPES[settings.precision]
    if dtype is torch.float16 and device.type == "cpu":
        raise InvalidSpec(
            "precision float16 needs a GPU: CPUs compute it slower than float32",
            "use precision bfloat16 on the CPU, or `device: gpu`",
        )
    with torch.no_grad():
        module, platform = load_module(folder, device, trust=settings.trust_pickle)
        scored = Scored(Network(module, config.activation, dtype), config.preprocess)
        try:
            module.to(dtype)
            if config.preprocess is not None:
                module.to(memory_format=torch.channels_last)
            scored.to(device)
        except torch.cuda.OutOfMemoryError as err:
            raise OutOfMemory(
                "the network does not fit into the GPU's memory", "use a larger GPU or float16"
            ) from err
    engine, sizes, info = _engine(scored, config, settings, device, platform)
    return NetworkRuntime(engine, config, info, warm_up_sizes=sizes)


def _engine(
    scored: Scored,
    config: NetworkConfig,
    settings: Settings,
    device: torch.device,
    platform: str,
) -> tuple[Engine, tuple[int, ...], RuntimeInfo]:
    images = config.preprocess is not None
    cores = count_cores(settings)
    media = ("image/*",) if images else ()
    if device.type == "cpu":
        # Mode is set only where a module has one: an exported program's graph is in evaluation mode already.
        rows = min(settings.max_batch_size, _CPU_BATCH_ROWS) if images else settings.max_batch_size
        info = RuntimeInfo(
            framework="pytorch",
            version=torch.__version__,
            platform=platform,
            max_batch_rows=rows,
            prepare_threads=cores if images else 0,
            concurrency=cores if images else 1,
            spreads=images,
            media=media,
        )
        return CpuEngine(scored, cores=cores, one_shape=_has_one_shape(config)), (rows,), info
    info = RuntimeInfo(
        framework="pytorch",
        version=torch.__version__,
        platform=platform,
        max_batch_rows=settings.max_batch_size,
        prepare_threads=_GPU_DECODE_THREADS if images else 0,
        concurrency=2,
        media=media,
    )
    engine = GpuEngine(scored, device=device, max_rows=settings.max_batch_size)
    return engine, tuple(engine.sizes), info


def _has_one_shape(config: NetworkConfig) -> bool:
    """Whether all rows are equally large, be they images or numbers in their place."""
    how = config.preprocess
    if how is None or how.size is None or config.input_shape is None:
        return False
    sides = config.input_shape[1:] if how.layout == "NCHW" else config.input_shape[:-1]
    return tuple(sides) == how.size
