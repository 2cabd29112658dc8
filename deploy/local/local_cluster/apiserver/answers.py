"""Answers: entries and lists of them in the form that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
import yaml
from aiohttp import web

from local_cluster.apiserver.conversion import from_storage
from local_cluster.apiserver.errors import ApiError
from local_cluster.apiserver.negotiation import JSON, YAML, Form
from local_cluster.apiserver.resources import Manifest, Resource
from local_cluster.apiserver.storage import Entry
from local_cluster.apiserver.tables import build_partial, build_table

_NO_CACHE = {"Cache-Control": "no-cache, private"}


def answer(
    body: bytes,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = JSON,
) -> web.Response:
    """Build an answer from its body."""
    return web.Response(
        body=body,
        status=status,
        headers={**_NO_CACHE, "Content-Type": content_type, **(headers or {})},
    )


def answer_object(obj: Manifest, form: Form, *, status: int = 200) -> web.Response:
    """Build an answer from a manifest that is no stored object."""
    return encode(orjson.dumps(obj), form, status)


def answer_error(error: ApiError) -> web.Response:
    """Build the answer to a request that failed."""
    return answer(orjson.dumps(error.status()), status=error.code, headers=error.headers)


def encode(
    body: bytes, form: Form, status: int = 200, warnings: Sequence[str] = ()
) -> web.Response:
    """Build an answer from JSON, in YAML where that was asked for."""
    content_type = JSON
    if form.media_type == YAML:
        body = yaml.safe_dump(orjson.loads(body), sort_keys=False).encode()
        content_type = YAML
    response = answer(body, status=status, content_type=content_type)
    for text in dict.fromkeys(warnings):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{escaped}"')
    return response


def entry_json(entry: Entry, resource: Resource) -> bytes:
    """Give an entry as JSON in the version of `resource`."""
    if resource.api_version == entry.obj.get("apiVersion"):
        return entry.json
    return orjson.dumps(from_storage(entry.obj, resource))


def answer_entry(
    entry: Entry,
    resource: Resource,
    form: Form,
    *,
    status: int = 200,
    include: str = "",
    warnings: Sequence[str] = (),
) -> web.Response:
    """Build the answer that shows one object.

    Args:
        entry: the stored object.
        resource: its type, in the version to show.
        form: plain, table or metadata only.
        status: HTTP status.
        include: the query's ``includeObject``.
        warnings: texts for ``Warning`` headers.
    """
    if form.transform == "Table":
        obj = from_storage(entry.obj, resource)
        metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
        table = build_table([obj], resource, metadata, include=include, version=form.version)
        return encode(orjson.dumps(table), form, status, warnings)
    if form.transform == "PartialObjectMetadata":
        body = orjson.dumps(build_partial(entry.obj, form.version))
        return encode(body, form, status, warnings)
    return encode(entry_json(entry, resource), form, status, warnings)


def answer_list(
    entries: Sequence[Entry], resource: Resource, form: Form, metadata: Manifest, include: str
) -> web.Response:
    """Build the answer to a list.

    Args:
        entries: of this page, in order.
        resource: their type, in the version to show.
        form: plain, table or metadata only.
        metadata: of the list.
        include: the query's ``includeObject``.
    """
    if form.transform == "Table":
        objs = [from_storage(entry.obj, resource) for entry in entries]
        table = build_table(objs, resource, metadata, include=include, version=form.version)
        return encode(orjson.dumps(table), form)
    if form.transform:
        items = [build_partial(entry.obj, form.version) for entry in entries]
        partial = {
            "kind": "PartialObjectMetadataList",
            "apiVersion": form.version,
            "metadata": metadata,
        }
        return encode(orjson.dumps({**partial, "items": items}), form)
    return encode(list_json(entries, resource, metadata), form)


def list_json(entries: Sequence[Entry], resource: Resource, metadata: Manifest) -> bytes:
    """Give a plain list as JSON, put together from the JSON of its items."""
    if resource.crd is not None:
        metadata = {"continue": "", **metadata}  # lists of custom resources always have it
        items = [entry_json(entry, resource) for entry in entries]
    elif resource.api_version == resource.storage_api_version:
        items = [entry.item_json for entry in entries]
    else:
        items = [Entry(from_storage(entry.obj, resource), 0).item_json for entry in entries]
    head = {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": metadata}
    return orjson.dumps(head)[:-1] + b',"items":[' + b",".join(items) + b"]}"
