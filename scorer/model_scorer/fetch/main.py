"""The course of a fetch: parse, fetch beside, verify, unpack, publish; on any failure leave nothing behind."""

import functools
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from model_scorer.errors import DiskFull, InvalidSpec, ModelNotFound
from model_scorer.fetch.cache import DigestCache
from model_scorer.fetch.fetched import Download
from model_scorer.fetch.local_source import copy_from_disk
from model_scorer.fetch.location import Location, archive_suffix, parse_uri
from model_scorer.fetch.options import FetchOptions
from model_scorer.fetch.progress import MIB, Progress, served
from model_scorer.fetch.requirements import PackageInstaller
from model_scorer.fetch.sink import translate_write_error
from model_scorer.fetch.staging import Staging
from model_scorer.fetch.unpack import unpack_archive
from model_scorer.fetch.web_source import fetch_from_web
from model_scorer.settings import Settings
from model_scorer.verify.signature import (
    SIGNATURE_SUFFIX,
    no_file_signature,
    verify_file_signature,
    verify_signature,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetch that ended well.

    Attributes:
        message: one sentence for people.
        digest: `sha256:` and the hexadecimal digest of the file, archive or folder at the model URI.
        size_bytes: what was fetched; an archive counts as packed.
        files: files in the model folder.
    """

    message: str
    digest: str
    size_bytes: int
    files: int


def fetch_model(
    settings: Settings, options: FetchOptions | None = None, *, tell_progress: bool = False
) -> Fetched:
    """Fill `settings.model_dir` with the model behind `settings.model_uri`, or leave it empty.

    Args:
        settings: `model_uri`, `model_sha256` and `model_dir` are used; `address` and `probe_port` for the progress.
        options: everything else; from the process's environment by default.
        tell_progress: answer `GET /progress` on the probe port meanwhile.

    Raises:
        ScorerError: with the reason; nothing of the model is left on the disk then.
    """
    options = options or FetchOptions.from_env(os.environ)
    location = parse_uri(settings.model_uri)
    _refuse_overlap(location, settings.model_dir)
    log.info("fetching", extra={"uri": location.display, "kind": location.kind})
    progress = Progress(location.display, size_limit=options.size_limit)
    with ExitStack() as stack:
        stack.enter_context(_terminated_by_signal())
        if tell_progress:
            stack.enter_context(served(progress, settings.address, settings.probe_port))
        staging = Staging(settings.model_dir)
        try:
            return _fill(staging, location, settings.model_sha256, options, progress)
        except OSError as err:
            staging.discard()
            translated = translate_write_error(err, settings.model_dir)
            if isinstance(translated, DiskFull):
                raise translated from err
            raise
        except BaseException:
            staging.discard()
            raise


def _fill(
    staging: Staging, location: Location, sha256: str, options: FetchOptions, progress: Progress
) -> Fetched:
    expected = sha256 or options.pinned_sha256
    raw = staging.folder / "raw"
    raw.mkdir()
    download = Download(raw, single=True)
    # Asked once, so that a signature is of the same commit or version as its model.
    where = functools.cache(functools.partial(_resolve, location, options))
    cache = DigestCache(options.cache_dir) if options.cache_dir else None
    cached = cache is not None and bool(expected) and cache.copy_to(expected, download, progress)
    if not cached:
        _fetch_into(*where(), download, progress)
        download.verify(expected, location.display, pinned=not sha256)
        if cache is not None:
            cache.keep(download)
    name = next(iter(download.digests))
    publish = raw
    if download.single and archive_suffix(name):
        publish = staging.folder / "unpacked"
        publish.mkdir()

        def check_fits(size: int) -> None:
            # The kubelet counts the archive, too, which goes only when all of it is unpacked.
            progress.check_fits(download.size_bytes + size, "The archive, packed and unpacked,")

        unpack_archive(
            raw / name, publish, options.unpack, display=location.display, check_fits=check_fits
        )
        (raw / name).unlink()
        publish = _open_only_folder(publish)
    if options.signature_key is not None:
        if publish is raw and download.single:
            _verify_single(raw / name, staging, *where(), progress)
        else:
            verify_signature(publish, options.signature_key, display=location.display)
    files = sum(len(names) for _, _, names in os.walk(publish))
    packages = PackageInstaller(
        options.environ, allowed=options.install_requirements, cache_dir=options.cache_dir
    ).provide(publish)
    if packages and options.size_limit:
        progress.check_fits(_folder_bytes(publish), "The model with its packages")
    message = (
        f"Fetched {location.display}: {download.size_bytes / MIB:.1f} MiB, {files} file{'s' if files != 1 else ''}"
        f"{', from the cache' if cached else ''}"
        f"{f'; installed {len(packages)} packages' if packages else ''}."
    )
    digest = f"sha256:{download.digest}"
    record: dict[str, Any] = {
        "uri": location.display,
        "digest": digest,
        "bytes": download.size_bytes,
        "files": files,
    }
    if packages:
        record["packages"] = packages
    staging.publish(record, source=publish)
    progress.tell("fetched")
    return Fetched(message, digest, download.size_bytes, files)


def _verify_single(
    file: Path, staging: Staging, location: Location, options: FetchOptions, progress: Progress
) -> None:
    """Fetch the signature that lies beside a single file, and compare the file with it."""
    assert options.signature_key is not None
    folder = staging.folder / "signature"
    folder.mkdir()
    beside = Download(folder, single=True)
    try:
        _fetch_into(location.beside(SIGNATURE_SUFFIX), options, beside, progress)
    except ModelNotFound as err:
        raise no_file_signature(location.display) from err
    signature = folder / next(iter(beside.digests))
    verify_file_signature(file, signature, options.signature_key, display=location.display)


def _folder_bytes(folder: Path) -> int:
    paths = (Path(current) / name for current, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths)


def _fetch_into(
    location: Location, options: FetchOptions, download: Download, progress: Progress
) -> None:
    """Let the source that knows the location's kind fill the download.

    Args:
        location: as `_resolve` returned it.
        options: the same.
        download: empty.
        progress: told of each byte.
    """
    max_files = options.transfer.max_files
    if location.kind == "http":
        fetch_from_web(location, download, options, progress)
    elif location.kind == "file":
        copy_from_disk(
            Path(location.target), location.display, download, progress, max_files=max_files
        )
    elif location.kind in ("pvc", "oci"):
        copy_from_disk(
            _mounted(location, options), location.display, download, progress, max_files=max_files
        )
    elif location.kind == "mlflow":
        from model_scorer.fetch.mlflow_source import fetch_from_mlflow

        fetch_from_mlflow(location, download, options, progress)
    else:
        # Its client libraries are heavy, and few pods need them.
        from model_scorer.fetch.object_source import fetch_objects

        fetch_objects(location, download, options, progress)


def _resolve(location: Location, options: FetchOptions) -> tuple[Location, FetchOptions]:
    """Ask the services that know where a model lies at the moment; most locations say it themselves."""
    if location.kind == "azureml":
        from model_scorer.fetch.azure_ml import resolve_azureml

        return resolve_azureml(location, options)
    if location.kind == "hf":
        from model_scorer.fetch.hugging_face import resolve_hf

        return resolve_hf(location, options), options
    return location, options


def _mounted(location: Location, options: FetchOptions) -> Path:
    """Return the path on the volume that the operator mounted for a `pvc:` or `oci:` URI."""
    source = options.source_dir
    if not source.is_dir():
        what = "claim" if location.kind == "pvc" else "image"
        raise InvalidSpec(
            f"{location.display} needs the {what} as a volume, and none is mounted at {source}.",
            hint="The operator mounts it; an oci: URI needs a cluster with image volumes (Kubernetes 1.36, or 1.33 "
            "with the ImageVolume feature gate), elsewhere publish the model at another URI.",
        )
    if location.kind == "oci":
        return source
    return source / location.target.partition("/")[2]


def _open_only_folder(folder: Path) -> Path:
    """Return the folder that an archive has as its only entry (`tar czf faq.tgz faq/`), or the folder itself."""
    entries = list(os.scandir(folder))
    if len(entries) == 1 and entries[0].is_dir(follow_symlinks=False):
        return Path(entries[0].path)
    return folder


def _refuse_overlap(location: Location, model_dir: Path) -> None:
    if location.kind != "file":
        return
    source, target = Path(location.target).resolve(), model_dir.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise InvalidSpec(
            f"{location.display} and the model folder {model_dir} lie inside one another.",
            hint="Give SCORER_MODEL_DIR a folder of its own.",
        )


@contextmanager
def _terminated_by_signal() -> Iterator[None]:
    """Let SIGTERM end the fetch in the same way as an error does, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
