"""How many CPUs this process may use: the cgroup's quota, the affinity mask, in that order of strictness."""

from __future__ import annotations

import math
import os
from pathlib import Path

# More workers than this only split the batches; memory and accept balancing suffer first.
MAX_WORKERS = 64

# One thread a worker in every numeric library: the workers are the parallelism. Read by the libraries when loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
)


def count_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """CPUs by quota (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`), at most those of the affinity mask."""
    available = float(len(os.sched_getaffinity(0)))
    quota = _read_quota(cgroup)
    return min(available, quota) if quota else available


def _read_quota(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def derive_workers(setting: int, cpus: float, device: str) -> int:
    """Worker processes: what the setting says, else one for each CPU of the quota; a GPU has one."""
    if device == "gpu":
        return 1
    if setting:
        return setting
    return max(1, min(MAX_WORKERS, math.floor(cpus + 0.25)))


def limit_threads(workers: int, cpus: float) -> None:
    """Give each worker its share of the CPUs, where the user did not say otherwise."""
    share = str(max(1, math.floor(cpus / workers)))
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, share)
