"""What a run of bench_scorer.py has found, and the goals it is held against."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.servers import WORKERS
from harness.statistics import OURS, CellKey, Goal, Samples

DIALECTS = ("score", "v1", "v2_json", "v2_binary")
LIMIT = "in process"


@dataclass(slots=True)
class Run:
    """What one run has found so far."""

    seconds: float
    rounds: int
    clients: tuple[int, ...]
    samples: Samples = field(default_factory=Samples)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)
    broken: set[tuple[str, str, str]] = field(default_factory=set)
    # By server and workload: seconds to the first right answer, PSS in bytes after the load.
    starts: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    memory: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    bare_starts: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)


def peer_keys(run: Run, workload: str, dialect: str, clients: int) -> list[CellKey]:
    return [
        key
        for key in run.samples.cells()
        if (key.workload, key.dialect, key.clients) == (workload, dialect, clients)
        and key.server != OURS
    ]


def _against_peers(
    run: Run, name: str, workload: str, dialect: str, clients: int, goal: float
) -> Goal:
    """Ours over the fastest peer, at one number of clients."""
    best = run.samples.best(peer_keys(run, workload, dialect, clients))
    if best is None:
        return Goal(name, None, goal, note="no peer was measured")
    ratio = run.samples.ratio(CellKey(OURS, workload, dialect, clients), best)
    return Goal(name, ratio, goal, note=f"x {best.server}")


def _lowest(name: str, goal: float, parts: Sequence[Goal]) -> Goal:
    """One goal of several: the worst of them."""
    measured = [part for part in parts if part.value is not None]
    if not measured:
        return Goal(name, None, goal, note="not measured")
    worst = min(measured, key=lambda part: part.value or 0.0)
    return Goal(name, worst.value, goal, note=f"lowest: {worst.name}, {worst.note}")


def derive_small_goals(run: Run) -> list[Goal]:
    """The small model: against peers by /score, the other dialects against /score and their own peers."""
    wanted = {64: 2.0, 8: 3.0, 1: 1.2}
    goals = [
        _against_peers(run, f"small_{n}_clients", "small", "score", n, wanted[n])
        for n in sorted(run.clients, reverse=True)
        if n in wanted
    ]
    for dialect in DIALECTS[1:]:
        shares, leads = [], []
        for n in run.clients:
            score = CellKey(OURS, "small", "score", n)
            share = run.samples.ratio(CellKey(OURS, "small", dialect, n), score)
            shares.append(Goal(f"{n} clients", share, 0.7, note="x /score"))
            leads.append(_against_peers(run, f"{n} clients", "small", dialect, n, 1.0))
        goals.append(_lowest(f"small_{dialect}_of_score", 0.7, shares))
        goals.append(_lowest(f"small_{dialect}_ahead_of_peers", 1.0, leads))
    return goals


def _beside_the_generator(run: Run, mine: CellKey, limit: CellKey) -> float:
    """The share of an in-process limit that a server without any costs could reach.

    The load generator needs CPU too; where it has no core of its own, the server gets what it leaves.
    """
    rate, most = run.samples.rate(mine), run.samples.rate(limit)
    cpu = run.samples.median(mine, "generator_cpu")
    if not rate or not most or not cpu or len(os.sched_getaffinity(0)) > WORKERS:
        return 1.0
    sending, computing = cpu / rate, WORKERS / most
    return computing / (computing + sending)


def derive_faq_goals(run: Run) -> list[Goal]:
    """The FAQ pipeline: limit, peers, tail, balance, start."""
    samples = run.samples
    limits = [k for k in samples.cells() if k.workload == "faq" and k.dialect == "limit"]
    best = samples.best(limits)
    goals = []
    for n in (c for c in (8, 64) if c in run.clients):
        mine = CellKey(OURS, "faq", "score", n)
        ratio = samples.ratio(mine, best) if best else None
        note = f"x {best.server}" if best else "no limit was measured"
        # Clients that wait for their answers make no larger calls than their share.
        share = CellKey(f"{LIMIT}, {WORKERS} x batch {n // WORKERS}", "faq", "limit", WORKERS)
        if best and (reached := samples.ratio(share, best)):
            most = reached * _beside_the_generator(run, mine, share)
            note += f"; calls of {n // WORKERS} beside the load generator leave at most {most:.2f}"
        goals.append(Goal(f"faq_{n}_clients_of_limit", ratio, 0.95, note=note))
    leads = [_against_peers(run, f"{n} clients", "faq", "score", n, 1.0) for n in run.clients]
    goals.append(_lowest("faq_ahead_of_peers", 1.0, leads))
    tails = [s.p99_ms / s.p50_ms for s in samples.of(CellKey(OURS, "faq", "score", 8)) if s.p50_ms]
    tail = statistics.median(tails) if tails else None
    goals.append(Goal("faq_p99_over_p50_8_clients", tail, 2.0, at_least=False))
    shares = [
        sample.cpu[1] / sample.cpu[0]
        for n in run.clients
        if n >= 8
        for sample in samples.of(CellKey(OURS, "faq", "score", n))
        if len(sample.cpu) > 1 and sample.cpu[0]
    ]
    note = "CPU of the less busy worker over the busier's, the lowest of all rounds"
    goals.append(Goal("faq_both_workers_busy", min(shares, default=None), 0.7, note=note))
    ours = run.starts.get((OURS, "faq"), [])
    start = None
    if ours and run.bare_starts:
        start = statistics.median(ours) / statistics.median(run.bare_starts)
    note = "start to first right answer, x importing scikit-learn and loading the model"
    goals.append(Goal("faq_start", start, 1.5, at_least=False, note=note))
    return goals


def derive_wide_goals(run: Run) -> list[Goal]:
    """Wide rows: the best of all numbers of clients against the same work in two processes."""
    goals = []
    compared = {"v2_binary": (("predict", 0.8),), "score": (("orjson alone", 0.9),)}
    for name in ("wide-linear", "wide-trees"):
        for dialect, limits in compared.items():
            mine = run.samples.best([CellKey(OURS, name, dialect, n) for n in run.clients])
            for label, bound in limits:
                # Beside a model that takes longer than the JSON, the model's time belongs to the limit too.
                if name == "wide-trees" and dialect == "score":
                    label = "orjson and predict"
                limit = CellKey(f"{LIMIT}, 2 x {label}", name, "limit", 2)
                ratio = run.samples.ratio(mine, limit) if mine else None
                title = f"{name.replace('-', '_')}_{'json' if dialect == 'score' else dialect}"
                note = f"x {limit.server}"
                if mine is not None and label == "predict":
                    most = _beside_the_generator(run, mine, limit)
                    note += f"; beside the load generator at most {most:.2f}"
                goals.append(Goal(title, ratio, bound, note=note))
    return goals


def derive_goals(run: Run, workloads: Sequence[str]) -> list[Goal]:
    """All goals of the workloads that ran."""
    goals: list[Goal] = []
    if "small" in workloads:
        goals += derive_small_goals(run)
    if "faq" in workloads:
        goals += derive_faq_goals(run)
    if "wide" in workloads:
        goals += derive_wide_goals(run)
    if "memory" in workloads:
        copies = statistics.median(run.copies) if run.copies else None
        note = "growth of PSS by a second worker, x the model's 200 MiB"
        goals.append(Goal("one_copy_of_the_model", copies, 0.1, at_least=False, note=note))
    errors = sum(
        sample.errors
        for key in run.samples.cells()
        if key.server == OURS
        for sample in run.samples.of(key)
    )
    goals.append(Goal("errors_of_ours", float(errors), 0.0, at_least=False, note="in all cells"))
    return goals
