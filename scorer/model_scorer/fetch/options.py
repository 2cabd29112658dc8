"""The knobs of a fetch, with the values that production uses; tests turn them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from model_scorer.errors import InvalidSpec
from model_scorer.fetch.progress import MIB
from model_scorer.fetch.retry import RetryPolicy
from model_scorer.fetch.size_limit import SizeLimit, parse_size_limit
from model_scorer.fetch.unpack import UnpackLimits
from model_scorer.fetch.web_session import WebOptions


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """How bytes are moved.

    Attributes:
        parallel_threshold_bytes: files at least this large are fetched in parallel ranges.
        piece_bytes: size of one range.
        connections: requests at the same time.
        slow_window_seconds: a connection is given up that brings less than `slow_window_bytes` in this time.
        slow_window_bytes: see there.
        max_files: most files of a folder.
    """

    parallel_threshold_bytes: int = 64 * MIB
    piece_bytes: int = 16 * MIB
    connections: int = 4
    slow_window_seconds: float = 30.0
    slow_window_bytes: int = 30 * 1024
    max_files: int = 10_000


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Everything that a fetch does not find in `Settings`.

    Attributes:
        retry: patience.
        web: HTTP requests.
        transfer: ranges and limits.
        unpack: bounds of an archive.
        cache_dir: models by digest, outliving the pod; None for no cache.
        source_dir: where the operator mounts the volume of an `oci:` or `pvc:` URI.
        pinned_sha256: what the first pod of this revision fetched; empty: this is the first, or the spec names a digest.
        size_limit: what the model volume may hold.
        install_requirements: install the packages that the model asks for; otherwise only look whether they are there.
        signature_key: public key that the model must be signed with; None asks for no signature.
        environ: credentials for object stores, and where packages come from.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    web: WebOptions = field(default_factory=WebOptions)
    transfer: TransferOptions = field(default_factory=TransferOptions)
    unpack: UnpackLimits = field(default_factory=UnpackLimits)
    cache_dir: Path | None = None
    source_dir: Path = Path("/mnt/source")
    pinned_sha256: str = ""
    size_limit: SizeLimit = field(default_factory=SizeLimit)
    install_requirements: bool = False
    signature_key: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the fetcher's own variables (docs/architecture.md); absent or empty is the default.

        Raises:
            InvalidSpec: a value that makes no sense.
        """
        connections = environ.get("SCORER_FETCH_CONNECTIONS", "").strip() or "4"
        if not connections.isdecimal() or not 1 <= int(connections) <= 32:
            raise InvalidSpec(
                f"SCORER_FETCH_CONNECTIONS must be between 1 and 32, got {connections!r}.",
                hint="Correct it in spec.env.",
            )
        install = environ.get("SCORER_INSTALL_REQUIREMENTS", "").strip().lower() or "false"
        if install not in ("true", "false", "1", "0"):
            raise InvalidSpec(
                f"SCORER_INSTALL_REQUIREMENTS must be true or false, got {install!r}.",
                hint="Correct it in the operator's settings.",
            )
        cache = environ.get("SCORER_CACHE_DIR", "").strip()
        key = environ.get("SCORER_SIGNATURE_KEY", "").strip()
        pinned = environ.get("SCORER_PINNED_SHA256", "").strip().lower()
        if not re.fullmatch(r"([0-9a-f]{64})?", pinned):
            raise InvalidSpec(
                f"SCORER_PINNED_SHA256 must be 64 hexadecimal digits, got {pinned!r}.",
                hint="Delete the ConfigMap that it comes from; the operator makes it anew.",
            )
        return cls(
            web=WebOptions(environ=environ),
            transfer=TransferOptions(connections=int(connections)),
            cache_dir=Path(cache) if cache else None,
            source_dir=Path(environ.get("SCORER_SOURCE_DIR", "").strip() or "/mnt/source"),
            pinned_sha256=pinned,
            size_limit=parse_size_limit(environ.get("SCORER_MODEL_SIZE_LIMIT", "").strip()),
            install_requirements=install in ("true", "1"),
            signature_key=Path(key) if key else None,
            environ=environ,
        )
