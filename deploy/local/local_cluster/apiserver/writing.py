"""Writes over HTTP: bodies and options in, the written object out, once it is durable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from local_cluster.apiserver.answers import answer, answer_entry, list_json
from local_cluster.apiserver.cluster import Cluster, WriteOptions
from local_cluster.apiserver.decoding import strict_error
from local_cluster.apiserver.deletion import DeleteOptions, Deletions, parse_delete_options
from local_cluster.apiserver.errors import (
    ApiError,
    bad_request,
    build_details,
    unsupported_media_type,
)
from local_cluster.apiserver.negotiation import JSON, parse_body, parse_json, parse_yaml
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.reading import Reader
from local_cluster.apiserver.requests import ResourceRequest
from local_cluster.apiserver.resources import Manifest, Resource
from local_cluster.apiserver.storage import Entry
from local_cluster.schema import (
    Schema,
    duplicate_fields,
    json_merge_patch,
    json_patch,
    strategic_merge_patch,
)

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

Change = Callable[[Manifest], Manifest]


def build_change(media: str, body: bytes, schema: Schema | None) -> Change:
    """Build the function that applies a patch.

    Args:
        media: the patch's content type; not that of server-side apply.
        body: the patch.
        schema: of the object, for strategic merge patches.

    Raises:
        ApiError: 400, the patch is malformed.
    """
    patch: Any = parse_json(body)
    if media == JSON_PATCH:
        if not isinstance(patch, list):
            raise bad_request(
                "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
            )
        return lambda obj: json_patch(obj, patch)
    if not isinstance(patch, dict):
        raise bad_request(
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        )
    if media == STRATEGIC_PATCH and schema is not None:
        return lambda obj: strategic_merge_patch(obj, patch, schema)
    return lambda obj: json_merge_patch(obj, patch)


class Writer:
    """Answers the writing verbs."""

    def __init__(
        self, cluster: Cluster, objects: Objects, deletions: Deletions, reader: Reader
    ) -> None:
        self._cluster = cluster
        self._objects = objects
        self._deletions = deletions
        self._reader = reader

    async def create(self, request: ResourceRequest) -> web.Response:
        """Answer a POST to a collection."""
        options = request.write_options()
        body = parse_body(request.body, request.content_type)
        self._refuse_duplicates(request, request.content_type, options, body)
        entry = self._objects.create(request.resource, request.namespace, body, options)
        return await self._answer(request, entry, options, 201)

    async def update(self, request: ResourceRequest) -> web.Response:
        """Answer a PUT to an object or its status."""
        options = request.write_options(kind="UpdateOptions")
        body = parse_body(request.body, request.content_type)
        self._refuse_duplicates(request, request.content_type, options, body)
        entry, created = self._objects.update(
            request.resource, request.namespace, request.name, body, options
        )
        return await self._answer(request, entry, options, 201 if created else 200)

    async def patch(self, request: ResourceRequest) -> web.Response:
        """Answer a PATCH of an object or its status, in any of the four kinds."""
        options = request.write_options(kind="PatchOptions")
        media = request.content_type.partition(";")[0].strip()
        check_patch_type(media, request.resource)
        created = False
        if media == APPLY_PATCH:
            applied = parse_yaml(request.body)
            if not isinstance(applied, dict):
                raise bad_request("error decoding YAML: the body is not an object")
            entry, created = self._objects.apply(
                request.resource, request.namespace, request.name, applied, options
            )
        else:
            schema = self._cluster.schema(request.resource)
            change = build_change(media, request.body, schema)
            entry = self._objects.patch(
                request.resource, request.namespace, request.name, change, options
            )
        return await self._answer(request, entry, options, 201 if created else 200)

    def _refuse_duplicates(
        self, request: ResourceRequest, media: str, options: WriteOptions, body: Manifest
    ) -> None:
        if options.field_validation == "Ignore" or not media.startswith(JSON):
            return
        if request.body[:4] == b"k8s\x00":
            return
        if len(request.body) > len(orjson.dumps(body)):  # a repeated field makes the text longer
            doubled = [f'duplicate field "{path}"' for path in duplicate_fields(request.body)]
            if doubled and options.field_validation == "Strict":
                raise strict_error(", ".join(doubled), body, request.resource, "create")
            options.warnings.extend(doubled)

    async def _answer(
        self, request: ResourceRequest, entry: Entry, options: WriteOptions, status: int
    ) -> web.Response:
        if not options.dry_run:
            await self._cluster.store.durable()
        include = request.query.get("includeObject", "")
        return answer_entry(
            entry,
            request.resource,
            request.form,
            status=status,
            include=include,
            warnings=options.warnings,
        )

    async def delete(self, request: ResourceRequest) -> web.Response:
        """Answer the DELETE of one object."""
        options = self._delete_options(request)
        resource = request.resource
        entry, shown = self._deletions.delete(resource, request.namespace, request.name, options)
        if not options.dry_run:
            await self._cluster.store.durable()
        if shown:
            return answer_entry(entry, resource, request.form)
        details = build_details(resource, request.name, uid=entry.uid)
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        }
        return answer(orjson.dumps(status))

    async def delete_collection(self, request: ResourceRequest) -> web.Response:
        """Answer the DELETE of what a selector selects."""
        options = self._delete_options(request)
        version = self._cluster.store.version
        gone: list[Entry] = []
        for entry in self._reader.select(request):
            try:
                self._deletions.delete(request.resource, entry.namespace, entry.name, options)
            except ApiError as err:
                if err.code not in {403, 404}:
                    raise
            else:
                gone.append(entry)
        if not options.dry_run:
            await self._cluster.store.durable()
        return answer(list_json(gone, request.resource, {"resourceVersion": str(version)}))

    @staticmethod
    def _delete_options(request: ResourceRequest) -> DeleteOptions:
        body: Manifest = {}
        if request.body:
            body = parse_body(request.body, request.content_type)
            if body.get("kind") not in {None, "", "DeleteOptions"}:
                raise bad_request(f"expected DeleteOptions, got {body['kind']}")
        return parse_delete_options(body, dict(request.query))


def check_patch_type(media: str, resource: Resource | None) -> None:
    """Refuse a patch of a kind that the type does not take.

    Raises:
        ApiError: 415.
    """
    accepted = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH]
    if resource is None or resource.crd is None:
        accepted.insert(2, STRATEGIC_PATCH)
    if media not in accepted:
        raise unsupported_media_type(accepted)
