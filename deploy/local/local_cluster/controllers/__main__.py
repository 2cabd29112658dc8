"""``python -m local_cluster.controllers``: all controllers and the scheduler in one process."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from local_cluster.client import KubeconfigError
from local_cluster.controllers.manager import ControllerManager


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m local_cluster.controllers",
        description="Run the controllers and the scheduler of the local cluster.",
    )
    parser.add_argument(
        "--kubeconfig",
        default=os.environ.get("KUBECONFIG"),
        help="the API server to work against (default: $KUBECONFIG)",
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    return parser


async def run(kubeconfig: Path) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with ControllerManager(kubeconfig) as manager:
        logging.getLogger(__name__).info("controllers are running")
        broken = asyncio.create_task(manager.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([broken, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if broken.done():
            broken.result()
        broken.cancel()
        await asyncio.gather(broken, stopped, return_exceptions=True)


def main() -> int:
    """Parse the command line and run; returns the exit status."""
    options = build_parser().parse_args()
    if not options.kubeconfig:
        print("error: name an API server with --kubeconfig or $KUBECONFIG", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # The caches live for long; see the API server's.
    gc.set_threshold(50_000, 20, 100)
    try:
        uvloop.run(run(Path(options.kubeconfig)))
    except KubeconfigError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
