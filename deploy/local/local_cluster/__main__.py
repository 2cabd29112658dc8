"""``python -m local_cluster up | down | status``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from local_cluster.node.leftovers import end_leftovers
from local_cluster.up.library import wait_ready
from local_cluster.up.state import DEFAULT_STATE, UpError, cluster_file, read_cluster
from local_cluster.up.supervisor import UpSettings, describe, run_cluster, spawn_cluster

_STOP_SECONDS = 40.0
EXIT_NOT_RUNNING = 3


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m local_cluster",
        description="A small Kubernetes on this machine, without Docker. It listens on loopback only.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the cluster and run it until Ctrl-C")
    down = commands.add_parser("down", help="stop the cluster of a state folder")
    status = commands.add_parser("status", help="say whether a cluster runs, and where")
    for command in (up, down, status):
        command.add_argument(
            "--state",
            type=Path,
            default=DEFAULT_STATE,
            help="the folder with everything of the cluster (default: %(default)s)",
        )
    add = up.add_argument
    add("--api-port", type=int, help="port of the API server, 0: any (default: 6443 or next free)")
    add("--http-port", type=int, help="port of the ingress, 0: any (default: 8080 or next free)")
    add("--https-port", type=int, help="its TLS port, 0: any (default: 8443 or next free)")
    add("--images", type=Path, help="YAML file that adds to the built-in image map")
    add("--gpus", type=int, default=0, help="GPUs the node claims to have (default: %(default)s)")
    add(
        "--restart-backoff-seconds",
        type=float,
        default=10.0,
        help="first wait of CrashLoopBackOff (default: %(default)s)",
    )
    add("--detach", action="store_true", help="run in the background")
    add(
        "--wait-ready",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --detach: return when the cluster is ready (default: yes)",
    )
    add("--until-eof", action="store_true", help="stop when standard input ends")
    add("--quiet", action="store_true", help="print failures only")
    status.add_argument("--json", action="store_true", help="print cluster.json")
    return parser


def _up(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    if options.images is not None and not options.images.is_file():
        raise UpError(f"there is no image map {options.images}")
    if options.detach:
        return _detach(options, arguments)
    run_cluster(
        UpSettings(
            state=options.state,
            api_port=options.api_port,
            http_port=options.http_port,
            https_port=options.https_port,
            images=options.images,
            gpus=options.gpus,
            restart_backoff_seconds=options.restart_backoff_seconds,
            until_eof=options.until_eof,
            quiet=options.quiet,
        )
    )
    return 0


def _detach(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    running = read_cluster(options.state)
    if running is not None:
        raise UpError(
            f"a cluster already runs in {options.state} (process {running.pid}); stop it with "
            f"python -m local_cluster down --state {options.state}"
        )
    log = options.state / "logs" / "up.log"
    rest = [word for word in arguments[1:] if word not in ("--detach", "--until-eof")]
    process = spawn_cluster(rest, log=log)
    if options.wait_ready:
        try:
            info = wait_ready(options.state, process, log)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        print(f"the cluster is ready (process {info.pid})\n{describe(info)}")
        print(f"  stop it: python -m local_cluster down --state {options.state}")
    else:
        print(f"starting in the background (process {process.pid}, log {log})")
    process.returncode = 0  # it lives on; nobody waits for it here
    return 0


def _down(options: argparse.Namespace) -> int:
    info = read_cluster(options.state)
    if info is None:
        ended = end_leftovers(options.state / "node" / "pods")
        cluster_file(options.state).unlink(missing_ok=True)
        also = f"; ended {ended} container(s) left over" if ended else ""
        print(f"no cluster runs in {options.state}{also}")
        return 0
    parts = [psutil.Process(pid) for pid in info.pids.values() if psutil.pid_exists(pid)]
    supervisor = psutil.Process(info.pid)
    os.kill(info.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    _, alive = psutil.wait_procs([supervisor, *parts], timeout=deadline - time.monotonic())
    for process in alive:
        process.kill()
    end_leftovers(options.state / "node" / "pods")
    print(f"the cluster in {options.state} is stopped")
    return 0


def _status(options: argparse.Namespace) -> int:
    info = read_cluster(options.state)
    if info is None:
        print(f"no cluster runs in {options.state}")
        return EXIT_NOT_RUNNING
    if options.json:
        print(json.dumps(asdict(info), indent=2))
        return 0
    state = "ready" if info.ready else "starting"
    print(f"the cluster in {options.state} is {state} (process {info.pid})")
    for name, pid in info.pids.items():
        print(f"  {name}: {'process ' + str(pid) if psutil.pid_exists(pid) else 'not running'}")
    print(describe(info))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(words)
    try:
        if options.command == "up":
            return _up(options, words)
        return _down(options) if options.command == "down" else _status(options)
    except UpError as err:
        print(f"local_cluster: {err}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
