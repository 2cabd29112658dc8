"""Which library version wrote a file, read without loading it, and whether the installed one may load it.

scikit-learn: every estimator carries `_sklearn_version`. Its pages promise nothing across versions
(https://scikit-learn.org/stable/model_persistence.html#security-maintainability-limitations): loading then warns, and
may fail or, worse, predict something else. Its deprecation policy keeps renamed attributes and parameters for two
minor releases, so that a file that is at most two minor versions older than the library is loaded with a warning in
the log. Refused are an older file, another major version, and any file newer than the library, because no release knows
what a later one stores.

Keras: `metadata.json` in a `.keras` file. A file of a newer minor or another major version is refused.
PyTorch and ONNX files carry versions of their formats, and their own loaders refuse what they do not know.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import re
import zipfile
from pathlib import Path
from typing import Any

from model_scorer.errors import LoadFailed, ScorerError, VersionMismatch
from model_scorer.verify.joblib_arrays import JoblibArrays
from model_scorer.verify.machine import PickleMachine
from model_scorer.verify.pickles import open_pickle_stream
from model_scorer.verify.reader import MalformedError
from model_scorer.verify.values import Built, Import

log = logging.getLogger(__name__)

_SKLEARN_KEY = "_sklearn_version"
_OLDEST_MINORS = 2
_MAX_JSON_BYTES = 256 << 20
_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})[0-9A-Za-z.+-]*")


def check_versions(path: Path, framework: str) -> None:
    """Compare the version that wrote a model file with the installed one.

    Args:
        path: the model file; formats without a version pass.
        framework: `spec.framework`.

    Raises:
        VersionMismatch: loading is not safe; says both versions and the way out.
    """
    if framework == "sklearn":
        saved = read_sklearn_versions(path)
        _compare("scikit-learn", path, saved, oldest_minors=_OLDEST_MINORS)
    elif framework in ("keras", "tensorflow") and path.suffix == ".keras":
        saved = read_keras_version(path)
        _compare("keras", path, saved, oldest_minors=None)


def read_sklearn_versions(path: Path) -> set[str]:
    """Return the scikit-learn versions that a pickle, joblib or skops file names; empty when it names none."""
    if path.suffix == ".skops" or zipfile.is_zipfile(path):
        return _read_skops(path)
    collector = _Collector()
    try:
        _collect(path, collector)
    except (MalformedError, ScorerError, OSError, EOFError, ValueError, RecursionError) as err:
        # What cannot be followed is refused by the scan, or was declared to be trusted.
        log.debug("version search ended early: %s", err)
    return collector.versions


def read_keras_version(path: Path) -> set[str]:
    """Return the Keras version that a `.keras` file names; empty when it names none."""
    metadata = _read_zip_json(path, "metadata.json")
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return {version} if isinstance(version, str) else set()


class _Collector:
    """A judge that refuses nothing and notes versions."""

    def __init__(self) -> None:
        self.versions: set[str] = set()

    def see_import(self, target: Import) -> None:
        """Do nothing."""

    def see_call(self, function: Import, arguments: tuple[Any, ...] | None, *, new: bool) -> None:
        """Do nothing."""

    def see_state(self, built: Built) -> None:
        """Do nothing."""

    def see_item(self, key: str, value: str) -> None:
        """Note a version."""
        if key == _SKLEARN_KEY and len(self.versions) < 100:
            self.versions.add(value)

    def see_persistent(self, identifier: Any) -> None:
        """Do nothing."""

    def see_extension(self) -> None:
        """Do nothing."""


def _collect(path: Path, collector: _Collector) -> None:
    with io.BufferedReader(io.FileIO(path), 1 << 18) as file:
        head = file.peek(8)[:8]
        stream = open_pickle_stream(file, head, path)
        PickleMachine(stream, collector, JoblibArrays(collector, path)).run()


def _read_skops(path: Path) -> set[str]:
    found: set[str] = set()
    pending: list[Any] = [_read_zip_json(path, "schema.json")]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            value = node.get(_SKLEARN_KEY)
            if isinstance(value, dict) and isinstance(value.get("content"), str):
                # skops stores a string as JSON text: "\"1.7.2\"".
                found.add(value["content"].strip('"'))
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return found


def _read_zip_json(path: Path, name: str) -> Any:
    try:
        with zipfile.ZipFile(path) as zipped, zipped.open(name) as file:
            text = file.read(_MAX_JSON_BYTES + 1)
            return json.loads(text) if len(text) <= _MAX_JSON_BYTES else None
    except KeyError:
        return None
    except (zipfile.BadZipFile, OSError, ValueError, RecursionError, NotImplementedError) as err:
        raise LoadFailed(
            f"{path.name} is no {path.suffix} file: {err}.",
            hint="Check that the right file was uploaded, and to its end.",
        ) from err


def _compare(library: str, path: Path, saved: set[str], *, oldest_minors: int | None) -> None:
    try:
        installed = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return  # loading says what is missing
    here = parse_version(installed)
    for version in sorted(saved):
        there = parse_version(version)
        if here is None or there is None or there == here:
            continue
        newer = there > here
        too_old = there[0] != here[0] or (
            oldest_minors is not None and here[1] - there[1] > oldest_minors
        )
        if newer or too_old:
            raise VersionMismatch(
                f"{path.name} was saved with {library} {version}, this image has {library} {installed}, "
                f"which {'does not know files of later versions' if newer else 'cannot be trusted to read files that old'}.",
                hint=f"Set spec.image to an image with {library} {there[0]}.{there[1]}, or load the model with "
                f"{library} {version}, train or convert it, and save it again with {here[0]}.{here[1]}.",
            )
        log.warning(
            "the model was saved by an older version",
            extra={"library": library, "saved": version, "installed": installed},
        )


def parse_version(version: str) -> tuple[int, int] | None:
    """Return major and minor number, None for what is no version."""
    match = _VERSION.fullmatch(version)
    return (int(match[1]), int(match[2])) if match else None
