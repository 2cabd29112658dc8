"""One file over HTTP: resumed where it broke off, in parallel ranges when it is large, the same bytes throughout.

A resumed or parallel download asks for ranges of one version of the file (If-Range with its ETag or date, RFC 9110
section 13.1.5); when the server has another one by then, everything begins anew.
"""

import email.utils
import http.client
import queue
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message

from model_scorer.errors import ModelForbidden, ModelNotFound, ModelUnreachable
from model_scorer.fetch.location import redact_uri
from model_scorer.fetch.options import FetchOptions
from model_scorer.fetch.retry import TransientError, run_with_retries
from model_scorer.fetch.sink import FileSink
from model_scorer.fetch.web_session import WebSession, describe_error

_BUFFER_BYTES = 1 << 18
# An attempt that brought this much counts as progress, and sets the count of failures back.
_PROGRESS_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class WebDownload:
    """The download of one URL into a sink.

    Args:
        url: absolute http(s) URL.
        sink: empty; holds the whole file after `run`.
        session: of the calling thread.
        options: patience, ranges, network.
    """

    def __init__(
        self, url: str, sink: FileSink, session: WebSession, options: FetchOptions
    ) -> None:
        self._url = url
        self._display = redact_uri(url)
        self._sink = sink
        self._session = session
        self._options = options
        self._validator = ""
        self._total: int | None = None

    def run(self) -> None:
        """Fetch the file.

        Raises:
            ModelNotFound: 404 or 410.
            ModelForbidden: 401, 403 or 407, or a redirect that is not followed.
            ModelUnreachable: no or no complete answer after all retries.
            DiskFull: the file does not fit.
        """
        run_with_retries(self._attempt, self._options.retry)

    def _attempt(self) -> None:
        sink = self._sink
        if sink.size and not self._validator:
            sink.restart()
        sink.drop_beyond_gap()
        offset = sink.size
        if offset and offset == self._total:
            return
        response: http.client.HTTPResponse | None = None
        try:
            response = self._session.get(self._url, self._range_headers(offset, None))
            check_status(response, self._display)
            if offset and response.status == 206:
                self._check_range(response, offset)
            elif response.status == 206:
                raise TransientError(
                    ModelUnreachable(
                        f"{self._display} answered with a part of the file that was not asked for.",
                        hint="Check the server, and caches between.",
                    )
                )
            else:
                if offset:
                    sink.restart()
                offset = 0
                self._total = None if response.chunked else response.length
                self._validator = _validator_of(response)
            if self._total is not None:
                sink.expect(self._total)
            if self._wants_pieces(response, offset):
                self._fetch_pieces(response, offset)
            else:
                self._read_body(response, _Cursor(offset), self._total)
        except _ChangedError as err:
            self._session.close()
            self._validator = ""  # the next attempt begins at 0
            raise TransientError(
                ModelUnreachable(
                    f"{self._display} changed while it was fetched.",
                    hint="Publish each version of a model under a URI of its own.",
                )
            ) from err
        except BaseException:
            self._session.close()
            if response is not None:
                # It keeps the socket of a connection that ends with it.
                response.close()
            raise

    def _range_headers(self, start: int, end: int | None) -> dict[str, str]:
        if start == 0 and end is None:
            return {}
        last = "" if end is None else str(end - 1)
        return {"Range": f"bytes={start}-{last}", "If-Range": self._validator}

    def _check_range(self, response: http.client.HTTPResponse, start: int) -> None:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        total = None if match is None or match[3] == "*" else int(match[3])
        if (
            match is None
            or int(match[1]) != start
            or (self._total is not None and total != self._total)
        ):
            raise _ChangedError

    def _read_body(
        self, response: http.client.HTTPResponse, cursor: "_Cursor", end: int | None
    ) -> None:
        """Write the response's body from the cursor on, up to `end` when it is known; the cursor moves along."""
        transfer = self._options.transfer
        start = cursor.offset
        window_begins, window_offset = time.monotonic(), start
        try:
            while end is None or cursor.offset < end:
                wanted = _BUFFER_BYTES if end is None else min(_BUFFER_BYTES, end - cursor.offset)
                # One receive per call: a slow body is seen being slow, and what came before a cut is on the disk.
                data = response.read1(wanted)
                if not data:
                    break
                self._sink.write(data, cursor.offset)
                cursor.offset += len(data)
                now = time.monotonic()
                if now - window_begins >= transfer.slow_window_seconds:
                    if cursor.offset - window_offset < transfer.slow_window_bytes:
                        raise TimeoutError
                    window_begins, window_offset = now, cursor.offset
            cause = "the connection was closed"
        except (OSError, http.client.HTTPException) as err:
            cause = describe_error(err)
        else:
            if end is None or cursor.offset == end:
                response.close()
                return
        raise TransientError(
            ModelUnreachable(
                f"{self._display} broke off at byte {cursor.offset} of {end if end is not None else 'an unknown number'}: "
                f"{cause}.",
                hint="Check the server, proxies between, and whether the file there is as long as it should be.",
            ),
            progress=cursor.offset - start >= _PROGRESS_BYTES,
        )

    # Parallel ranges.

    def _wants_pieces(self, response: http.client.HTTPResponse, offset: int) -> bool:
        transfer = self._options.transfer
        return (
            transfer.connections > 1
            and self._total is not None
            and self._total - offset >= transfer.parallel_threshold_bytes
            and bool(self._validator)
            and (
                response.status == 206
                or response.headers.get("Accept-Ranges", "").strip() == "bytes"
            )
        )

    def _fetch_pieces(self, response: http.client.HTTPResponse, offset: int) -> None:
        """Fetch the rest of the file in ranges, in this thread and some more."""
        assert self._total is not None
        transfer = self._options.transfer
        starts = range(offset, self._total, transfer.piece_bytes)
        pieces: queue.SimpleQueue[tuple[_Cursor, int]] = queue.SimpleQueue()
        for start in starts[1:]:
            pieces.put((_Cursor(start), min(start + transfer.piece_bytes, self._total)))
        failures: list[BaseException] = []
        stop = threading.Event()

        def work(session: WebSession) -> None:
            try:
                while not stop.is_set():
                    self._fetch_piece(session, *pieces.get_nowait())
            except queue.Empty:
                pass
            except BaseException as err:
                failures.append(err)
                stop.set()
            finally:
                session.close()

        threads = [
            threading.Thread(
                target=work,
                args=(WebSession(self._url, self._options.web),),
                name=f"range-{i}",
                daemon=True,
            )
            for i in range(1, min(transfer.connections, len(starts)))
        ]
        for thread in threads:
            thread.start()
        try:
            # The answer that is there already brings the first piece, in this thread.
            first, first_end = _Cursor(offset), min(offset + transfer.piece_bytes, self._total)
            try:
                self._read_body(response, first, first_end)
                self._session.close()
            except TransientError:
                self._session.close()
                self._fetch_piece(self._session, first, first_end)
            work(self._session)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]

    def _fetch_piece(self, session: WebSession, cursor: "_Cursor", end: int) -> None:
        """Fetch the bytes from the cursor to `end`, with retries of its own."""

        def attempt() -> None:
            try:
                response = session.get(self._url, self._range_headers(cursor.offset, end))
                check_status(response, self._display)
                if response.status != 206:
                    raise _ChangedError
                self._check_range(response, cursor.offset)
                self._read_body(response, cursor, end)
            except BaseException:
                session.close()
                raise

        run_with_retries(attempt, self._options.retry)


class _ChangedError(Exception):
    """The server has another version of the file by now."""


@dataclass(slots=True)
class _Cursor:
    offset: int


def check_status(response: http.client.HTTPResponse, display: str) -> None:
    """Turn a status that is no success into its reason.

    Raises:
        ModelNotFound: 404, 410.
        ModelForbidden: 401, 403, 407.
        TransientError: 408, 425, 429 and 5xx, with what Retry-After asks for.
        ModelUnreachable: anything else that is not 200 or 206.
    """
    status = response.status
    if status in (200, 206):
        return
    said = f"{display} answered {status} {response.reason}".rstrip()
    response.close()
    if status in (404, 410):
        raise ModelNotFound(
            f"Nothing lies at the model URI: {said}.",
            hint="Check spec.modelURI for spelling, case and version.",
        )
    if status in (401, 403, 407):
        raise ModelForbidden(
            f"Access to the model was refused: {said}.",
            hint="Name a Secret with HTTP_BEARER_TOKEN, or HTTP_USERNAME and HTTP_PASSWORD, in "
            "spec.storage.secretName, and check that its owner may read the file.",
        )
    if status == 416:
        raise TransientError(
            ModelUnreachable(
                f"{said} (the file became shorter while it was fetched).",
                hint="Publish each version of a model under a URI of its own.",
            )
        )
    error = ModelUnreachable(
        f"{said}.", hint="Check the server; the fetch is repeated with the pod."
    )
    if status in (408, 425, 429) or status >= 500:
        raise TransientError(error, retry_after_seconds=parse_retry_after(response.headers))
    raise error


def parse_retry_after(headers: Mapping[str, str] | Message) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3), None when there is none."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _validator_of(response: http.client.HTTPResponse) -> str:
    etag = (response.headers.get("ETag") or "").strip()
    if etag and not etag.startswith("W/"):
        return etag
    return (response.headers.get("Last-Modified") or "").strip()
