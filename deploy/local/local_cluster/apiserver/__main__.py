"""Run the API server: ``python -m local_cluster.apiserver --state DIR``."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

from local_cluster.apiserver.server import ApiServer


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m local_cluster.apiserver",
        description="Serve a Kubernetes API on this machine. DIR/kubeconfig appears once it listens.",
    )
    parser.add_argument(
        "--state",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for objects, keys and kubeconfig",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        help="port to listen on (default: that of the last run, or a free one)",
    )
    parser.add_argument(
        "--address", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    return parser.parse_args(arguments)


async def serve(state: Path, port: int, address: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with ApiServer(state, port, address) as server:
        print(server.url, flush=True)
        await stop.wait()


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # All objects live in memory for long: looking through them for cycles at Python's usual pace took a tenth of the time.
    gc.set_threshold(50_000, 20, 100)
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run  # about a third more requests a second
    try:
        run(serve(options.state, options.port, options.address))
    except OSError as err:
        print(f"cannot serve on {options.address}:{options.port}: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
