"""Models on web servers: a file, an archive, or a folder with a listing."""

import http.client
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from model_scorer.errors import LoadFailed, ModelNotFound, ModelUnreachable
from model_scorer.fetch.fetched import Download, mismatch_in_listing
from model_scorer.fetch.location import Location, redact_uri
from model_scorer.fetch.manifest import LISTING_NAMES, MAX_LISTING_BYTES, ListedFile, parse_listing
from model_scorer.fetch.options import FetchOptions
from model_scorer.fetch.paths import parse_relative_path
from model_scorer.fetch.progress import Progress
from model_scorer.fetch.retry import TransientError, run_with_retries
from model_scorer.fetch.sink import FileSink
from model_scorer.fetch.web_download import WebDownload, check_status
from model_scorer.fetch.web_session import WebSession, describe_error


def fetch_from_web(
    location: Location, download: Download, options: FetchOptions, progress: Progress
) -> None:
    """Fetch what an http(s) URL names into `download.folder`.

    Raises:
        ScorerError: ModelNotFound, ModelForbidden, ModelUnreachable, DigestMismatch (against a listing), DiskFull,
            LoadFailed (a broken listing).
    """
    with WebSession(location.target, options.web) as session:
        if location.folder or location.name in LISTING_NAMES:
            listing_url, files = _fetch_listing(location, session, options)
            download.single = False
            _fetch_files(listing_url, files, location, download, options, progress)
        else:
            _fetch_file(
                location.target,
                ListedFile(path_of(location)),
                location,
                download,
                session,
                options,
                progress,
            )


def path_of(location: Location) -> PurePosixPath:
    """Return the name of a single file in the model folder.

    Raises:
        LoadFailed: the URL's last segment is no file name.
    """
    try:
        return parse_relative_path(location.name)
    except ValueError as err:
        raise LoadFailed(
            f"The last part of {location.display} {err}.",
            hint="Publish the model under a plain file name.",
        ) from err


def _fetch_file(
    url: str,
    file: ListedFile,
    location: Location,
    download: Download,
    session: WebSession,
    options: FetchOptions,
    progress: Progress,
) -> None:
    path = download.folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    sink = FileSink(path, progress)
    try:
        WebDownload(url, sink, session, options).run()
        size, digest = sink.size, sink.finish()
    finally:
        sink.close()
    name = str(file.path)
    if file.size_bytes is not None and size != file.size_bytes:
        raise mismatch_in_listing(name, f"{size} bytes", f"{file.size_bytes}", location.display)
    if file.sha256 and digest != file.sha256:
        raise mismatch_in_listing(name, f"the SHA-256 {digest}", file.sha256, location.display)
    download.add(name, digest, size)


def _fetch_files(
    listing_url: str,
    files: list[ListedFile],
    location: Location,
    download: Download,
    options: FetchOptions,
    progress: Progress,
) -> None:
    lanes = min(options.transfer.connections, len(files))

    def run_lane(lane: int) -> None:
        with WebSession(location.target, options.web) as session:
            for file in files[lane::lanes]:
                if stop:
                    return
                try:
                    url = urljoin(listing_url, quote(str(file.path)))
                    _fetch_file(url, file, location, download, session, options, progress)
                except BaseException:
                    stop.append(True)
                    raise

    stop: list[bool] = []
    with ThreadPoolExecutor(lanes, thread_name_prefix="file") as pool:
        for future in [pool.submit(run_lane, lane) for lane in range(lanes)]:
            future.result()


def _fetch_listing(
    location: Location, session: WebSession, options: FetchOptions
) -> tuple[str, list[ListedFile]]:
    """Return the URL of a folder's listing, and what it lists."""
    parts = urlsplit(location.target)
    if location.name in LISTING_NAMES and not location.folder:
        urls = [location.target]
    else:
        base = parts.path if parts.path.endswith("/") else parts.path + "/"
        urls = [urlunsplit(parts._replace(path=base + name)) for name in LISTING_NAMES]
    for url in urls:
        try:
            content = run_with_retries(partial(_read_listing, url, session), options.retry)
        except ModelNotFound:
            continue
        name = urlsplit(url).path.rpartition("/")[2]
        return url, parse_listing(name, content, max_files=options.transfer.max_files)
    raise ModelNotFound(
        f"{location.display} names a folder, and there is no listing in it ({' or '.join(LISTING_NAMES)}).",
        hint="Name a file or an archive; or write a listing: "
        "find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS",
    )


def _read_listing(url: str, session: WebSession) -> bytes:
    response = session.get(url, {})
    try:
        check_status(response, redact_uri(url))
        content = response.read(MAX_LISTING_BYTES + 1)
        if response.length:
            raise http.client.IncompleteRead(content, response.length)
    except (OSError, http.client.HTTPException) as err:
        raise TransientError(
            ModelUnreachable(
                f"{redact_uri(url)} broke off: {describe_error(err)}.",
                hint="Check the server and the network between.",
            )
        ) from err
    finally:
        if not response.isclosed():
            session.close()
    if len(content) > MAX_LISTING_BYTES:
        raise LoadFailed(
            f"The listing {redact_uri(url)} is larger than {MAX_LISTING_BYTES >> 20} MiB.",
            hint="Pack the folder as an archive.",
        )
    return content
