"""Peers: what `peers/<name>/peer.toml` says, and a virtual environment for each, built when it is first needed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent.parent
PEERS = BENCH / "peers"
ENVIRONMENTS = BENCH / ".venvs"
INSTALL_SECONDS = 1200


class PeerError(Exception):
    """A peer cannot be installed; the message says why."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One configuration of a peer.

    Attributes:
        name: empty for the only one.
        command: with `{bin}`, `{port}`, `{port2}` … `{workers}` to be filled in.
        environment: beside the common one.
        workloads: those that it is for.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    workloads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with.

    Attributes:
        name: its folder's.
        title: for tables.
        routes: for each workload, dialect → (path, form); `score` is its own best way to be asked.
        variants: configurations, each measured; the best of them counts.
        start_seconds: how long it may take to answer.
    """

    name: str
    title: str
    routes: Mapping[str, Mapping[str, tuple[str, str]]]
    variants: tuple[Variant, ...]
    start_seconds: float

    @property
    def folder(self) -> Path:
        """With its server file and requirements."""
        return PEERS / self.name


def read_peers(workload: str, only: frozenset[str] | None = None) -> list[Peer]:
    """All peers that serve a workload, by name."""
    peers = [_read_peer(path) for path in sorted(PEERS.glob("*/peer.toml"))]
    return [p for p in peers if workload in p.routes and (only is None or p.name in only)]


def _read_peer(path: Path) -> Peer:
    document: dict[str, Any] = tomllib.loads(path.read_text())
    routes = {
        workload: {dialect: (route["path"], route["form"]) for dialect, route in dialects.items()}
        for workload, dialects in document["routes"].items()
    }
    variants = tuple(
        Variant(
            each.get("name", ""),
            tuple(each["command"]),
            each.get("environment", {}),
            tuple(each.get("workloads", routes)),
        )
        for each in document["variants"]
    )
    return Peer(
        path.parent.name, document["title"], routes, variants, document.get("start_seconds", 60.0)
    )


def build_environment(peer: Peer, *, networks: bool, say: Callable[[str], None]) -> Path:
    """The `bin` folder of the peer's environment, installed if it is not there or its requirements changed.

    Args:
        peer: whose.
        networks: with PyTorch.
        say: for progress.

    Raises:
        PeerError: pip or the import check failed; the message has pip's last line.
    """
    folder = ENVIRONMENTS / peer.name
    files = [peer.folder / "requirements.txt", PEERS / "models.txt"]
    if networks:
        files.append(PEERS / "networks.txt")
    wanted = [
        hashlib.sha256(b"".join(f.read_bytes() for f in files[:2])).hexdigest(),
        hashlib.sha256(files[2].read_bytes()).hexdigest() if networks else "",
    ]
    stamps = [folder / ".models-installed", folder / ".networks-installed"]
    python = folder / "bin" / "python"
    steps: list[list[str]] = []
    if _differs(stamps[0], wanted[0]):
        if not python.exists():
            _run([sys.executable, "-m", "venv", str(folder)], peer, say)
        steps.append(["-r", str(files[0]), "-r", str(files[1])])
    if networks and _differs(stamps[1], wanted[1]):
        lines = files[2].read_text().splitlines()
        pinned = [line for line in lines if line and not line.startswith(("#", "torchvision"))]
        vision = [line for line in lines if line.startswith("torchvision")]
        # torch first and alone, so that nothing else decides its build; torchvision's wheel asks for the CUDA build.
        steps += [pinned[:1], [*pinned[1:], "-r", str(files[0])], ["--no-deps", *vision]]
    for number, arguments in enumerate(steps, 1):
        say(f"installing {peer.title}, step {number} of {len(steps)} …")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *arguments], peer, say)
    for stamp, value in zip(stamps, wanted, strict=True):
        if value and steps:
            stamp.write_text(value)
    return folder / "bin"


def _differs(stamp: Path, value: str) -> bool:
    return not stamp.exists() or stamp.read_text() != value


def _run(command: list[str], peer: Peer, say: Callable[[str], None]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=dict(os.environ)
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"installing took more than {INSTALL_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if "ERROR" in line), "pip failed")
        say(f"{peer.title} cannot be installed: {reason}")
        raise PeerError(f"cannot be installed: {reason}")


def remove_environments() -> None:
    """Forget all that was installed."""
    shutil.rmtree(ENVIRONMENTS, ignore_errors=True)
