"""A GPU that fails for good: CUDA then answers every later call of the process with the same error.

Only a new process helps (https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html: "the process must be
terminated and relaunched" for illegal addresses, failed assertions and the like). The watch tells such an error from one
that ends with its request, and answers all calls from then on itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from model_scorer.errors import DeviceLost
from model_scorer.runtimes.protocol import Output, Prepared
from model_scorer.serve.compute import Execute

# onnxruntime's and TensorFlow's words stand somewhere in their messages; torch's begin them.
_BEGINS = (
    "CUDA error",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
)
_HOLDS = re.compile(r"CUDA failure \d+|CUDA_ERROR_[A-Z_]+")
# What ends with its request: no memory for it, or arguments that this call alone had.
_PASSES = re.compile(
    r"out of memory|ALLOC_FAILED|OUT_OF_MEMORY|MEMORY_ALLOCATION|CUDA failure 2\b|invalid argument|invalid configuration"
    r"|INVALID_VALUE|NOT_SUPPORTED",
    re.IGNORECASE,
)


def is_device_lost(error: BaseException) -> bool:
    """Whether a model's error means that its GPU answers nothing any more in this process.

    Texts alone are believed only where a framework wrote them: an exception of another kind may quote what a client sent.
    """
    kind = type(error)
    text = str(error)
    if kind.__name__ == "AcceleratorError" or (kind is RuntimeError and text.startswith(_BEGINS)):
        found = True
    else:
        package = kind.__module__.partition(".")[0]
        found = package in ("onnxruntime", "tensorflow") and bool(_HOLDS.search(text))
    if not found or _PASSES.search(text):
        return False
    return not _torch_still_computes()


def _torch_still_computes() -> bool:
    """Whether torch has a GPU in use that still answers; False when torch uses none and so cannot tell."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError:
        return False
    return True


class DeviceWatch:
    """A runtime's `execute` that notices when the GPU is lost.

    Args:
        execute: the runtime's.
        on_lost: called once, from whatever thread ran the model.
    """

    def __init__(self, execute: Execute, on_lost: Callable[[], None]) -> None:
        self._execute = execute
        self._on_lost = on_lost
        self.lost = False

    def __call__(self, batch: Sequence[Prepared]) -> Sequence[Output | Exception]:
        """Run the model; see `Runtime.execute`.

        Raises:
            DeviceLost: the GPU failed in this call or an earlier one.
        """
        if self.lost:
            raise DeviceLost
        try:
            outcomes = self._execute(batch)
        except Exception as err:
            self._look_at(err)
            raise
        # Runtimes with calls of their own for each request give errors back instead of raising them.
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                self._look_at(outcome)
        return outcomes

    def _look_at(self, error: Exception) -> None:
        if not is_device_lost(error):
            return
        if not self.lost:
            self.lost = True
            self._on_lost()
        raise DeviceLost from error
