"""``python -m local_cluster.ingress``: the ingress controller as a program of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys

import uvloop

from local_cluster.client import KubeconfigError
from local_cluster.ingress.controller import DRAIN_SECONDS, IngressController
from local_cluster.ingress.proxy import DEFAULT_TIMEOUT_SECONDS


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m local_cluster.ingress",
        description="Serve the cluster's Ingresses on this machine.",
    )
    parser.add_argument(
        "--kubeconfig",
        default=os.environ.get("KUBECONFIG"),
        help="the API server to work against (default: $KUBECONFIG)",
    )
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--http-port", type=int, default=8080, help="0 chooses a free port")
    parser.add_argument("--https-port", type=int, default=8443, help="0 chooses a free port")
    parser.add_argument("--class-name", default="local", help="the IngressClass to serve")
    parser.add_argument(
        "--timeout-seconds",
        type=float,
        default=DEFAULT_TIMEOUT_SECONDS,
        help="longest silence of a pod before 504",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=DRAIN_SECONDS,
        help="how long requests under way may take after SIGTERM",
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    return parser


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with IngressController(
        options.kubeconfig,
        address=options.address,
        http_port=options.http_port,
        https_port=options.https_port,
        class_name=options.class_name,
        timeout_seconds=options.timeout_seconds,
        drain_seconds=options.drain_seconds,
    ) as ingress:
        line = {
            "address": ingress.address,
            "httpPort": ingress.http_port,
            "httpsPort": ingress.https_port,
        }
        print(json.dumps(line), flush=True)
        await stop.wait()


def main() -> int:
    """Parse the command line and run; returns the exit status."""
    options = build_parser().parse_args()
    if not options.kubeconfig:
        print("error: name an API server with --kubeconfig or $KUBECONFIG", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        uvloop.run(run(options))
    except KubeconfigError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    except OSError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
