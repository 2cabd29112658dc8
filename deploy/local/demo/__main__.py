"""The main job on one machine: from a trained model and ten lines of YAML to an answer over HTTPS.

Starts the local cluster, installs the operator into it, trains an example, applies its ScoringModel, waits for it, asks it
through the HTTPS ingress, and says what to try next. With `--once` it also proves what must not work (wrong and missing
keys, plain HTTP, another certificate) and ends; the exit code says whether everything held.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import digits
import faq
from deployed import ROOT, Scorer, deploy, install_operator, prove
from stages import DemoError, stage

from local_cluster.up import LocalCluster

EXAMPLES = {"faq": faq, "digits": digits}


def show_next(scorer: Scorer, command: str) -> None:
    """Say what to try next, as commands that work when pasted."""
    name = scorer.name
    print(
        f"""Try next, in another terminal:

  export KUBECONFIG={scorer.cluster.kubeconfig}
  export PATH={Path(sys.executable).parent}:$PATH
  kubectl get scoringmodels -o wide
  kubectl describe scoringmodel {name}
  kubectl get all,ingress,secret
  KEY=$(kubectl get secret {name}-keys -o jsonpath='{{.data.primary}}' | base64 -d)
  kubectl get secret {name}-tls -o jsonpath='{{.data.tls\\.crt}}' | base64 -d > {name}.crt
  {command}

Or open {scorer.url}/ui in a browser on this machine; the certificate is self-signed, and the page asks for the key.
"""
    )


def wait_for_interrupt() -> None:
    """Stay up until Ctrl-C or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


def demonstrate(cluster: LocalCluster, options: argparse.Namespace, began: float) -> int:
    """Everything from a running cluster to the exit code."""
    example = EXAMPLES[options.example]
    install_operator(cluster)
    with stage(f"Training the {example.TITLE} model"):
        output, _ = options.training.communicate()
        if options.training.returncode:
            raise DemoError(f"training failed:\n{output}")
    print("".join(f"    {line}\n" for line in output.splitlines()[-5:]), end="")
    scorer = deploy(cluster, example.FOLDER, example.MODEL)
    wrong = example.ask(scorer)
    print(f"✓ From nothing to a scored request in {time.monotonic() - began:.1f} s\n")
    if not options.once:
        show_next(scorer, example.next_command(scorer))
        print("Ctrl-C stops everything.")
        wait_for_interrupt()
        return 0
    wrong += prove(scorer, example.sample_request())
    for sentence in wrong:
        print(f"✗ {sentence}", file=sys.stderr)
    if not wrong:
        print("✓ Answers, keys, certificate, redirect and status are as they must be")
    return 1 if wrong else 0


def main() -> int:
    """Parse the arguments, run the demo, stop everything."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("example", nargs="?", choices=sorted(EXAMPLES), default="faq")
    parser.add_argument("--once", action="store_true", help="prove everything, then stop")
    parser.add_argument(
        "--state",
        type=Path,
        default=ROOT / ".local-cluster" / "demo",
        help="state folder of the cluster",
    )
    options = parser.parse_args()
    began = time.monotonic()
    os.chdir(ROOT)
    # Each demo starts from nothing: what is left of an earlier one would hide a step that no longer works.
    shutil.rmtree(options.state, ignore_errors=True)
    example = EXAMPLES[options.example]
    # Beside everything else.
    options.training = subprocess.Popen(
        example.training_command(example.MODEL),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with stage("Starting the local cluster"):
            # The ports that the overlay for the local cluster has in its URLs, or the next free ones.
            cluster = LocalCluster(options.state, api_port=None, http_port=None, https_port=None)
            cluster.start()
        try:
            return demonstrate(cluster, options, began)
        finally:
            with stage("Stopping the local cluster"):
                cluster.stop()
    except DemoError as err:
        print(f"\n✗ {err}\n  Logs: {options.state / 'logs'}", file=sys.stderr)
        return 1
    finally:
        options.training.kill()
        options.training.wait()


if __name__ == "__main__":
    sys.exit(main())
