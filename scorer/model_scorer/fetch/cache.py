"""A cache of models by digest, on a volume that outlives the pod, so that the next pod of a node downloads nothing.

Entries are folders named by digest, holding the bytes as they were fetched (an archive packed). They appear by
renaming, so that several pods may write the same one at once; what comes out is hashed again, because others can
write to the volume too.
"""

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

from model_scorer.errors import DiskFull, ScorerError
from model_scorer.fetch.fetched import Download
from model_scorer.fetch.local_source import copy_from_disk
from model_scorer.fetch.progress import Progress

log = logging.getLogger(__name__)

_FILES = "files"
_KIND = "kind.json"


class DigestCache:
    """Models on a volume of the node.

    Args:
        folder: made when it is not there. A cache that fails is logged and done without.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy_to(self, digest: str, download: Download, progress: Progress) -> bool:
        """Fill a download from the cache; False, with the download as it was, when the digest is not there."""
        entry = self._folder / f"sha256-{digest}"
        if not entry.is_dir():
            return False
        before = progress.bytes_done, progress.bytes_total
        try:
            single = bool(json.loads((entry / _KIND).read_text())["single"])
            source = entry / _FILES
            only = next(source.iterdir()) if single else source
            copy_from_disk(
                only, f"the cached model {digest}", download, progress, max_files=1 << 20
            )
            download.single = single
            download.verify(digest, f"the cached model {digest}")
        except DiskFull:
            # The entry is good; a download would not fit either.
            raise
        except (ScorerError, OSError, ValueError, KeyError, StopIteration, TypeError) as err:
            log.warning("a cached model is not usable", extra={"digest": digest, "cause": str(err)})
            shutil.rmtree(entry, ignore_errors=True)
            _reset(download)
            progress.add(before[0] - progress.bytes_done)
            progress.expect(before[1] - progress.bytes_total)
            return False
        log.info("from the cache", extra={"digest": digest})
        return True

    def keep(self, download: Download) -> None:
        """Copy a verified download into the cache, if the cache can hold it."""
        entry = self._folder / f"sha256-{download.digest}"
        incoming = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if entry.exists():
                return
            incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self._folder))
            shutil.copytree(download.folder, incoming / _FILES)
            (incoming / _KIND).write_text(json.dumps({"single": download.single}))
            os.chmod(incoming, 0o755)
            incoming.rename(entry)
        except OSError as err:
            log.warning("the model was not cached", extra={"cause": str(err)})
            if incoming is not None:
                shutil.rmtree(incoming, ignore_errors=True)


def _reset(download: Download) -> None:
    for child in download.folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
    download.digests.clear()
    download.size_bytes = 0
    download.single = True
