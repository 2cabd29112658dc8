"""What a source brings: files under a folder, each with its digest."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from model_scorer.errors import DigestMismatch, ModelNotFound
from model_scorer.fetch.digest import compute_folder_digest


@dataclass(slots=True)
class Download:
    """The files that a source put into a folder.

    Attributes:
        folder: where they are.
        digests: hexadecimal SHA-256 by relative path.
        single: the model URI named one file, so that its digest is the model's; otherwise the folder's.
        size_bytes: of all files together.
    """

    folder: Path
    single: bool
    digests: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, path: str, digest: str, size_bytes: int) -> None:
        """Count a file that is complete; called from several threads."""
        with self._lock:
            self.digests[path] = digest
            self.size_bytes += size_bytes

    @property
    def digest(self) -> str:
        """The model's hexadecimal digest."""
        if self.single:
            return next(iter(self.digests.values()))
        return compute_folder_digest(self.digests)

    def verify(self, expected: str, display: str, *, pinned: bool = False) -> None:
        """Compare with the digest that the spec names, or that the revision began with.

        Args:
            expected: hexadecimal; empty: any bytes will do.
            display: the URI as it may be logged.
            pinned: `expected` is what the first pod of this revision fetched.

        Raises:
            ModelNotFound: nothing was fetched.
            DigestMismatch: other bytes.
        """
        if not self.digests:
            raise ModelNotFound(
                f"{display} is an empty folder.",
                hint="Check spec.modelURI for spelling, case and version.",
            )
        if expected and self.digest != expected:
            what = "file" if self.single else "folder"
            if pinned:
                raise DigestMismatch(
                    f"The {what} at {display} has changed: its SHA-256 is {self.digest} now, and this revision "
                    f"runs {expected}.",
                    hint="If the new bytes are meant, set spec.sha256 to their digest, or spec.updatePolicy to Always; "
                    "if not, restore the model at its URI.",
                    found=self.digest,
                )
            raise DigestMismatch(
                f"The {what} at {display} has the SHA-256 {self.digest}, spec.sha256 says {expected}.",
                hint="If the new bytes are meant, set spec.sha256 to their digest; if not, restore the model at its URI.",
                found=self.digest,
            )


def mismatch_in_listing(path: str, found: str, listed: str, display: str) -> DigestMismatch:
    """Return the error for a file that is not what the folder's listing says."""
    return DigestMismatch(
        f"The file {path!r} at {display} has {found}, the listing there says {listed}.",
        hint="Upload the folder and its listing again.",
    )
