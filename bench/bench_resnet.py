"""`make bench-resnet`: ResNet-152 over HTTP against its in-process limits and the peers, on the CPU and, with one, a GPU.

Method and goals: bench/README.md. Progress goes to stderr; tables and, as the last line, one JSON object to stdout.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.environments import PeerError, build_environment, read_peers
from harness.gpu import find_gpu, watch_utilisation
from harness.limits import LimitError, measure_limits
from harness.load import LoadGeneratorError, find_wrk, run_wrk, write_requests
from harness.machine import cpu_flags, describe_machine
from harness.network_limits import (
    COMPILED,
    MODES,
    build_decode_jobs,
    build_gpu_jobs,
    build_network_jobs,
)
from harness.processes import ServerError
from harness.report import print_cells, print_goals, print_json_line, print_table, say
from harness.servers import LOGS, Server, check_all, our_server, peer_server, started
from harness.statistics import OURS, CellKey, Goal, Samples
from workloads.application import load
from workloads.prepare import jpegs, prepare

PARTS = ("cpu", "bfloat16", "agreement", "gpu")
IMAGES = 64
CHECKED = 8
CLIENTS = (1, 16)
GPU_CLIENTS = 64
GPU_BATCHES = (8, 16, 32, 64, 128)
LIMIT = "in process"
BFLOAT16 = f"{OURS}, bfloat16"
# Our JPEG decoder and Pillow's differ by a grey level here and there.
TOLERANCE, LOW_PRECISION_TOLERANCE = 0.05, 0.3
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "image-classification"
PACKAGES = (
    *("scoring-operator", "tornado", "uvloop", "httptools", "orjson", "numpy"),
    *("torch", "torchvision", "pillow", "simplejpeg"),
)


@dataclass(slots=True)
class Run:
    """What one run has found so far."""

    seconds: float
    rounds: int
    workers: int
    images: list[bytes]
    modes: tuple[str, ...] = MODES
    batches: tuple[int, ...] = (1, 4)
    samples: Samples = field(default_factory=Samples)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)
    starts: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, list[int]] = field(default_factory=dict)
    agreement: float | None = None
    agreement_rows: int = 0
    utilisation: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def note_absent(self, part: str, name: str, reason: str) -> None:
        """Keep why something has no figures."""
        say(f"    FAILED: {reason}")
        self.absent.setdefault(part, {})[name] = reason


def measure_server(
    run: Run,
    server: Server,
    part: str,
    clients: Sequence[int],
    expected: Sequence[Any],
    round_number: int,
    tolerance: float,
) -> None:
    """Start a server, check its answers, load it in all its forms, stop it."""
    say(f"  {server.name} …")
    first = next(iter(server.routes))
    images = run.images
    with started(server, first, images[0], expected[0], tolerance) as up:
        run.starts.setdefault(server.name, []).append(up.ready_seconds)
        for dialect in server.routes:
            if round_number == 0:
                check_all(up, dialect, images[:CHECKED], expected, tolerance, say)
            path = LOGS / "requests.bin"
            write_requests(path, server.requests(dialect, images), up.port)
            run_wrk(path, up.port, clients=max(clients), seconds=2, server=up.process)
            for count in clients:
                # wrk leaves when its time is over; what it had asked for is still being computed.
                up.process.wait_until_idle()
                with watch_utilisation() as busy:
                    sample = run_wrk(
                        path,
                        up.port,
                        clients=count,
                        seconds=run.seconds,
                        server=up.process,
                        steady=True,
                    )
                say(
                    f"    {dialect}, {count} clients: {sample.rate:.2f}/s, p50 {sample.p50_ms:.0f} ms, "
                    f"p99 {sample.p99_ms:.0f} ms, errors {sample.errors}"
                )
                run.samples.add(CellKey(server.name, part, dialect, count), round_number, sample)
                if busy.percent is not None:
                    run.utilisation.setdefault((server.name, dialect), []).append(busy.percent)
        run.memory.setdefault(server.name, []).append(up.process.pss_bytes())


def measure(
    run: Run,
    part: str,
    name: str,
    factory: Any,
    arguments: tuple[Any, ...],
    processes: int,
    number: int,
) -> None:
    """One call of `measure_limits`, kept under the name."""
    try:
        # A job is a batch size and a mode, and there are many of them.
        seconds = max(1.0, run.seconds * 0.4)
        results = measure_limits(factory, arguments, processes=processes, seconds=seconds)
    except LimitError as err:
        run.note_absent(part, name, str(err))
        return
    for job, sample in results.items():
        say(f"    {name}, {job}: {sample.rate:.2f}/s, a call {sample.p50_ms:.0f} ms")
        run.samples.add(CellKey(f"{name}, {job}", part, "limit", processes), number, sample)


def measure_cpu_limits(run: Run, part: str, folder: Path, precision: str, number: int) -> None:
    """Best over processes and threads, batch size and mode."""
    say(f"  in process, {precision} …")
    images = run.images[:8]
    for processes, threads in ((2, 1), (1, 2)):
        name = f"{LIMIT}, {precision}, {processes} x {threads} thread{'s' if threads > 1 else ''}"
        arguments = (folder, images, threads, run.modes, run.batches, precision)
        measure(run, part, name, build_network_jobs, arguments, processes, number)


def bench_cpu(run: Run, folder: Path, parts: Sequence[str], only: frozenset[str] | None) -> None:
    """float32 against limits and peers, and bfloat16 beside it in the same rounds."""
    application = load("resnet", folder)
    expected = [
        application.score_many([application.decode(data)])[0] for data in run.images[:CHECKED]
    ]
    del application
    ours = our_server(folder, "pytorch", ("score",), workers=run.workers)
    low = our_server(
        folder,
        "pytorch",
        ("score",),
        workers=run.workers,
        settings={"SCORER_PRECISION": "bfloat16"},
        name=BFLOAT16,
    )
    servers: list[tuple[Server, str, float]] = []
    if "cpu" in parts:
        servers += [(each, "cpu", TOLERANCE) for each in collect_peers(run, folder, only)]
    servers.insert(0, (ours, "cpu", TOLERANCE))
    low_precision = "bfloat16" in parts and bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})
    if low_precision:
        servers.insert(1, (low, "bfloat16", LOW_PRECISION_TOLERANCE))
    elif "bfloat16" in parts:
        run.note_absent("bfloat16", BFLOAT16, "this CPU has no bfloat16 instructions")
    for number in range(run.rounds):
        say(f"round {number + 1} of {run.rounds}")
        measure(run, "cpu", f"{LIMIT}, 1 x", build_decode_jobs, (run.images[:8],), 1, number)
        if "cpu" in parts:
            measure_cpu_limits(run, "cpu", folder, "float32", number)
        shift = number * 3 % len(servers)
        for server, part, tolerance in servers[shift:] + servers[:shift]:
            if server.name in run.absent.get(part, {}):
                continue
            if number and part == "cpu" and server.name in find_outdone(run):
                continue
            try:
                measure_server(run, server, part, CLIENTS, expected, number, tolerance)
            except ServerError as err:
                run.note_absent(part, server.name, str(err))


def find_outdone(run: Run) -> set[str]:
    """Peers' variants that another variant of the same peer beat at every number of clients: one round is enough of them."""
    rates: dict[tuple[str, int], dict[str, float]] = {}
    for key in run.samples.cells():
        if (key.workload, key.dialect) == ("cpu", "score"):
            title = key.server.partition(",")[0]
            first = run.samples.of(key)[0]
            rates.setdefault((title, key.clients), {})[key.server] = first.rate
    variants = {name for each in rates.values() for name in each}
    return variants - {max(each, key=lambda name: each[name]) for each in rates.values()}


def collect_peers(run: Run, folder: Path, only: frozenset[str] | None) -> list[Server]:
    """Every peer in every configuration; those that cannot be installed are noted."""
    servers = []
    for peer in read_peers("resnet", only):
        try:
            binaries = build_environment(peer, networks=True, say=say)
        except PeerError as err:
            run.note_absent("cpu", peer.title, str(err))
            continue
        servers += [
            peer_server(peer, variant, binaries, "resnet", folder)
            for variant in peer.variants
            if "resnet" in variant.workloads
        ]
    return servers


# -------------------------------------------------------------------------------------------------- bfloat16's answers


def measure_agreement(run: Run) -> None:
    """Train the example's network on scikit-learn's digits; how often does bfloat16 choose the same digit?"""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    say("training the digits network for the agreement of bfloat16 with float32 …")
    spec = importlib.util.spec_from_file_location("train_digits", EXAMPLE / "train_digits.py")
    assert spec is not None
    assert spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(0)
    digits, labels = load_digits(return_X_y=True)
    rows = np.stack([example.as_row(example.as_image(digit)) for digit in digits.reshape(-1, 8, 8)])
    held = np.arange(len(rows)) % 2 == 0
    train_rows, train_labels = torch.from_numpy(rows[~held]), torch.from_numpy(labels[~held])
    network = example.train(train_rows, train_labels, epochs=12)
    with torch.inference_mode():
        unseen = torch.from_numpy(rows[held])
        full = network(unseen).argmax(1)
        low = network.to(torch.bfloat16)(unseen.to(torch.bfloat16)).float().argmax(1)
    run.agreement, run.agreement_rows = float((full == low).float().mean()), len(unseen)


# ----------------------------------------------------------------------------------------------------------------- GPU


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """What the GPU part measures, or its rehearsal on the CPU."""

    device: str
    folder: Path
    clients: int
    batches: tuple[int, ...]
    precisions: tuple[str, ...]


def plan_gpu(dry_run: bool, gpu: str | None) -> GpuPlan | None:
    """The plan for this machine; None: no GPU, and no rehearsal asked for."""
    if dry_run:
        # float16 is refused on CPUs: the runtime says why.
        folder = prepare("resnet18", say)
        return GpuPlan("cpu", folder, 4, (1, 2), ("float32", "bfloat16"))
    if gpu is None:
        return None
    folder = prepare("resnet152", say)
    precisions = ("float32", "float16", "bfloat16")
    return GpuPlan("cuda", folder, GPU_CLIENTS, GPU_BATCHES, precisions)


def bench_gpu(run: Run, plan: GpuPlan) -> None:
    """64 clients with base64 and raw JPEGs, for each precision, against data that lies on the GPU."""
    application = load("resnet", plan.folder)
    expected = [
        application.score_many([application.decode(data)])[0] for data in run.images[:CHECKED]
    ]
    del application
    for number in range(run.rounds):
        for precision in plan.precisions:
            say(f"GPU part on {plan.device}, {precision}: round {number + 1} of {run.rounds}")
            arguments = (plan.folder, run.images[:8], plan.device, plan.batches, precision)
            name = f"{LIMIT}, {precision}"
            measure(run, "gpu", name, build_gpu_jobs, arguments, 1, number)
            settings: Mapping[str, str] = {
                "SCORER_PRECISION": precision,
                "SCORER_DEVICE": "cpu" if plan.device == "cpu" else "gpu",
                "SCORER_MAX_BATCH_SIZE": str(max(32, plan.clients)),
            }
            server = our_server(
                plan.folder,
                "pytorch",
                ("score", "image"),
                workers=0,
                settings=settings,
                name=f"{OURS}, {precision}",
            )
            tolerance = TOLERANCE if precision == "float32" else LOW_PRECISION_TOLERANCE
            try:
                measure_server(run, server, "gpu", (plan.clients,), expected, number, tolerance)
            except ServerError as err:
                run.note_absent("gpu", server.name, str(err))


# --------------------------------------------------------------------------------------------------------------- goals


def _limits(run: Run, part: str, *, batch: str = "") -> list[CellKey]:
    return [
        key
        for key in run.samples.cells()
        if key.workload == part
        and key.dialect == "limit"
        and "decode" not in key.server
        and key.server.endswith(batch)
    ]


def derive_cpu_goals(run: Run) -> list[Goal]:
    """Throughput at 16 clients, peers, latency of one."""
    samples = run.samples
    goals = []
    best = samples.best(_limits(run, "cpu"))
    ours = CellKey(OURS, "cpu", "score", 16)
    ratio = samples.ratio(ours, best) if best else None
    note = f"x {best.server}" if best else "not measured"
    goals.append(Goal("resnet_16_clients_of_limit", ratio, 0.95, note=note))
    for count in CLIENTS:
        peers = [
            key
            for key in samples.cells()
            if (key.workload, key.dialect, key.clients) == ("cpu", "score", count)
            and key.server != OURS
        ]
        peer = samples.best(peers)
        ratio = samples.ratio(CellKey(OURS, "cpu", "score", count), peer) if peer else None
        note = f"x {peer.server}" if peer else "no peer was measured"
        goals.append(Goal(f"resnet_{count}_clients_ahead_of_peers", ratio, 1.0, note=note))
    medians = [samples.median(key, "p50_ms") for key in _limits(run, "cpu", batch="batch 1")]
    single = [value for value in medians if value is not None]
    decode = samples.median(CellKey(f"{LIMIT}, 1 x, decode", "cpu", "limit", 1), "p50_ms")
    alone = samples.median(CellKey(OURS, "cpu", "score", 1), "p50_ms")
    over = None
    note = "not measured"
    if single and decode is not None and alone is not None:
        over = alone - min(single) - decode
        note = f"ms: p50 {alone:.1f} - best single image {min(single):.1f} - decode {decode:.1f}"
    goals.append(Goal("resnet_1_client_over_limit_ms", over, 3.0, at_least=False, note=note))
    return goals


def derive_bfloat16_goals(run: Run) -> list[Goal]:
    """Its gain, and how often it agrees."""
    low = CellKey(BFLOAT16, "bfloat16", "score", 16)
    gain = run.samples.ratio(low, CellKey(OURS, "cpu", "score", 16))
    note = "x float32 over HTTP, 16 clients"
    if gain is None:
        note = run.absent.get("bfloat16", {}).get(BFLOAT16, "not measured")
    goals = [Goal("bfloat16_gain", gain, 1.65, note=note)]
    note = f"top-1 agreement with float32, digits network, {run.agreement_rows} unseen digits"
    goals.append(Goal("bfloat16_top1_agreement", run.agreement, None, note=note))
    return goals


def derive_gpu_goals(run: Run, plan: GpuPlan | None) -> list[Goal]:
    """Each precision in both forms against its own limit."""
    precisions = plan.precisions if plan else ("float32", "float16", "bfloat16")
    # A rehearsal on the CPU shows that the script runs; its figures are held against nothing.
    bound = None if plan is not None and plan.device == "cpu" else 0.9
    clients = plan.clients if plan else GPU_CLIENTS
    goals = []
    for precision in precisions:
        limits = [k for k in _limits(run, "gpu") if f", {precision}," in k.server]
        best = run.samples.best(limits)
        for dialect, form in (("score", "base64"), ("image", "raw")):
            mine = CellKey(f"{OURS}, {precision}", "gpu", dialect, clients)
            ratio = run.samples.ratio(mine, best) if best else None
            note = f"x {best.server}" if best else "not measured: there is no GPU"
            busy = run.utilisation.get((mine.server, dialect))
            if busy:
                note += f"; GPU {statistics.median(busy):.0f} % busy"
            goals.append(Goal(f"gpu_{precision}_{form}", ratio, bound, note=note))
    return goals


# -------------------------------------------------------------------------------------------------------------- output


def print_results(run: Run, parts: Sequence[str], plan: GpuPlan | None) -> None:
    """All tables."""
    titles = {
        "cpu": ("ResNet-152, float32, CPU, JPEG 500x375", CLIENTS),
        "bfloat16": ("ResNet-152, bfloat16, CPU", CLIENTS),
        "gpu": (
            "ResNet-152, GPU"
            if plan is None or plan.device != "cpu"
            else "GPU part, rehearsed on the CPU with ResNet-18: no figures to compare",
            (plan.clients if plan else GPU_CLIENTS,),
        ),
    }
    for part, (title, clients) in titles.items():
        if part not in parts and not any(k.workload == part for k in run.samples.cells()):
            continue
        print_cells(
            title,
            run.samples,
            workload=part,
            dialect=None,
            clients=clients,
            absent=run.absent.get(part, {}),
            without=("limit",),
        )
        rows = []
        for key in run.samples.cells():
            if key.workload == part and key.dialect == "limit":
                rate = run.samples.rate(key) or 0.0
                call = run.samples.median(key, "p50_ms") or 0.0
                spread = run.samples.spread(key) * 50
                rows.append([key.server, f"{rate:.2f}/s ±{spread:.0f} %", f"{call:.1f} ms"])
        print_table(f"In-process limits: {part}", ["what", "images", "a call"], rows)
    rows = [
        [
            name,
            f"{statistics.median(seconds):.1f} s",
            f"{statistics.median(run.memory[name]) / 2**20:.0f} MiB",
        ]
        for name, seconds in run.starts.items()
        if name in run.memory
    ]
    print_table("Start and memory", ["server", "first right answer", "PSS"], rows)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="one round of short cells: does everything run")
    add("--seconds", type=float, default=10.0, help="a cell (default: 10)")
    add("--rounds", type=int, default=2, help="interleaved repeats (default: 2)")
    add("--parts", default=",".join(PARTS), help="of cpu, bfloat16, agreement, gpu (default: all)")
    add(
        "--workers", type=int, default=0, help="SCORER_WORKERS of ours (default: 0, its own choice)"
    )
    add("--peers", help="folders of bench/peers, comma-separated, or none (default: all)")
    add(
        "--compile",
        action="store_true",
        help="torch.compile among the limits, too: a C++ compiler and five minutes more a round",
    )
    add("--dry-run-gpu", action="store_true", help="run the GPU part on the CPU, small")
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.seconds, parsed.rounds = 4.0, 1
    parsed.parts = tuple(parsed.parts.split(","))
    unknown = set(parsed.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
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
    started_at = time.monotonic()
    machine = describe_machine(PACKAGES)
    machine["gpu"] = gpu = find_gpu()
    run = Run(options.seconds, options.rounds, options.workers, jpegs(IMAGES))
    if options.quick:
        run.modes, run.batches = ("eager", "graph"), (1,)
    if options.compile:
        run.modes = (*run.modes, COMPILED)
    goals: list[Goal] = []
    plan = None
    if {"cpu", "bfloat16"} & set(options.parts):
        bench_cpu(run, prepare("resnet152", say), options.parts, options.peers)
    if "agreement" in options.parts:
        measure_agreement(run)
    if "gpu" in options.parts:
        plan = plan_gpu(options.dry_run_gpu, gpu)
        if plan is None:
            run.note_absent("gpu", OURS, "there is no GPU; --dry-run-gpu runs the same on the CPU")
        else:
            bench_gpu(run, plan)
    if "cpu" in options.parts:
        goals += derive_cpu_goals(run)
    if "bfloat16" in options.parts or "agreement" in options.parts:
        goals += derive_bfloat16_goals(run)
    if "gpu" in options.parts:
        goals += derive_gpu_goals(run, plan)
    print_results(run, options.parts, plan)
    print_goals(goals)
    settings = {
        "seconds": run.seconds,
        "rounds": run.rounds,
        "quick": options.quick,
        "dry_run_gpu": options.dry_run_gpu,
        "minutes": round((time.monotonic() - started_at) / 60, 1),
    }
    print_json_line(
        "resnet", goals, {"settings": settings, "machine": machine, "absent": run.absent}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
