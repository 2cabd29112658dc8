"""The model folder, filled all at once: files gather in a folder inside it and move up when everything is verified.

The model folder is usually a mount point, which cannot be renamed; its entries can. Nobody reads it before the fetcher
has ended well (the scorer's container starts after the init container), so that a crash between two renames is seen
by the next run of the fetcher only, which clears what it finds.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from model_scorer.errors import InvalidSpec, LoadFailed
from model_scorer.fetch.sink import translate_write_error

INCOMING = ".incoming"
RECORD = ".fetched.json"


class Staging:
    """A folder inside the model folder that becomes its content, or vanishes.

    Args:
        model_dir: is made when it is not there; must be empty, or have been filled by an earlier fetch.

    Raises:
        InvalidSpec: the folder holds something else, which is left alone.
    """

    def __init__(self, model_dir: Path) -> None:
        self.model_dir = model_dir
        self.folder = model_dir / INCOMING
        try:
            model_dir.mkdir(parents=True, exist_ok=True)
            found = {entry.name for entry in os.scandir(model_dir)} - {"lost+found"}
            if found and not found & {INCOMING, RECORD}:
                raise InvalidSpec(
                    f"The model folder {model_dir} is not empty and was not filled by a fetch: "
                    f"it holds {sorted(found)[0]!r}.",
                    hint="Give SCORER_MODEL_DIR an empty folder.",
                )
            self._clear()
            self.folder.mkdir()
        except OSError as err:
            raise _unusable(model_dir, err) from err

    def publish(self, record: dict[str, Any], *, source: Path | None = None) -> None:
        """Move everything up into the model folder and write the record of the fetch.

        Args:
            record: what `.fetched.json` will say.
            source: the folder inside the staging folder whose entries move up; the staging folder itself by default.
        """
        source = source or self.folder
        try:
            # The record first: what it stands beside may then be cleared by a later run.
            (self.model_dir / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
            for entry in sorted(os.listdir(source)):
                os.rename(source / entry, self.model_dir / entry)
            shutil.rmtree(self.folder)
        except OSError as err:
            self.discard()
            raise translate_write_error(err, self.model_dir) from err

    def discard(self) -> None:
        """Leave the model folder empty."""
        self._clear()

    def _clear(self) -> None:
        for entry in os.scandir(self.model_dir):
            if entry.name == "lost+found":
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def read_record(model_dir: Path) -> dict[str, Any] | None:
    """Return what the last fetch into a folder wrote about itself (uri, digest, bytes, files), or None."""
    try:
        record = json.loads((model_dir / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _unusable(model_dir: Path, err: OSError) -> Exception:
    translated = translate_write_error(err, model_dir)
    if translated is not err:
        return translated
    return LoadFailed(
        f"The model folder {model_dir} cannot be written: {err.strerror or err}.",
        hint="SCORER_MODEL_DIR must be a folder that the fetcher's user may write to.",
    )
