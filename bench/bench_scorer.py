"""`make bench-scorer`: the scorer against every Python model server and against the in-process limits, in one run.

Method and goals: bench/README.md. Progress goes to stderr; tables and, as the last line, one JSON object to stdout.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.environments import PeerError, build_environment, read_peers
from harness.forms import Content
from harness.limits import LimitError, build_json_jobs, build_score_jobs, measure_limits
from harness.load import LoadGeneratorError, find_wrk, run_wrk, write_requests
from harness.machine import describe_machine
from harness.processes import ServerError
from harness.report import print_cells, print_goals, print_json_line, print_table, say
from harness.scorer_goals import DIALECTS, LIMIT, Run, derive_goals, peer_keys
from harness.servers import LOGS, Server, Started, check_all, our_server, peer_server, started
from harness.statistics import OURS, CellKey
from workloads.application import load
from workloads.prepare import LARGE_BYTES, faq_questions, iris_rows, prepare, wide_rows

WORKLOADS = ("small", "faq", "wide", "memory")
CLIENTS = (1, 8, 64)
BODIES = 64
# A peer whose every cell of the first round is below this share of the fastest peer's is not measured again: it cannot
# become the fastest, whatever the machine does, and repeating all of them takes most of an hour.
REPEATED_SHARE = 0.5
# Rounds with peers. All of them are near each other on the FAQ pipeline, which is most of their time, so none is left out
# there; ours and the limits go on for all rounds.
PEER_ROUNDS = {"small": 3, "faq": 2}
WIDE_BODIES = 8
PACKAGES = (
    *("scoring-operator", "tornado", "uvloop", "httptools", "orjson", "pysimdjson"),
    *("numpy", "scikit-learn"),
)
TOLERANCE = 1e-6


# ------------------------------------------------------------------------------------------------------------- rounds


def measure_server(
    run: Run,
    server: Server,
    workload: str,
    contents: Sequence[Content],
    expected: Sequence[Any],
    round_number: int,
) -> None:
    """Start a server, check it, load it in all its dialects with all numbers of clients, stop it."""
    say(f"  {server.name} …")
    by_route: dict[tuple[str, str], list[str]] = {}
    for dialect, route in server.routes.items():
        by_route.setdefault(route, []).append(dialect)
    first = next(iter(server.routes))
    steady = workload != "small"
    # A call of the FAQ pipeline may be as long as a tenth of a cell of the small model.
    seconds = run.seconds * (1.5 if workload == "faq" else 1)
    with started(server, first, contents[0], expected[0], TOLERANCE) as up:
        run.starts.setdefault((server.name, workload), []).append(up.ready_seconds)
        ready: list[tuple[list[str], Path]] = []
        for number, dialects in enumerate(by_route.values()):
            if round_number == 0:
                try:
                    check_all(up, dialects[0], contents, expected, TOLERANCE, say)
                except ServerError as err:
                    # Its other dialects may work; if the first one does not, nothing does.
                    if first in dialects:
                        raise
                    say(f"    FAILED: {err}")
                    run.broken.add((server.name, workload, dialects[0]))
                    run.absent[workload][f"{server.name}, {dialects[0]}"] = str(err)
            if (server.name, workload, dialects[0]) in run.broken:
                continue
            path = LOGS / f"requests-{number}.bin"
            write_requests(path, server.requests(dialects[0], contents), up.port)
            ready.append((dialects, path))
            _warm(up, path, run)
        # A server's dialects one right after the other: their ratios are goals, and the machine drifts.
        for clients in run.clients:
            for dialects, path in ready:
                sample = run_wrk(
                    path,
                    up.port,
                    clients=clients,
                    seconds=seconds,
                    server=up.process,
                    steady=steady,
                )
                say(
                    f"    {dialects[0]}, {clients} clients: {sample.rate:,.0f}/s, "
                    f"p50 {sample.p50_ms:.2f} ms, p99 {sample.p99_ms:.2f} ms, errors {sample.errors}"
                )
                for dialect in dialects:
                    key = CellKey(server.name, workload, dialect, clients)
                    run.samples.add(key, round_number, sample)
        run.memory.setdefault((server.name, workload), []).append(up.process.pss_bytes())


def _warm(up: Started, path: Path, run: Run) -> None:
    run_wrk(path, up.port, clients=max(run.clients), seconds=1, server=up.process)


def measure_limit(
    run: Run, workload: str, payloads: Sequence[Any], folder: Path, round_number: int
) -> None:
    """The application alone, over numbers of processes and batch sizes."""
    batches = (1, 4, 8, 16) if workload == "faq" else (1, 8, 64)
    for processes in (1, 2):
        say(f"  in process, {processes} process{'es' if processes > 1 else ''} …")
        arguments = (workload, folder, payloads, batches if processes == 2 else batches[:2])
        results = measure_limits(
            build_score_jobs, arguments, processes=processes, seconds=run.seconds
        )
        for name, sample in results.items():
            key = CellKey(f"{LIMIT}, {processes} x {name}", workload, "limit", processes)
            run.samples.add(key, round_number, sample)


def collect_servers(
    run: Run, workload: str, folder: Path, framework: str, only: frozenset[str] | None
) -> list[Server]:
    """Ours first, then every peer in every configuration; peers that cannot be installed are noted."""
    dialects = DIALECTS if workload == "small" else ("score",)
    servers = [our_server(folder, framework, dialects)]
    for peer in read_peers(workload, only):
        try:
            binaries = build_environment(peer, networks=False, say=say)
        except PeerError as err:
            run.absent.setdefault(workload, {})[peer.title] = str(err)
            continue
        servers += [
            peer_server(peer, variant, binaries, workload, folder)
            for variant in peer.variants
            if workload in variant.workloads
        ]
    return servers


def bench_workload(run: Run, workload: str, only: frozenset[str] | None) -> None:
    """The small model or the FAQ pipeline: all servers and the limit, interleaved."""
    folder = prepare(workload, say)
    contents: list[Content]
    if workload == "faq":
        contents = list(faq_questions(BODIES))
        payloads: list[Any] = contents
        framework = "python"
    else:
        payloads = [row.reshape(1, -1) for row in iris_rows(BODIES)]
        contents, framework = list(payloads), "sklearn"
    expected = load(workload, folder).score_many(payloads)
    servers = collect_servers(run, workload, folder, framework, only)
    absent = run.absent.setdefault(workload, {})
    for number in range(run.rounds):
        say(f"{workload}: round {number + 1} of {run.rounds}")
        try:
            measure_limit(run, workload, payloads, folder, number)
        except LimitError as err:
            absent[LIMIT] = str(err)
        if workload == "faq":
            run.bare_starts.append(time_bare_start(folder))
        # Another first one each round, so that no server always runs on a machine just as warm.
        shift = number * 5 % len(servers)
        for server in servers[shift:] + servers[:shift]:
            if server.name in absent or (
                server.name != OURS and not is_repeated(run, server.name, workload, number)
            ):
                continue
            try:
                measure_server(run, server, workload, contents, expected, number)
            except ServerError as err:
                say(f"    FAILED: {err}")
                absent[server.name] = str(err)


def is_repeated(run: Run, server: str, workload: str, number: int) -> bool:
    """Whether a peer takes part in a round: all in the first, then those that came near the fastest peer in any cell."""
    if number == 0:
        return True
    if number >= PEER_ROUNDS[workload]:
        return False
    for key in run.samples.cells():
        if key.server != server or key.workload != workload:
            continue
        best = run.samples.best(peer_keys(run, workload, key.dialect, key.clients))
        fastest = run.samples.rate(best) if best else None
        mine = run.samples.rate(key)
        if not fastest or (mine and mine >= REPEATED_SHARE * fastest):
            return True
    return False


def time_bare_start(folder: Path) -> float:
    """Seconds that a bare interpreter takes to import scikit-learn and load the FAQ model."""
    code = f"import joblib, sklearn; joblib.load({str(folder / 'faq.joblib')!r})"
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def bench_wide(run: Run) -> None:
    """1,000 x 100 float32 in one request: ours against predict and orjson alone."""
    arrays = wide_rows(WIDE_BODIES)
    for name in ("wide-linear", "wide-trees"):
        folder = prepare(name, say)
        expected = load(name, folder).score_many(arrays)
        server = our_server(folder, "sklearn", ("score", "v2_binary"))
        for number in range(run.rounds):
            say(f"{name}: round {number + 1} of {run.rounds}")
            arguments: tuple[Any, ...] = (name, folder, arrays)
            results = dict(
                measure_limits(build_json_jobs, arguments, processes=2, seconds=run.seconds)
            )
            results |= measure_limits(
                build_score_jobs, (*arguments, (1,)), processes=2, seconds=run.seconds
            )
            for job, sample in results.items():
                label = "predict" if job == "batch 1" else job
                key = CellKey(f"{LIMIT}, 2 x {label}", name, "limit", 2)
                run.samples.add(key, number, sample)
            try:
                measure_server(run, server, name, list(arrays), expected, number)
            except ServerError as err:
                say(f"    FAILED: {err}")
                run.absent.setdefault(name, {})[OURS] = str(err)
                break


def bench_memory(run: Run) -> None:
    """How many copies of a large model a second worker brings: growth of PSS over the model's size."""
    folder = prepare("large", say)
    rows = wide_rows(1)[0][:1].astype(float)
    expected = load("large", folder).score_many([rows])[0]
    say("memory: a model of 200 MiB with one worker and with two")
    try:
        used = []
        for workers in (1, 2):
            server = our_server(folder, "sklearn", ("score",), workers=workers)
            with started(server, "score", rows, expected, TOLERANCE) as up:
                # Both workers have used the model: eight clients for a second.
                path = LOGS / "requests.bin"
                write_requests(path, server.requests("score", [rows]), up.port)
                run_wrk(path, up.port, clients=8, seconds=1, server=up.process)
                used.append(up.process.pss_bytes())
        run.copies.append((used[1] - used[0]) / LARGE_BYTES)
        run.memory[(OURS, "large, 1 worker")] = [used[0]]
        run.memory[(OURS, "large, 2 workers")] = [used[1]]
    except ServerError as err:
        say(f"    FAILED: {err}")
        run.absent.setdefault("memory", {})[OURS] = str(err)


# -------------------------------------------------------------------------------------------------------------- output


def print_results(run: Run, workloads: Sequence[str]) -> None:
    """All tables."""
    if "small" in workloads:
        absent = run.absent.get("small", {})
        _print(run, "Small model: each server's own best route", "small", "score", absent)
        for dialect in DIALECTS[1:]:
            _print(run, f"Small model: {dialect}", "small", dialect, {})
    if "faq" in workloads:
        absent = run.absent.get("faq", {})
        _print(run, "FAQ pipeline, 182 pairs a request", "faq", "score", absent)
    if "wide" in workloads:
        for name in ("wide-linear", "wide-trees"):
            absent = run.absent.get(name, {})
            title = f"Wide rows, 1,000 x 100 float32: {name}"
            _print(run, title, name, None, absent)
    for workload in ("small", "faq"):
        if workload in workloads:
            _print_limits(run, workload)
            _print_start_and_memory(run, workload)
    if run.copies:
        one, two = (run.memory[(OURS, f"large, {n}")][0] for n in ("1 worker", "2 workers"))
        print(
            f"\nA model of 200 MiB: {one / 2**20:.0f} MiB with one worker, {two / 2**20:.0f} MiB with two."
        )


def _print(
    run: Run, title: str, workload: str, dialect: str | None, absent: dict[str, str]
) -> None:
    print_cells(
        title,
        run.samples,
        workload=workload,
        dialect=dialect,
        clients=run.clients,
        absent=absent,
        without=("limit",),
    )
    if dialect is None:
        _print_limits(run, workload)


def _print_limits(run: Run, workload: str) -> None:
    rows = []
    for key in run.samples.cells():
        if key.workload == workload and key.dialect == "limit":
            rate, call = run.samples.rate(key) or 0.0, run.samples.median(key, "p50_ms") or 0.0
            spread = run.samples.spread(key) * 50
            rows.append([key.server, f"{rate:,.0f}/s ±{spread:.0f} %", f"{call:.3f} ms"])
    print_table(f"In-process limits: {workload}", ["what", "requests", "a call"], rows)


def _print_start_and_memory(run: Run, workload: str) -> None:
    rows = []
    for (server, name), starts in run.starts.items():
        if name == workload and (server, name) in run.memory:
            pss = statistics.median(run.memory[(server, name)]) / 2**20
            rows.append([server, f"{statistics.median(starts):.2f} s", f"{pss:.0f} MiB"])
    if workload == "faq" and run.bare_starts:
        seconds = statistics.median(run.bare_starts)
        rows.append(["bare interpreter: import, load", f"{seconds:.2f} s", "-"])
    print_table(f"Start and memory: {workload}", ["server", "first right answer", "PSS"], rows)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="one round of one second a cell: does everything run")
    add("--seconds", type=float, default=2.0, help="a cell (default: 2; 1.5 times that for faq)")
    add("--rounds", type=int, default=3, help="interleaved repeats (default: 3)")
    add("--clients", default="1,8,64", help="numbers of connections (default: 1,8,64)")
    add(
        "--workloads",
        default=",".join(WORKLOADS),
        help="of small, faq, wide, memory (default: all)",
    )
    add("--peers", help="folders of bench/peers, comma-separated, or none (default: all)")
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.seconds, parsed.rounds = 1.0, 1
    parsed.clients = tuple(int(n) for n in parsed.clients.split(","))
    parsed.workloads = tuple(parsed.workloads.split(","))
    unknown = set(parsed.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"unknown workloads: {', '.join(sorted(unknown))}")
    if parsed.peers is not None:
        parsed.peers = frozenset(parsed.peers.split(",")) - {"none", ""}
    return parsed


def main() -> int:
    """Run the benchmark; 0 also when goals do not hold, for that is a finding and no failure."""
    options = parse_arguments()
    # An end by SIGTERM, too, stops the server that is being measured.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        find_wrk()
    except LoadGeneratorError as err:
        say(str(err))
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(PACKAGES)
    run = Run(options.seconds, options.rounds, options.clients)
    for workload in ("small", "faq"):
        if workload in options.workloads:
            bench_workload(run, workload, options.peers)
    if "wide" in options.workloads:
        bench_wide(run)
    if "memory" in options.workloads:
        bench_memory(run)
    print_results(run, options.workloads)
    goals = derive_goals(run, options.workloads)
    print_goals(goals)
    settings = {"seconds": run.seconds, "rounds": run.rounds, "quick": options.quick}
    print_json_line(
        "scorer", goals, {"settings": settings, "machine": machine, "absent": run.absent}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
