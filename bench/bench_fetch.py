"""Throughput of the fetcher beside curl, from a local server to the same disk, and the cost of scanning a pickle.

Prints a table and, as its last line, one JSON object: every goal's name, the measured value, the goal, whether it
holds. Needs `curl`.

    python bench/bench_fetch.py [--mib 1024] [--repeats 5] [--dir FOLDER]
"""

import argparse
import hashlib
import json
import os
import pickle
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.report import print_goals, print_json_line
from harness.statistics import Goal

GOAL_RATIO = 0.8
GOAL_MEMORY_MIB = 150
MIB = 1 << 20


class _Handler(BaseHTTPRequestHandler):
    """Serves one file with ranges, as fast as the kernel can send it."""

    protocol_version = "HTTP/1.1"
    path_served: Path

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        size = self.path_served.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        end = int(match[2] or size - 1) if match else size - 1
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(end - start + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"bench"')
        self.end_headers()
        self.wfile.flush()
        with self.path_served.open("rb") as file:
            try:
                while start <= end:
                    start += os.sendfile(
                        self.connection.fileno(), file.fileno(), start, end - start + 1
                    )
            except OSError:
                self.close_connection = True


def serve(path: Path) -> None:
    """Serve a file until killed; the first line on standard output is the URL."""
    _Handler.path_served = path
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/{path.name}", flush=True)
    server.serve_forever()


def run_fetch(url: str, folder: Path) -> None:
    """Fetch in this process; prints seconds and peak memory (its own, from the kernel)."""
    from model_scorer.fetch import fetch_model
    from model_scorer.settings import Settings

    started = time.perf_counter()
    fetched = fetch_model(Settings(model_uri=url, model_dir=folder))
    seconds = time.perf_counter() - started
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_mib": peak_kib / 1024, "digest": fetched.digest}))


def measure_fetch(url: str, folder: Path, digest: str) -> tuple[float, float]:
    """Return seconds and peak MiB of one fetch in a process of its own."""
    output = subprocess.run(
        [sys.executable, __file__, "--fetch", url, "--dir", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    result = json.loads(output.splitlines()[-1])
    assert result["digest"] == f"sha256:{digest}"
    shutil.rmtree(folder)
    return result["seconds"], result["peak_mib"]


def measure_curl(url: str, target: Path) -> float:
    """Return seconds of one download by curl, by its own clock."""
    seconds = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "-o", str(target), "-w", "%{time_total}", url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    target.unlink()
    return float(seconds)


def measure_scan(folder: Path) -> dict[str, float]:
    """Return seconds for scanning pickles of 100 MiB, few large values and very many small ones."""
    from model_scorer.verify import check_pickle

    seconds = {}
    for name, value in {
        "one array": bytes(100 * MIB),
        "11 million floats": [float(i) for i in range(100 * MIB // 9)],
    }.items():
        path = folder / "scanned.pkl"
        path.write_bytes(pickle.dumps(value))
        started = time.perf_counter()
        check_pickle(path, trust=False)
        seconds[name] = time.perf_counter() - started
        path.unlink()
    return seconds


def main() -> int:
    """Measure, print, and return 0 when the goals hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fetch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    if options.fetch:
        run_fetch(options.fetch, options.dir)
        return 0
    if shutil.which("curl") is None:
        print("bench_fetch needs curl on the PATH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        return _compare(Path(name), options.mib, options.repeats)


def _compare(folder: Path, mib: int, repeats: int) -> int:
    source = folder / "model.bin"
    block = os.urandom(MIB)
    digest = hashlib.sha256()
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(block)
            digest.update(block)
    with subprocess.Popen(
        [sys.executable, __file__, "--serve", str(source)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            curl, ours, peaks = [], [], []
            for repeat in range(repeats):
                curl.append(measure_curl(url, folder / "curl.bin"))
                seconds, peak = measure_fetch(url, folder / "model", digest.hexdigest())
                ours.append(seconds)
                peaks.append(peak)
                print(
                    f"run {repeat + 1} of {repeats}: curl {curl[-1]:.2f} s, fetch {seconds:.2f} s, {peak:.0f} MiB"
                )
        finally:
            server.terminate()
    scans = measure_scan(folder)
    ratio = statistics.median(curl) / statistics.median(ours)
    print(f"\n{'':24}{'median s':>10}{'min':>8}{'max':>8}{'MiB/s':>8}")
    for label, times in (("curl", curl), ("fetch, with SHA-256", ours)):
        median = statistics.median(times)
        print(f"{label:24}{median:10.2f}{min(times):8.2f}{max(times):8.2f}{mib / median:8.0f}")
    for label, seconds in scans.items():
        print(f"scan 100 MiB, {label}: {seconds:.2f} s")
    goals = [
        Goal("fetch_over_curl", ratio, GOAL_RATIO, note="throughput, curl's median over ours"),
        Goal("fetch_peak_mib", max(peaks), GOAL_MEMORY_MIB, at_least=False, note="peak memory"),
        Goal("scan_100_mib_seconds", max(scans.values()), None, note="a pickle of many values"),
    ]
    print_goals(goals)
    print_json_line("fetch", goals, {"mib": mib, "repeats": repeats})
    return 0 if all(goal.holds is not False for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
