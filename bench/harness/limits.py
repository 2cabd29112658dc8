"""In-process limits: the same application without any server, in as many processes as the servers have workers."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from harness.load import Sample

# A job's name to what is called and how many requests one call stands for.
Jobs = Mapping[str, tuple[Callable[[], Any], int]]
JobsFactory = Callable[..., Jobs]
START_SECONDS = 300.0
_ENV = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class LimitError(Exception):
    """A limit's process ended early."""


def measure_limits(
    factory: JobsFactory, arguments: tuple[Any, ...], *, processes: int, seconds: float
) -> dict[str, Sample]:
    """Run each job of a factory for some seconds, in several processes at the same time.

    Args:
        factory: a module-level function that makes the jobs; called in every process.
        arguments: for it.
        processes: how many.
        seconds: for each job.

    Returns:
        For each job the rate of all processes together in requests a second, and latencies of a call in ms.

    Raises:
        LimitError: a process ended early.
    """
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    before = {name: os.environ.get(name) for name in _ENV}
    os.environ.update(_ENV)
    try:
        children = [
            context.Process(
                target=_child, args=(factory, arguments, seconds, barrier, results), daemon=True
            )
            for _ in range(processes)
        ]
        for child in children:
            child.start()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    collected: list[dict[str, tuple[float, np.ndarray]]] = []
    try:
        limit = time.monotonic() + START_SECONDS
        while len(collected) < processes:
            if time.monotonic() > limit or any(child.exitcode for child in children):
                raise LimitError(f"{factory.__name__}: a process ended early")
            while not results.empty():
                collected.append(results.get())
            time.sleep(0.02)
    finally:
        for child in children:
            child.join(5)
            if child.is_alive():
                child.kill()
    merged = {}
    for name in collected[0]:
        rate = sum(each[name][0] for each in collected)
        calls = np.concatenate([each[name][1] for each in collected]) * 1000
        merged[name] = Sample(rate, float(np.median(calls)), float(np.percentile(calls, 99)))
    return merged


def _child(
    factory: JobsFactory,
    arguments: tuple[Any, ...],
    seconds: float,
    barrier: Barrier,
    results: Queue[Any],
) -> None:
    outcome = {}
    for name, (call, requests) in factory(*arguments).items():
        call()
        barrier.wait(START_SECONDS)
        durations: list[float] = []
        started = now = time.perf_counter()
        while now - started < seconds or not durations:
            begun = now
            call()
            now = time.perf_counter()
            durations.append(now - begun)
        outcome[name] = (len(durations) * requests / (now - started), np.array(durations))
    results.put(outcome)


def build_score_jobs(
    workload: str, folder: Path, payloads: Sequence[Any], batches: Sequence[int]
) -> Jobs:
    """The application on ready payloads, one job for each batch size."""
    from workloads.application import load

    application = load(workload, folder)
    jobs: dict[str, tuple[Callable[[], Any], int]] = {}
    for size in batches:
        jobs[f"batch {size}"] = (_rotating(application.score_many, payloads, size), size)
    return jobs


def _rotating(
    score: Callable[[list[Any]], Any], payloads: Sequence[Any], size: int
) -> Callable[[], Any]:
    position = 0

    def call() -> Any:
        nonlocal position
        chosen = [payloads[(position + i) % len(payloads)] for i in range(size)]
        position += size
        return score(chosen)

    return call


def build_json_jobs(workload: str, folder: Path, payloads: Sequence[Any]) -> Jobs:
    """What a JSON request of many numbers costs at least: orjson both ways, with and without the model."""
    import orjson
    from workloads.application import load

    application = load(workload, folder)
    bodies = [
        orjson.dumps({"data": payload}, option=orjson.OPT_SERIALIZE_NUMPY) for payload in payloads
    ]
    answers = [application.score_many([payload])[0] for payload in payloads]
    places = iter(range(10**12))

    def convert() -> bytes:
        place = next(places) % len(bodies)
        orjson.loads(bodies[place])
        return orjson.dumps(answers[place])

    def convert_and_predict() -> bytes:
        place = next(places) % len(bodies)
        orjson.loads(bodies[place])
        return orjson.dumps(application.score_many([payloads[place]])[0])

    return {"orjson alone": (convert, 1), "orjson and predict": (convert_and_predict, 1)}
