"""Models of an MLflow registry or run (`models:/NAME/VERSION`, `runs:/RUN/PATH`), through MLflow's own client.

What an alias or stage points to is asked once; the files are listed, their sizes are compared with the free space, and each
goes through MLflow's client straight to the disk.
"""

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from model_scorer.errors import LoadFailed, MissingDependency, ModelNotFound
from model_scorer.fetch.digest import compute_file_digest
from model_scorer.fetch.fetched import Download
from model_scorer.fetch.location import Location
from model_scorer.fetch.options import FetchOptions
from model_scorer.fetch.paths import parse_relative_path
from model_scorer.fetch.progress import Progress
from model_scorer.fetch.retry import run_with_retries
from model_scorer.fetch.sink import check_free_space
from model_scorer.fetch.store_errors import translate_store_error

T = TypeVar("T")


def fetch_from_mlflow(
    location: Location, download: Download, options: FetchOptions, progress: Progress
) -> None:
    """Fetch a registered model or a run's artifacts into `download.folder`.

    The registry's address and credentials are MLflow's own variables (`MLFLOW_TRACKING_URI`, …).

    Raises:
        ScorerError: MissingDependency, ModelNotFound, ModelForbidden, ModelUnreachable, DiskFull, LoadFailed.
    """
    # MLflow's own patience (7 tries, 4 minutes) would multiply with ours.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        registry = importlib.import_module("mlflow.store.artifact.artifact_repository_registry")
    except ImportError as err:
        raise MissingDependency(
            f"{location.display} needs the Python module {err.name or 'mlflow'}, which this image has not.",
            hint="Use a scorer image with mlflow-skinny (spec.image), or name the storage behind the registry.",
        ) from err

    def ask(action: Callable[[], T]) -> T:
        def attempt() -> T:
            try:
                return action()
            except Exception as err:
                raise translate_store_error(err, location.display) from err

        return run_with_retries(attempt, options.retry)

    root, inside = _split(location.target)
    repository: Any = ask(lambda: registry.get_artifact_repository(root))
    files = ask(lambda: list(_walk(repository, inside)))
    if not files:
        raise ModelNotFound(
            f"{location.display} holds no files.",
            hint="Check spec.modelURI for spelling, case and version.",
        )
    if len(files) > options.transfer.max_files:
        raise LoadFailed(
            f"{location.display} has more than {options.transfer.max_files} files.",
            hint="Pack the folder as an archive.",
        )
    total = sum(size for _, size in files)
    progress.expect(total)
    check_free_space(download.folder, total)
    download.single = False
    aside = download.folder.with_name(f".{download.folder.name}.mlflow")

    def fetch(number: int, path: str, size: int) -> None:
        name = path.removeprefix(inside).lstrip("/")
        try:
            target = download.folder / parse_relative_path(name)
        except ValueError as err:
            raise LoadFailed(
                f"{location.display} holds a file whose name {name[:200]!r} {err}.",
                hint="Rename it.",
            ) from err
        # Its client decides where below the folder a file goes.
        folder = aside / str(number)
        folder.mkdir(parents=True)
        got = Path(ask(lambda: repository.download_artifacts(path, str(folder))))
        target.parent.mkdir(parents=True, exist_ok=True)
        got.rename(target)
        download.add(name, compute_file_digest(target), target.stat().st_size)
        progress.add(size)

    try:
        with ThreadPoolExecutor(options.transfer.connections, "artifact") as pool:
            futures = [pool.submit(fetch, n, *file) for n, file in enumerate(files)]
            try:
                for future in futures:
                    future.result()
            finally:
                for future in futures:
                    future.cancel()
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _split(uri: str) -> tuple[str, str]:
    """Split a `models:` URI with a path behind the version into the model's and the path; leave `runs:` alone."""
    scheme, _, path = uri.partition(":/")
    parts = path.strip("/").split("/")
    own = 1 if "@" in parts[0] else 2
    if scheme != "models" or len(parts) <= own:
        return uri, ""
    return f"models:/{'/'.join(parts[:own])}", "/".join(parts[own:])


def _walk(repository: Any, path: str) -> Iterator[tuple[str, int]]:
    """Yield path and size of every file below a folder of a repository."""
    for entry in repository.list_artifacts(path or None):
        if entry.is_dir:
            yield from _walk(repository, entry.path)
        else:
            yield entry.path, int(entry.file_size or 0)
