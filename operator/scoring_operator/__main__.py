"""`python -m scoring_operator`: run the operator against a cluster."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import kopf
import uvloop

from scoring_operator import __version__
from scoring_operator.app import Operator
from scoring_operator.edge import build_registry, kubeconfig_environment
from scoring_operator.leadership import Leadership
from scoring_operator.logs import set_up_logging
from scoring_operator.settings import Settings, SettingsError

_EPILOG = """\
settings are environment variables:
  SCORER_IMAGE, SCORER_IMAGE_CPU, SCORER_IMAGE_GPU, SCORER_IMAGE_<FRAMEWORK>, SCORER_IMAGE_<FRAMEWORK>_GPU
                             scorer images; the most specific one wins
  BASE_DOMAIN, URL_PORT      host of models that name none, and port of their URLs
  INGRESS_CLASS              IngressClass of models that name none
  INGRESS_CONTROLLER         spec.controller of the IngressClass, where the operator may not read it
  INGRESS_ANNOTATIONS        JSON object of annotations for every Ingress
  GATEWAY_NAME, GATEWAY_NAMESPACE, GATEWAY_SECTION, GATEWAY_HTTP_SECTION
                             Gateway of models that name no way in, its HTTPS and its plain HTTP listener
  ISSUER_NAME, ISSUER_KIND, ISSUER_GROUP
                             cert-manager issuer of models that name none
  AZURE_WORKLOAD_IDENTITY    true: label pods that name a ServiceAccount for Azure workload identity
  NETWORK_POLICY             None, Ingress or IngressAndEgress: what NetworkPolicies limit
  NETWORK_POLICY_FROM, NETWORK_POLICY_METRICS_FROM
                             namespaces or address ranges of the proxies, and of Prometheus
  KEDA_PROMETHEUS_URL, KEDA_TRIGGER_AUTHENTICATION
                             where KEDA asks for requests in flight
  INSTALL_REQUIREMENTS, PIP_INDEX_URL
                             true: install the packages that models ask for, from this index
  MODEL_CACHE_PATH           folder on the nodes that keeps models by digest
  GPU_TOLERATIONS            JSON list of tolerations for pods of device gpu
  DEFAULT_CPU_REQUEST, DEFAULT_MEMORY_REQUEST, DEFAULT_CPU_LIMIT, DEFAULT_MEMORY_LIMIT
                             resources where a model says nothing; 0 for none
  RUN_AS_USER, PRE_STOP_SECONDS, DRAIN_SECONDS, REVISION_HISTORY, CERTIFICATE_DAYS, WORKERS
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scoring_operator",
        description="Serves the ScoringModels of a Kubernetes cluster.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        default=None,
        help="kubeconfig file (default: the pod's service account, $KUBECONFIG, or ~/.kube/config)",
    )
    parser.add_argument(
        "--namespace",
        "-n",
        default=None,
        help="look after this namespace only (default: all)",
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=None,
        help="port of /healthz, /readyz and /metrics; 0 for any free one (default: none)",
    )
    parser.add_argument(
        "--listen", default="0.0.0.0", metavar="ADDRESS", help="address of that port (default: all)"
    )
    parser.add_argument(
        "--leader-elect",
        action="store_true",
        help="wait until no other operator works (Lease scoring-operator)",
    )
    parser.add_argument(
        "--lease-namespace",
        default=os.environ.get("POD_NAMESPACE") or "scoring-system",
        metavar="NAMESPACE",
        help="namespace of that Lease (default: $POD_NAMESPACE or scoring-system)",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="how much to log (default: info)",
    )
    parser.add_argument("--version", action="version", version=f"scoring-operator {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT.

    Args:
        argv: command line; None: that of the process.

    Returns:
        Exit code: 0 after a clean stop, 1 when it could not start, 2 for wrong settings.
    """
    options = build_parser().parse_args(argv)
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as err:
        print(f"settings that cannot be used:\n{err}", file=sys.stderr)
        return 2
    set_up_logging(options.log_level)
    if options.kubeconfig is not None and not options.kubeconfig.is_file():
        print(f"--kubeconfig: there is no file {options.kubeconfig}", file=sys.stderr)
        return 2
    os.environ.update(kubeconfig_environment(options.kubeconfig))
    # Caches of a thousand models live for long: looking through them for cycles at the usual pace costs a tenth of the time.
    gc.set_threshold(20_000, 20, 50)
    operator = Operator(settings, kubeconfig=options.kubeconfig, namespace=options.namespace)
    try:
        return uvloop.run(run(operator, options))
    except KeyboardInterrupt:
        return 0
    except Exception as err:  # the outermost edge: what failed at the start is said in one line
        print(f"the operator stopped: {err}", file=sys.stderr)
        return 1


def _identity() -> str:
    """The pod's name, which its restarted container keeps; anything else must be unique on its own."""
    return os.environ.get("POD_NAME") or f"{socket.gethostname()}_{uuid.uuid4()}"


async def run(operator: Operator, options: argparse.Namespace) -> int:
    """Run the operator under kopf until it is told to stop, or loses its lease.

    Args:
        operator: what to run.
        options: the parsed command line.

    Returns:
        Exit code: 0 after a clean stop, 1 when the lease was lost.
    """
    lost = asyncio.Event()
    leadership = None
    if options.leader_elect:
        leadership = Leadership(
            kubeconfig=options.kubeconfig,
            namespace=options.lease_namespace,
            identity=_identity(),
            on_lost=lost.set,
        )
    registry = build_registry(
        operator,
        leadership,
        listen_address=options.listen,
        metrics_port=options.metrics_port,
    )
    await kopf.operator(
        registry=registry,
        standalone=True,
        clusterwide=options.namespace is None,
        namespaces=[options.namespace] if options.namespace else [],
        stop_flag=lost,
    )
    return 1 if lost.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
