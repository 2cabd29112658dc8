"""Models in object stores, through fsspec: pieces of objects in parallel, straight to their place on the disk.

Works with anything that has fsspec's `info`, `find` and `cat_file`; what is particular to a store is in
`object_stores.py`. Memory is bounded by connections times piece size.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from model_scorer.errors import LoadFailed, ModelNotFound, ModelUnreachable
from model_scorer.fetch.fetched import Download
from model_scorer.fetch.location import Location
from model_scorer.fetch.object_stores import open_store
from model_scorer.fetch.options import FetchOptions
from model_scorer.fetch.paths import parse_relative_path
from model_scorer.fetch.progress import MIB, Progress
from model_scorer.fetch.retry import run_with_retries
from model_scorer.fetch.sink import FileSink, check_free_space
from model_scorer.fetch.store_errors import translate_store_error

T = TypeVar("T")

_PIECE_BYTES = 8 * MIB


@dataclass(slots=True)
class _Object:
    """One object on its way: its sink exists from its first piece to its last."""

    key: str
    path: str
    size: int
    version: str
    pieces_left: int
    sink: FileSink | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


def fetch_objects(
    location: Location, download: Download, options: FetchOptions, progress: Progress
) -> None:
    """Fetch an object, or all objects under a prefix, into `download.folder`.

    Raises:
        ScorerError: ModelNotFound, ModelForbidden, ModelUnreachable, DiskFull, MissingDependency, InvalidSpec, LoadFailed.
    """
    store = open_store(location, options.environ)
    transfer = _Transfer(store, location, download, options, progress)
    transfer.run(transfer.list_objects())


class _Transfer:
    def __init__(
        self,
        store: Any,
        location: Location,
        download: Download,
        options: FetchOptions,
        progress: Progress,
    ) -> None:
        self._store = store
        self._location = location
        self._download = download
        self._options = options
        self._progress = progress
        self._root = location.target
        # gcsfs tries six times by itself, and cannot be told not to: its patience would multiply with ours.
        self._retry = replace(options.retry, attempts=1) if location.kind == "gs" else options.retry

    def _ask(self, action: Callable[[], T], display: str) -> T:
        """Ask the store, with retries, and with its errors turned into ours."""

        def attempt() -> T:
            try:
                return action()
            except Exception as err:
                raise translate_store_error(err, display) from err

        return run_with_retries(attempt, self._retry)

    def list_objects(self) -> list[_Object]:
        """Return the objects of the model, and set whether it is a single one."""
        location, root = self._location, self._root
        # Credentials that authorise one object may not list: an object is asked for by its own name first.
        info = (
            None if location.folder else self._ask(lambda: self._store.info(root), location.display)
        )
        if info is not None and info.get("type") == "file":
            return [self._object(root, info, location.name)]
        self._download.single = False
        found = self._ask(lambda: self._store.find(root, detail=True), location.display)
        objects = []
        for key, entry in sorted(found.items()):
            relative = key.removeprefix(root).lstrip("/")
            # Stores without folders keep empty objects in their place.
            marker = not entry.get("size") and (key.endswith("/") or _is_folder_marker(entry))
            if not relative or marker or entry.get("type", "file") != "file":
                continue
            objects.append(self._object(key, entry, relative))
            if len(objects) > self._options.transfer.max_files:
                raise LoadFailed(
                    f"{location.display} has more than {self._options.transfer.max_files} files.",
                    hint="Name a narrower prefix, or pack the folder as an archive.",
                )
        if not objects:
            raise ModelNotFound(
                f"Nothing lies at {location.display}.",
                hint="Check spec.modelURI for spelling, case and version.",
            )
        total = sum(entry.size for entry in objects)
        self._progress.check_fits(total)
        check_free_space(self._download.folder, total)
        return objects

    def _object(self, key: str, info: dict[str, Any], relative: str) -> _Object:
        try:
            path = str(parse_relative_path(relative))
        except ValueError as err:
            raise LoadFailed(
                f"{self._location.display} has an object whose name {relative[:200]!r} {err}.",
                hint="Rename it.",
            ) from err
        size = info.get("size")
        if not isinstance(size, int):
            raise ModelUnreachable(
                f"{self._location.display} does not tell the size of {relative[:200]!r}.",
                hint="Check the store.",
            )
        return _Object(key, path, size, _version_of(info), max(1, -(-size // _PIECE_BYTES)))

    def run(self, objects: list[_Object]) -> None:
        """Fetch all objects, several pieces at a time."""
        pieces: queue.SimpleQueue[tuple[_Object, int]] = queue.SimpleQueue()
        for entry in objects:
            for start in range(0, max(entry.size, 1), _PIECE_BYTES):
                pieces.put((entry, start))
        failures: list[BaseException] = []
        stop = threading.Event()

        def work() -> None:
            try:
                while not stop.is_set():
                    self._fetch_piece(*pieces.get_nowait())
            except queue.Empty:
                pass
            except BaseException as err:
                failures.append(err)
                stop.set()

        count = min(self._options.transfer.connections, pieces.qsize())
        threads = [
            threading.Thread(target=work, name=f"object-{i}", daemon=True) for i in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            stop.set()
            for entry in objects:
                if entry.sink is not None:
                    entry.sink.close()
        if failures:
            raise failures[0]

    def _fetch_piece(self, entry: _Object, start: int) -> None:
        end = min(start + _PIECE_BYTES, entry.size)
        with entry.lock:
            if entry.sink is None:
                target = Path(self._download.folder, entry.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                entry.sink = FileSink(target, self._progress)
                entry.sink.expect(entry.size)
        if end > start:
            data = self._ask(lambda: self._read(entry, start, end), self._display(entry))
            entry.sink.write(data, start)
        with entry.lock:
            entry.pieces_left -= 1
            if entry.pieces_left:
                return
        if entry.size > _PIECE_BYTES:
            self._check_unchanged(entry)
        self._download.add(entry.path, entry.sink.finish(), entry.size)

    def _read(self, entry: _Object, start: int, end: int) -> bytes:
        data: bytes = self._store.cat_file(entry.key, start=start, end=end)
        if len(data) != end - start:
            raise ConnectionError(f"{len(data)} instead of {end - start} bytes")
        return data

    def _check_unchanged(self, entry: _Object) -> None:
        """Compare the object's version with that of its listing: its pieces were asked for one by one."""
        info = self._ask(lambda: self._store.info(entry.key), self._display(entry))
        if info.get("size") != entry.size or _version_of(info) != entry.version:
            raise ModelUnreachable(
                f"{self._display(entry)} changed while it was fetched.",
                hint="Publish each version of a model under a URI of its own.",
            )

    def _display(self, entry: _Object) -> str:
        if self._download.single:
            return self._location.display
        return f"{self._location.display.rstrip('/')}/{entry.path}"


def _version_of(info: dict[str, Any]) -> str:
    """Return what the store says about an object's version, empty when nothing."""
    for key in ("etag", "ETag", "generation", "blob_id"):
        if info.get(key):
            return str(info[key])
    return str(info.get("last_modified") or info.get("LastModified") or "")


def _is_folder_marker(info: dict[str, Any]) -> bool:
    metadata = info.get("metadata") or {}
    return isinstance(metadata, dict) and str(metadata.get("hdi_isfolder", "")).lower() == "true"
