"""A GPU that fails for good ends its worker, and nothing else does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from model_scorer.errors import DeviceLost
from model_scorer.runtimes.protocol import Prepared
from model_scorer.serve.device_watch import DeviceWatch, is_device_lost

SCRIPT = """
import json, os

lost = []

class AcceleratorError(RuntimeError):
    pass

def run(data):
    asked = json.loads(data)
    if asked.get("break"):
        lost.append(asked["break"])
    if lost:
        # As CUDA does: once broken, every call fails.
        raise AcceleratorError(f"CUDA error: {lost[0]}\\nCUDA kernel errors might be asynchronously reported")
    if asked.get("quote"):
        raise ValueError(asked["quote"])
    return os.getpid()
"""
ILLEGAL = "an illegal memory access was encountered"


class AcceleratorError(RuntimeError):
    """Named as torch names its own."""


class OrtError(Exception):
    """onnxruntime's errors are known by their module."""

    __module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (AcceleratorError(f"CUDA error: {ILLEGAL}"), True),
        (AcceleratorError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (OrtError("Non-zero status code: CUDA failure 700: an illegal memory access"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), False),
        (AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError(f"CUDA error: {ILLEGAL}"), False),
        (RuntimeError(f"cannot read 'CUDA error: {ILLEGAL}'"), False),
        (OrtError("Got invalid dimensions for input"), False),
    ],
)
def test_only_what_a_framework_says_of_a_broken_gpu_counts(error: Exception, lost: bool) -> None:
    assert is_device_lost(error) is lost


def test_after_the_loss_the_model_is_not_asked_again() -> None:
    calls, told = [], []

    def execute(batch):
        calls.append(batch)
        raise RuntimeError(f"CUDA error: {ILLEGAL}")

    watch = DeviceWatch(execute, lambda: told.append(1))
    for _ in range(3):
        with pytest.raises(DeviceLost):
            watch([Prepared(None, 1, None)])
    assert (len(calls), len(told)) == (1, 1)


@pytest.fixture
def scorer(start_scorer, make_script):
    return start_scorer(make_script(SCRIPT), "python", device="gpu", auth_mode="None")


def test_a_worker_whose_gpu_is_lost_is_replaced_by_one_that_serves(scorer, until) -> None:
    first = scorer.post("/score", {}).json

    reply = scorer.post("/score", {"break": ILLEGAL})

    assert reply.status == 503
    assert reply.headers["Retry-After"] == "10"
    assert "GPU" in reply.json["message"]
    until(lambda: scorer.metric("scorer_worker_restarts_total") == 1)
    until(lambda: scorer.probe("/readyz").status == 200)
    second = scorer.post("/score", {})
    assert second.status == 200
    assert second.json != first
    assert "lost to this process" in scorer.log()


def test_what_is_asked_while_the_gpu_is_lost_is_answered_with_5xx_or_by_the_successor(
    scorer, until
) -> None:
    with ThreadPoolExecutor(8) as pool:
        breaks = [{"break": ILLEGAL} if number == 20 else {} for number in range(60)]
        statuses = list(pool.map(lambda body: scorer.post("/score", body).status, breaks))
    assert set(statuses) <= {200, 500, 503}
    assert statuses[20] == 503
    until(lambda: scorer.probe("/readyz").status == 200)
    assert scorer.post("/score", {}).status == 200


def test_a_client_cannot_end_a_worker_with_words(scorer) -> None:
    first = scorer.post("/score", {}).json
    assert scorer.post("/score", {"quote": f"CUDA error: {ILLEGAL}"}).status == 500
    assert scorer.post("/score", {}).json == first
