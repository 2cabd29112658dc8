"""``python -m local_cluster.node``: run the node agent."""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from local_cluster.client import ApiError, KubeconfigError
from local_cluster.node.addresses import NoAddressError
from local_cluster.node.agent import AgentError, AgentSettings, NodeAgent
from local_cluster.node.image_map import ImageMapError
from local_cluster.quantities import parse_quantity


def default_node_name() -> str:
    """This machine's host name as a valid object name."""
    name = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip("-.")
    return name or "local"


def _capacity(text: str) -> tuple[str, str]:
    name, equals, amount = text.partition("=")
    try:
        parse_quantity(amount)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text!r}: {err}, for example cpu=2") from err
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=QUANTITY, got {text!r}")
    return name, amount


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m local_cluster.node",
        description="Run the pods bound to one node as local processes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--kubeconfig", type=Path, required=True, help="the way to the API server")
    add("--state", type=Path, default=Path(".local-cluster/node"), help="the agent's folder")
    add("--node-name", default=default_node_name(), help="name of the Node object")
    add("--images", type=Path, help="YAML file that adds to the built-in image map")
    add(
        "--capacity",
        type=_capacity,
        action="append",
        default=[],
        metavar="NAME=QUANTITY",
        help="a resource the node has, for example nvidia.com/gpu=1; may be repeated",
    )
    add("--port", type=int, default=0, help="port for logs, 0 for a free one")
    add("--restart-backoff-seconds", type=float, default=10.0, help="first wait between restarts")
    add("--keep-pods", action="store_true", help="leave containers running when the agent ends")
    add("--no-bind-claims", action="store_true", help="leave PersistentVolumeClaims to others")
    add("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


async def _run(settings: AgentSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await NodeAgent(settings).run(stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT; returns the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = AgentSettings(
        kubeconfig=options.kubeconfig,
        state=options.state,
        node_name=options.node_name,
        images=options.images,
        capacity=dict(options.capacity),
        port=options.port,
        restart_backoff_seconds=options.restart_backoff_seconds,
        keep_pods=options.keep_pods,
        bind_claims=not options.no_bind_claims,
    )
    try:
        asyncio.run(_run(settings))
    except (AgentError, ApiError, ImageMapError, KubeconfigError, NoAddressError) as err:
        print(f"node agent: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
