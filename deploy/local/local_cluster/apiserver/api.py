"""The HTTP side: each request to the part that answers it, each failure to its Status.

One function for all paths instead of a router: the paths follow one grammar, and the types behind them change while
the server runs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from local_cluster.apiserver.answers import answer, answer_entry, answer_error, answer_object
from local_cluster.apiserver.auth import ADMIN, Authenticator, User
from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.decoding import check_type
from local_cluster.apiserver.deletion import Deletions
from local_cluster.apiserver.discovery import AGGREGATED_TYPE, Discovery, accepts_aggregated
from local_cluster.apiserver.errors import (
    ApiError,
    bad_request,
    method_not_allowed,
    no_such_path,
    unauthorized,
)
from local_cluster.apiserver.eviction import Evictions
from local_cluster.apiserver.manifests import dict_copy
from local_cluster.apiserver.negotiation import JSON, PLAIN, parse_accept, parse_body
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.openapi import V2_PROTOBUF_TYPE, OpenAPI
from local_cluster.apiserver.pods import Pods
from local_cluster.apiserver.reading import Reader
from local_cluster.apiserver.requests import ResourceRequest, parse_path
from local_cluster.apiserver.resources import Manifest
from local_cluster.apiserver.reviews import REVIEWS, Reviews
from local_cluster.apiserver.scaling import Scales
from local_cluster.apiserver.writing import Writer

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 3 * 1024 * 1024  # the real server's limit

_VERSION: Manifest = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.0",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
_HEALTH_PATHS = frozenset({"healthz", "livez", "readyz"})
_READING = frozenset({"GET", "HEAD"})
_MALFORMED = (TypeError, AttributeError, LookupError, ValueError, RecursionError)
_PUBLIC_PATHS = _HEALTH_PATHS | {"version"}


class Api:
    """Answers HTTP requests.

    Args:
        cluster: the state.
        objects: writes.
        deletions: deletes.
        authenticator: checks tokens.
        address: ``host:port`` shown in discovery.
    """

    def __init__(
        self,
        cluster: Cluster,
        objects: Objects,
        deletions: Deletions,
        authenticator: Authenticator,
        address: str,
    ) -> None:
        self._cluster = cluster
        self._objects = objects
        self._authenticator = authenticator
        self._reader = Reader(cluster, objects)
        self._writer = Writer(cluster, objects, deletions, self._reader)
        self._scales = Scales(cluster, objects)
        self._evictions = Evictions(cluster, objects, deletions)
        self._reviews = Reviews(cluster, authenticator)
        self._discovery = Discovery(cluster, address)
        self._openapi = OpenAPI(cluster)
        self.pods = Pods(cluster, objects)
        self._collection: dict[str, Callable[[ResourceRequest], Awaitable[web.Response]]] = {
            "POST": self._writer.create,
            "DELETE": self._writer.delete_collection,
        }
        self._single: dict[str, Callable[[ResourceRequest], Awaitable[web.Response]]] = {
            "PUT": self._writer.update,
            "PATCH": self._writer.patch,
            "DELETE": self._writer.delete,
        }

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._dispatch(http)
        except ApiError as err:
            return answer_error(err)
        except web.HTTPRequestEntityTooLarge:
            text = f"limit is {MAX_BODY_BYTES}"
            return answer_error(
                ApiError(413, "RequestEntityTooLarge", f"Request entity too large: {text}")
            )
        except _MALFORMED as err:
            if http.method in _READING:
                return self._fail(http)
            # Writes take their input apart before they touch the store: a value of a shape that no rule foresaw
            # ends here, and is the client's to mend.
            logger.warning("%s %s: malformed object", http.method, http.rel_url, exc_info=True)
            return answer_error(
                bad_request(f"the object cannot be handled, it is malformed: {err}")
            )
        except Exception:
            return self._fail(http)

    @staticmethod
    def _fail(http: web.BaseRequest) -> web.Response:
        logger.exception("%s %s failed", http.method, http.rel_url)
        return answer_error(
            ApiError(500, "InternalError", "Internal error occurred: see the server's log")
        )

    async def _dispatch(self, http: web.BaseRequest) -> web.StreamResponse:
        parts = [part for part in http.path.split("/") if part]
        user = self._authenticator.authenticate(http.headers.get("Authorization", ""))
        head = parts[0] if parts else ""
        if user is None and head not in _PUBLIC_PATHS:
            raise unauthorized()
        depth = {"api": 2, "apis": 3}.get(head)
        if depth is not None and len(parts) > depth:
            return await self._handle_resource(http, parts, user or ADMIN)
        if http.method not in _READING:
            raise method_not_allowed()
        if head in _HEALTH_PATHS:
            return answer(b"ok", content_type="text/plain; charset=utf-8")
        if parts == ["version"]:
            return answer(orjson.dumps(_VERSION))
        if depth is not None:
            return self._discover(http, parts)
        if head == "openapi":
            return self._describe(http, parts)
        if not parts:
            return answer(orjson.dumps({"paths": self._paths()}))
        raise no_such_path()

    def _paths(self) -> list[str]:
        paths = [
            "/api",
            "/apis",
            "/healthz",
            "/livez",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        for group, versions in self._cluster.registry.groups():
            base = f"/apis/{group}" if group else "/api"
            paths.extend({base, *(f"{base}/{version}" for version in versions)})
        return sorted(set(paths))

    def _discover(self, http: web.BaseRequest, parts: list[str]) -> web.Response:
        if len(parts) == 1:
            if accepts_aggregated(http.headers.get("Accept", "")):
                body, tag = self._discovery.aggregated(f"/{parts[0]}")
                headers = {"ETag": tag, "Vary": "Accept", "Cache-Control": "public"}
                if http.headers.get("If-None-Match") == tag:
                    return web.Response(status=304, headers=headers)
                return answer(body, headers=headers, content_type=AGGREGATED_TYPE)
            body = self._discovery.versions() if parts[0] == "api" else self._discovery.group_list()
            return answer(body, headers={"Vary": "Accept"})
        if parts[0] == "api":
            return answer(self._discovery.resource_list("", parts[1]))
        if len(parts) == 2:
            return answer(self._discovery.group(parts[1]))
        return answer(self._discovery.resource_list(parts[1], parts[2]))

    def _describe(self, http: web.BaseRequest, parts: list[str]) -> web.Response:
        if parts == ["openapi", "v3"]:
            return answer(self._openapi.index(), content_type=JSON)
        if parts == ["openapi", "v2"]:
            protobuf = "com.github.proto-openapi.spec.v2" in http.headers.get("Accept", "")
            body, tag = self._openapi.v2(protobuf)
            headers = {"ETag": tag, "Vary": "Accept"}
            if http.headers.get("If-None-Match") == tag:
                return web.Response(status=304, headers=headers)
            return answer(
                body, headers=headers, content_type=V2_PROTOBUF_TYPE if protobuf else JSON
            )
        if parts[:2] != ["openapi", "v3"]:
            raise no_such_path()
        path = "/".join(parts[2:])
        body, digest = self._openapi.document(path)
        tag = f'"{digest}"'
        headers = {"ETag": tag, "Vary": "Accept"}
        asked = http.query.get("hash")
        if asked == digest:
            # The address names the content, so that the client may keep it for good.
            headers["Cache-Control"] = "public, immutable"
        elif asked:
            location = f"/openapi/v3/{path}?hash={digest}"
            return web.Response(status=301, headers={"Location": location})
        if http.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return answer(body, headers=headers)

    async def _handle_resource(
        self, http: web.BaseRequest, parts: list[str], user: User
    ) -> web.StreamResponse:
        target = parse_path(parts, self._cluster.registry)
        log = target.subresource is not None and target.subresource.name == "log"
        body = await http.read() if http.method in {"POST", "PUT", "PATCH", "DELETE"} else b""
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(
                413, "RequestEntityTooLarge", f"Request entity too large: limit is {MAX_BODY_BYTES}"
            )
        request = ResourceRequest(
            method=http.method,
            resource=target.resource,
            subresource=target.subresource,
            namespace=target.namespace,
            name=target.name,
            query=http.query,
            form=PLAIN if log else parse_accept(http.headers.get("Accept", "")),
            content_type=http.headers.get("Content-Type", JSON),
            user_agent=http.headers.get("User-Agent", ""),
            user=user,
            body=body,
        )
        if target.subresource is not None and target.subresource.name != "status":
            return await self._handle_subresource(http, request)
        if target.resource.storage_key in REVIEWS:
            if request.method != "POST" or request.name:
                raise method_not_allowed()
            return answer_object(self._reviews.review(request), request.form, status=201)
        if target.resource.storage_key == "/bindings":
            return await self._bind(request)
        if request.method in _READING:
            if request.subresource is None and (request.flag("watch") or not request.name):
                self._check_verb(request, "watch" if request.flag("watch") else "list")
                if request.flag("watch"):
                    return await self._reader.watch(http, request)
                return self._reader.list(request)
            return self._reader.get(request)
        handlers = self._single if request.name else self._collection
        handler = handlers.get(request.method)
        if handler is None or (request.method == "DELETE" and request.subresource is not None):
            raise method_not_allowed()
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[
            request.method
        ]
        if request.method == "DELETE" and not request.name:
            verb = "deletecollection"
            if request.resource.namespaced and not request.namespace:
                raise method_not_allowed()
        self._check_verb(request, verb)
        if verb == "create" and request.resource.namespaced and not request.namespace:
            raise bad_request("an empty namespace may not be set during creation")
        return await handler(request)

    @staticmethod
    def _check_verb(request: ResourceRequest, verb: str) -> None:
        source = request.subresource or request.resource
        if verb not in source.verbs:
            raise method_not_allowed()

    async def _handle_subresource(
        self, http: web.BaseRequest, request: ResourceRequest
    ) -> web.StreamResponse:
        assert request.subresource is not None
        match request.subresource.name, request.method:
            case "scale", "GET":
                return answer_object(self._scales.get(request), request.form)
            case "scale", "PUT":
                return await self._written(self._scales.put(request), request)
            case "scale", "PATCH":
                return await self._written(self._scales.patch(request), request)
            case "log", "GET":
                return await self.pods.logs(http, request)
            case "binding", "POST":
                return await self._bind(request)
            case "eviction", "POST":
                body = parse_body(request.body, request.content_type)
                body = check_type(
                    body, request.resource, "Eviction", body.get("apiVersion") or "policy/v1"
                )
                self._evictions.evict(request, body)
                return await self._success(request)
            case "token", "POST":
                return answer_object(self._reviews.request_token(request), request.form, status=201)
            case "finalize", "PUT":
                return await self._finalize(request)
            case _:
                raise method_not_allowed()

    async def _written(self, obj: Manifest, request: ResourceRequest) -> web.Response:
        await self._cluster.store.durable()
        return answer_object(obj, request.form)

    async def _success(self, request: ResourceRequest) -> web.Response:
        await self._cluster.store.durable()
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "code": 201,
        }
        return answer_object(status, request.form, status=201)

    async def _bind(self, request: ResourceRequest) -> web.Response:
        if request.method != "POST":
            raise method_not_allowed()
        pods = self._cluster.registry.by_kind("v1", "Pod")
        assert pods is not None
        body = check_type(
            parse_body(request.body, request.content_type), request.resource, "Binding", "v1"
        )
        name = request.name or str(body["metadata"].get("name") or "")
        self.pods.bind(pods, request.namespace, name, body, request.write_options())
        return await self._success(request)

    async def _finalize(self, request: ResourceRequest) -> web.Response:
        body = check_type(parse_body(request.body, request.content_type), request.resource)
        entry = self._objects.get(request.resource, "", request.name)
        finalizers = (body.get("spec") or {}).get("finalizers") or []
        new = dict_copy(entry.obj)
        spec = {k: v for k, v in (new.get("spec") or {}).items() if k != "finalizers"}
        new["spec"] = {**spec, "finalizers": finalizers} if finalizers else spec
        entry = self._objects.write_internal(request.resource, new)
        await self._cluster.store.durable()
        return answer_entry(entry, request.resource, request.form)
