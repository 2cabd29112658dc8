"""`make bench-operator`: a thousand ScoringModels against `kubectl apply` of their hand-written children, in one run.

Starts the local cluster's API server and controllers (no node agent: no pod runs), or works against a given KUBECONFIG,
where it makes namespaces of its own and deletes them. Progress goes to stderr; a table and, as the last line, one JSON
object to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.cluster import Running, at_rest, local_api, operator, refusing, until
from harness.machine import describe_machine
from harness.models import (
    CHILDREN,
    apply_by_hand,
    change_specs,
    create_at_once,
    create_failing,
    install_kind,
    namespace,
    watched,
)
from harness.report import print_goals, print_json_line, print_table, say
from harness.statistics import Goal

from scoring_operator.cluster import Client, connect

FAILING = 10
PHASES = ("compare", "live")
PACKAGES = ("scoring-operator", "kopf", "kubernetes", "aiohttp")


@dataclass
class Measured:
    """What one run has found."""

    operator_seconds: list[float] = field(default_factory=list)
    kubectl_seconds: list[float] = field(default_factory=list)
    version: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def compare(
    client: Client, kubeconfig: Path, folder: Path, count: int, rounds: int, found: Measured
) -> None:
    """The operator and kubectl in turn, each round in fresh namespaces."""
    names = [f"m{number:04}" for number in range(count)]
    stamp = time.time_ns() // 1_000_000
    for number in range(rounds):

        async def ours(number: int = number) -> None:
            async with operator(folder, kubeconfig) as running:
                await until(running.ready, "the operator is ready")
                async with namespace(client, f"bench-ours-{stamp}-{number}") as where:
                    began = running.process.cpu_seconds()
                    seconds = await create_at_once(client, where, names)
                    found.operator_seconds.append(seconds)
                    used = running.process.cpu_seconds() - began
                    say(
                        f"operator: {count} models in {seconds:.1f} s, {used:.1f} s of CPU, "
                        f"{CHILDREN * count / seconds:.0f} children/s, {running.process.peak_memory_mib():.0f} MiB"
                    )

        async def theirs(number: int = number) -> None:
            async with namespace(client, f"bench-hand-{stamp}-{number}") as where:
                seconds = await apply_by_hand(kubeconfig, folder, where, names)
                found.kubectl_seconds.append(seconds)
                say(
                    f"kubectl apply: the children of {count} models in {seconds:.1f} s, "
                    f"{CHILDREN * count / seconds:.0f} children/s"
                )

        # Who comes first changes every round: a growing store would else favour one.
        for turn in (theirs, ours) if number % 2 == 0 else (ours, theirs):
            await turn()


async def live(client: Client, kubeconfig: Path, folder: Path, count: int, found: Measured) -> None:
    """Restart, rest and change with all models there."""
    names = [f"m{number:04}" for number in range(count)]
    numbers = found.numbers
    async with namespace(client, f"bench-live-{time.time_ns() // 1_000_000}") as where:
        async with operator(folder, kubeconfig) as running:
            await until(running.ready, "the operator is ready")
            await create_at_once(client, where, names)
            await at_rest(running)
            numbers["peak_mib"] = running.process.peak_memory_mib()
        began = time.monotonic()
        async with operator(folder, kubeconfig) as running:
            await until(running.ready, "the operator is ready")
            numbers["restart_seconds"] = time.monotonic() - began
            # Every model is looked at once after the start.
            await until(lambda: _reconciled(running, count), "every model was looked at")
            numbers["restart_all_seen_seconds"] = time.monotonic() - began
            await at_rest(running)
            numbers["restart_writes"] = await running.writes()
            say(
                f"restart: ready in {numbers['restart_seconds']:.1f} s, all models seen after "
                f"{numbers['restart_all_seen_seconds']:.1f} s, {numbers['restart_writes']:.0f} writes"
            )
            writes, cpu = await running.writes(), running.process.cpu_seconds()
            await asyncio.sleep(20)
            numbers["idle_writes"] = await running.writes() - writes
            numbers["idle_cpu_percent"] = (running.process.cpu_seconds() - cpu) / 20 * 100
            numbers["resident_mib"] = running.process.memory_mib()
            numbers["peak_mib"] = max(numbers["peak_mib"], running.process.peak_memory_mib())
            say(f"idle: {numbers['idle_cpu_percent']:.2f} % CPU, {numbers['resident_mib']:.0f} MiB")
        await change_among_failing(client, kubeconfig, folder, where, names, numbers)


async def _reconciled(running: Running, count: int) -> bool:
    return await running.reconciles() >= count


async def change_among_failing(
    client: Client,
    kubeconfig: Path,
    folder: Path,
    where: str,
    names: Sequence[str],
    numbers: dict[str, float],
) -> None:
    """Change every spec, without and with models whose children the API server answers with 503."""
    async with (
        refusing(kubeconfig, folder, "failing-") as through,
        operator(folder, through) as running,
        watched(client, where) as statuses,
    ):
        await until(running.ready, "the operator is ready")
        await at_rest(running)
        calm = await change_specs(client, where, names, statuses, 16)
        await create_failing(client, where, FAILING)
        among = await change_specs(client, where, names, statuses, 8)
    numbers["change_p50_seconds"] = statistics.median(calm)
    numbers["change_p99_seconds"] = percentile(calm, 0.99)
    numbers["change_among_failing_p50_seconds"] = statistics.median(among)
    numbers["change_among_failing_p99_seconds"] = percentile(among, 0.99)
    numbers["change_among_failing_max_seconds"] = max(among)
    say(
        f"spec changes: {_spread(calm)}; with {FAILING} failing models {_spread(among)} (p50 / p99 / longest)"
    )


def _spread(seconds: Sequence[float]) -> str:
    return (
        f"{statistics.median(seconds):.2f} / {percentile(seconds, 0.99):.2f} / {max(seconds):.2f} s"
    )


def judge(found: Measured, *, local: bool) -> list[Goal]:
    """Goals and whether they hold."""
    ratios = [
        ours / theirs
        for ours, theirs in zip(found.operator_seconds, found.kubectl_seconds, strict=True)
    ]
    numbers = found.numbers
    calm, among = (numbers.get(f"change{what}_p99_seconds") for what in ("", "_among_failing"))
    wait = among / max(calm, 0.001) if calm is not None and among is not None else None
    return [
        Goal(
            "time against kubectl apply",
            statistics.median(ratios) if ratios else None,
            1.0 if local else 0.5,
            at_least=False,
            note="until all children and statuses are there, against kubectl apply of the children",
        ),
        Goal(
            "restart seconds", numbers.get("restart_seconds"), 15, at_least=False, note="to ready"
        ),
        Goal("restart writes", numbers.get("restart_writes"), 0, at_least=False),
        Goal(
            "peak memory MiB", numbers.get("peak_mib"), 300, at_least=False, note="resident, peak"
        ),
        Goal("idle writes", numbers.get("idle_writes"), 0, at_least=False, note="in 20 s"),
        Goal(
            "idle CPU percent", numbers.get("idle_cpu_percent"), 1, at_least=False, note="over 20 s"
        ),
        Goal(
            "wait behind failing models",
            wait,
            1.5,
            at_least=False,
            note=f"p99 of a spec change with {FAILING} failing models, against without",
        ),
    ]


async def measure(options: argparse.Namespace, folder: Path, kubeconfig: Path) -> Measured:
    """All phases against one API server."""
    client = Client(await connect(kubeconfig))
    found = Measured()
    try:
        await install_kind(client)
        found.version = (await client.call("GET", "/version")).get("gitVersion", "")
        if "compare" in options.phases:
            await compare(client, kubeconfig, folder, options.models, options.rounds, found)
        if "live" in options.phases:
            await live(client, kubeconfig, folder, options.models, found)
    finally:
        await client.close()
    return found


async def run(options: argparse.Namespace) -> int:
    """Measure, print, judge."""
    about = {"machine": describe_machine(PACKAGES), "models": options.models}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.kubeconfig:
            found = await measure(options, folder, options.kubeconfig)
        else:
            async with local_api(folder) as kubeconfig:
                found = await measure(options, folder, kubeconfig)
    rows = [
        ["operator", ", ".join(f"{s:.1f}" for s in found.operator_seconds)],
        ["kubectl apply", ", ".join(f"{s:.1f}" for s in found.kubectl_seconds)],
        *[[key.replace("_", " "), f"{value:.2f}"] for key, value in found.numbers.items()],
    ]
    print_table(f"{options.models} ScoringModels", ["what", "seconds, MiB or percent"], rows)
    goals = judge(found, local=options.kubeconfig is None)
    print_goals(goals)
    print_json_line("operator", goals, {**about, "kubernetes": found.version})
    return 0 if all(goal.holds is not False for goal in goals) else 1


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="bench_operator", description=__doc__)
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        help="a cluster to measure on, with an ingress or without (default: an API server and controllers of its own)",
    )
    parser.add_argument("--models", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--rounds", type=int, default=1, help="comparisons (default: 1)")
    parser.add_argument(
        "--phases",
        nargs="+",
        choices=PHASES,
        default=PHASES,
        help="compare with kubectl; live: restart, rest and change with all models there (default: both)",
    )
    parser.add_argument("--quick", action="store_true", help="100 models, one round")
    options = parser.parse_args()
    if options.quick:
        options.models, options.rounds = 100, 1
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
