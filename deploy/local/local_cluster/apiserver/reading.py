"""Reads: get, list with selectors and pages, and watches as streams of events."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable

import orjson
from aiohttp import web

from local_cluster.apiserver.answers import answer_entry, answer_list, entry_json
from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.conversion import from_storage
from local_cluster.apiserver.errors import ApiError, bad_request, expired, invalid, too_new
from local_cluster.apiserver.negotiation import JSON
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.requests import ResourceRequest
from local_cluster.apiserver.resources import Manifest
from local_cluster.apiserver.selectors import (
    Predicate,
    both,
    parse_field_selector,
    parse_label_selector,
)
from local_cluster.apiserver.storage import Entry
from local_cluster.apiserver.tables import build_partial, build_table
from local_cluster.apiserver.watch import Watcher

BOOKMARK_SECONDS = 60.0
_CONTINUE_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter."
)
Renderer = Callable[[str, Entry], bytes]


def parse_selection(request: ResourceRequest) -> Predicate | None:
    """Read the selectors of a request; None selects everything.

    Raises:
        ApiError: 400.
    """
    fields = request.query.get("fieldSelector", "")
    predicate = both(
        parse_label_selector(request.query.get("labelSelector", "")),
        parse_field_selector(fields, request.resource),
    )
    if request.name:
        name = request.name
        predicate = both(predicate, lambda obj: obj["metadata"]["name"] == name)
    return predicate


def _parse_version(text: str) -> int:
    try:
        version = int(text or "0")
    except ValueError:
        version = -1
    if version < 0:
        cause = {
            "reason": "FieldValueInvalid",
            "message": f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax',
            "field": "resourceVersion",
        }
        raise bad_request(f"invalid resource version: {cause['field']}: {cause['message']}")
    return version


class Reader:
    """The reads on a cluster's objects."""

    def __init__(self, cluster: Cluster, objects: Objects) -> None:
        self._cluster = cluster
        self._objects = objects

    def get(self, request: ResourceRequest) -> web.Response:
        """Answer with one object."""
        entry = self._objects.get(request.resource, request.namespace, request.name)
        include = request.query.get("includeObject", "")
        return answer_entry(entry, request.resource, request.form, include=include)

    def select(self, request: ResourceRequest) -> list[Entry]:
        """List the objects that a request selects, in key order."""
        predicate = parse_selection(request)
        entries = self._cluster.store.entries(request.resource.storage_key, request.namespace)
        return entries if predicate is None else [e for e in entries if predicate(e.obj)]

    def list(self, request: ResourceRequest) -> web.Response:
        """Answer with the objects that are selected, a page of them where a limit is given."""
        store = self._cluster.store
        match = request.query.get("resourceVersionMatch", "")
        self._check_list_version(request, match)
        entries = self.select(request)
        version = store.version
        token = request.query.get("continue", "")
        if token:
            version, start = self._parse_continue(token, request)
            entries = [e for e in entries if f"{e.namespace}/{e.name}" > start]
        metadata: Manifest = {"resourceVersion": str(version)}
        limit = request.number("limit") or 0
        if 0 < limit < len(entries):
            remaining = len(entries) - limit
            entries = entries[:limit]
            last = f"{entries[-1].namespace}/{entries[-1].name}"
            text = orjson.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": last})
            metadata["continue"] = base64.urlsafe_b64encode(text).rstrip(b"=").decode()
            if not (request.query.get("labelSelector") or request.query.get("fieldSelector")):
                metadata["remainingItemCount"] = remaining
        include = request.query.get("includeObject", "")
        return answer_list(entries, request.resource, request.form, metadata, include)

    def _check_list_version(self, request: ResourceRequest, match: str) -> None:
        version = _parse_version(request.query.get("resourceVersion", ""))
        if match and match not in {"Exact", "NotOlderThan"}:
            message = f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""'
            cause = {
                "reason": "FieldValueNotSupported",
                "message": message,
                "field": "resourceVersionMatch",
            }
            raise invalid("meta.k8s.io", "ListOptions", "", [cause])
        if match and not request.query.get("resourceVersion"):
            message = (
                "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
            )
            cause = {
                "reason": "FieldValueForbidden",
                "message": message,
                "field": "resourceVersionMatch",
            }
            raise invalid("meta.k8s.io", "ListOptions", "", [cause])
        if version and request.query.get("continue"):
            raise bad_request("specifying resource version is not allowed when using continue")
        current = self._cluster.store.version
        if version > current and match != "Exact":
            raise too_new(version, current)
        if version > current or (match == "Exact" and version != current):
            raise expired(version, current)

    def _parse_continue(self, token: str, request: ResourceRequest) -> tuple[int, str]:
        try:
            text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            parsed = orjson.loads(text)
            version, start = int(parsed["rv"]), str(parsed["start"])
        except (ValueError, KeyError, TypeError):
            raise bad_request("continue key is not valid: illegal continue token") from None
        if version < self._cluster.hub.oldest(request.resource.storage_key):
            raise ApiError(410, "Expired", _CONTINUE_TOO_OLD)
        return version, start

    async def watch(self, http: web.BaseRequest, request: ResourceRequest) -> web.StreamResponse:
        """Stream events until the client goes, the time is up, or the watch falls too far behind."""
        resource, hub, store = request.resource, self._cluster.hub, self._cluster.store
        predicate = parse_selection(request)
        text = request.query.get("resourceVersion", "")
        version = _parse_version(text)
        initial = self._wants_initial_events(request, version)
        bookmarks = request.flag("allowWatchBookmarks")
        seconds = request.number("timeoutSeconds") or random.randint(1800, 3600)
        render = self._renderer(request)
        response = web.StreamResponse(
            headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"}
        )
        response.enable_chunked_encoding()
        await response.prepare(http)
        lines: list[bytes] = []
        try:
            current = store.version
            if version > current:
                raise expired(version, current)
            entries: list[Entry] = []
            if initial is not False and (version == 0 or initial):
                entries = self.select(request)
                watcher = hub.open(resource.storage_key, request.namespace, predicate, current)
            else:
                watcher = hub.open(
                    resource.storage_key, request.namespace, predicate, version or current
                )
        except ApiError as err:
            event = {"type": "ERROR", "object": err.status()}
            await response.write(orjson.dumps(event) + b"\n")
            await response.write_eof()
            return response
        try:
            lines = [render("ADDED", entry) for entry in entries]
            if initial and bookmarks:
                lines.append(self._bookmark(request, current, end_of_initial=True))
            await response.write(b"".join(lines))
            await self._stream(response, watcher, request, render, seconds, bookmarks)
        except ConnectionResetError:
            return response
        finally:
            hub.close(resource.storage_key, watcher)
        await response.write_eof()
        return response

    async def _stream(
        self,
        response: web.StreamResponse,
        watcher: Watcher,
        request: ResourceRequest,
        render: Renderer,
        seconds: float,
        bookmarks: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        next_bookmark = loop.time() + BOOKMARK_SECONDS
        while not watcher.closed and loop.time() < end:
            limit = min(end, next_bookmark) if bookmarks else end
            events = await watcher.next_events(max(0.0, limit - loop.time()))
            if events:
                await response.write(b"".join([render(kind, entry) for kind, entry in events]))
            elif bookmarks and not watcher.closed:
                # Also just before the end, so that the client's next watch starts where this one ended.
                await response.write(self._bookmark(request, self._cluster.store.version))
                next_bookmark = loop.time() + BOOKMARK_SECONDS

    @staticmethod
    def _wants_initial_events(request: ResourceRequest, version: int) -> bool | None:
        text = request.query.get("sendInitialEvents")
        match = request.query.get("resourceVersionMatch", "")
        if text is None:
            if match:
                message = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
                cause = {
                    "reason": "FieldValueForbidden",
                    "message": message,
                    "field": "resourceVersionMatch",
                }
                raise invalid("meta.k8s.io", "ListOptions", "", [cause])
            return None
        if match != "NotOlderThan":
            message = (
                "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
            cause = {
                "reason": "FieldValueForbidden",
                "message": message,
                "field": "resourceVersionMatch",
            }
            raise invalid("meta.k8s.io", "ListOptions", "", [cause])
        return text in {"1", "t", "T", "true", "TRUE", "True"}

    def _renderer(self, request: ResourceRequest) -> Renderer:
        resource, form = request.resource, request.form
        if form.transform == "Table":
            include = request.query.get("includeObject", "")
            headers = True

            def render_table(kind: str, entry: Entry) -> bytes:
                nonlocal headers
                obj = from_storage(entry.obj, resource)
                metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
                table = build_table(
                    [obj],
                    resource,
                    metadata,
                    include=include,
                    version=form.version,
                    headers=headers,
                )
                headers = False  # later events leave the columns out
                return orjson.dumps({"type": kind, "object": table}) + b"\n"

            return render_table
        if form.transform:
            return lambda kind, entry: (
                orjson.dumps({"type": kind, "object": build_partial(entry.obj, form.version)})
                + b"\n"
            )
        return lambda kind, entry: (
            b'{"type":"' + kind.encode() + b'","object":' + entry_json(entry, resource) + b"}\n"
        )

    @staticmethod
    def _bookmark(request: ResourceRequest, version: int, *, end_of_initial: bool = False) -> bytes:
        resource, form = request.resource, request.form
        metadata: Manifest = {"resourceVersion": str(version)}
        if end_of_initial:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj: Manifest = {
            "kind": resource.kind,
            "apiVersion": resource.api_version,
            "metadata": metadata,
        }
        if form.transform == "Table":
            row = {"cells": [], "object": build_partial(obj, form.version)}
            obj = {
                "kind": "Table",
                "apiVersion": form.version,
                "metadata": {"resourceVersion": str(version)},
                "columnDefinitions": None,
                "rows": [row],
            }
        elif form.transform:
            obj = build_partial(obj, form.version)
        return orjson.dumps({"type": "BOOKMARK", "object": obj}) + b"\n"
