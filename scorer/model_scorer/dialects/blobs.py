"""Files in requests: raw bodies with their own content type, forms, and base64 inside JSON in all forms that clients send."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

from tornado.httputil import HTTPInputError, parse_multipart_form_data

from model_scorer.dialects.protocol import JSON, HttpRequest, Target, refuse_encoding
from model_scorer.errors import BadRequest, RequestError, UnsupportedMedia
from model_scorer.json_text import decode_json
from model_scorer.runtimes.files import find_file, find_key
from model_scorer.runtimes.protocol import Blob, BlobsInput

_FORM = "multipart/form-data"
# What clients send that do not know the type; the runtime looks at the bytes anyway.
_UNKNOWN = "application/octet-stream"
_BOUNDARY = re.compile(r";\s*boundary=(?:\"([^\"]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)


def takes_media(media: str, target: Target) -> bool:
    """Whether the runtime decodes bodies of this content type itself."""
    if not media or not target.info.media:
        return False
    return media == _UNKNOWN or any(fnmatchcase(media, pattern) for pattern in target.info.media)


def blobs_from_body(request: HttpRequest, target: Target) -> BlobsInput | None:
    """The body as one file, or as the files of a form, when the runtime takes files and the body is declared as one.

    Raises:
        BadRequest: the body is empty, or a form that is broken or has no files.
        UnsupportedMedia: the runtime takes files, and the body is neither one nor JSON.
    """
    if not target.info.media:
        return None
    media = request.media_type()
    if media in (JSON, "", "text/json") or media.endswith("+json"):
        return None
    refuse_encoding(request)
    if media == _FORM:
        return BlobsInput(_parse_form(request))
    if not takes_media(media, target):
        raise UnsupportedMedia(
            f"content type {media[:100]!r} is not supported; send {', '.join(target.info.media)}, {_FORM} or {JSON}"
        )
    if not request.body:
        raise BadRequest(f"the body is empty; expected {media}")
    return BlobsInput([Blob(request.body, media)])


def _parse_form(request: HttpRequest) -> list[Blob]:
    """The files of a form in their order, and fields without a file name behind them."""
    found = _BOUNDARY.search(request.header(b"content-type"))
    if found is None:
        raise BadRequest(f"{_FORM} needs a boundary in its content type")
    fields: dict[str, list[bytes]] = {}
    files: dict[str, list[Any]] = {}
    boundary = (found[1] or found[2]).encode("latin-1")
    if request.body and not request.body.rstrip().endswith(b"--" + boundary + b"--"):
        raise BadRequest("the form is cut off: its last boundary is missing")
    try:
        parse_multipart_form_data(boundary, request.body, fields, files)
    except (HTTPInputError, ValueError, LookupError) as err:
        raise BadRequest(f"the form cannot be read: {err}") from None
    blobs = [
        Blob(file.body, file.content_type, name) for name, items in files.items() for file in items
    ]
    blobs += [Blob(value, "", name) for name, values in fields.items() for value in values]
    if not blobs:
        raise BadRequest("the form has no image or other file")
    return blobs


def is_object_text(value: Any) -> bool:
    """Whether a text is a JSON object instead of base64, as one of the reference servers wants it."""
    return isinstance(value, str) and value.lstrip().startswith("{")


def blobs_from_json(value: Any) -> BlobsInput | None:
    """Files in a JSON value: a base64 text, `{"b64": text}`, an object of them by key, or a list of any but the last.

    A file that cannot be read is a blob with an error, so that the others get their answers.

    Returns:
        None when the value is something else (rows of numbers).

    Raises:
        BadRequest: an empty object, or a text that should be one and is not.
    """
    if is_object_text(value):
        value = decode_json(value.encode("utf-8", "replace"))
    if isinstance(value, dict) and "b64" not in value:
        if not value:
            raise BadRequest("expected a file in base64, got an empty object")
        return BlobsInput([_read_blob(item, str(key)) for key, item in value.items()])
    items = value if isinstance(value, list) else [value]
    if not any(isinstance(item, str | dict) for item in items):
        return None
    return BlobsInput([_read_blob(item) for item in items])


def _read_blob(item: Any, key: str = "") -> Blob:
    try:
        if isinstance(item, dict) and not key and "b64" not in item:
            found = find_key(item)
            return Blob(find_file(item[found]), "", str(found))
        return Blob(find_file(item), "", key)
    except RequestError as err:
        return Blob(b"", "", key, err)
