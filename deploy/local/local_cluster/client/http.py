"""Requests to one API server: typed failures, patience with restarts, watches as streams."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
import orjson

from local_cluster.client.errors import ApiError, build_api_error
from local_cluster.client.kubeconfig import ClusterAccess, load_kubeconfig
from local_cluster.client.resources import Resource

Manifest = dict[str, Any]
PatchKind = Literal["merge", "strategic", "json", "apply"]

PATCH_TYPES: Mapping[str, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "PATCH"})
_CONNECTION_ERRORS = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
_REQUEST_TIMEOUT_SECONDS = 60.0
_WATCH_START_SECONDS = 5.0
# Servers send a bookmark about once a minute; longer silence is a connection nobody serves.
_WATCH_SILENCE_SECONDS = 150.0

log = logging.getLogger(__name__)


class Client:
    """A connection pool to one API server; an async context manager.

    Args:
        access: where the server is and who to be.
        user_agent: the name under which the server's logs and managed fields know this program.
        patience_seconds: how long a request is repeated while the server refuses connections,
            answers 429 or 503; long enough to ride out a restart.
        max_connections: connections at a time; watches are not counted.
    """

    def __init__(
        self,
        access: ClusterAccess,
        *,
        user_agent: str = "local-cluster",
        patience_seconds: float = 30.0,
        max_connections: int = 32,
    ) -> None:
        self.access = access
        self._headers = {
            "Accept": "application/json",
            # Compression between two processes on one machine costs more than it saves.
            "Accept-Encoding": "identity",
            "User-Agent": user_agent,
            **access.headers,
        }
        self._patience = patience_seconds
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._watch_session: aiohttp.ClientSession | None = None

    @classmethod
    def from_kubeconfig(
        cls,
        path: str | Path,
        *,
        context: str | None = None,
        user_agent: str = "local-cluster",
        patience_seconds: float = 30.0,
        max_connections: int = 32,
    ) -> Client:
        """Build a client for a context of a kubeconfig, by default its current one.

        Raises:
            KubeconfigError: the file or its credentials cannot be used.
        """
        return cls(
            load_kubeconfig(Path(path), context),
            user_agent=user_agent,
            patience_seconds=patience_seconds,
            max_connections=max_connections,
        )

    async def __aenter__(self) -> Self:
        self._session = self._open_session(self._max_connections)
        self._watch_session = self._open_session(0)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for session in (self._session, self._watch_session):
            if session is not None:
                await session.close()
        self._session = self._watch_session = None

    def _open_session(self, limit: int) -> aiohttp.ClientSession:
        tls = self.access.ssl_context
        connector = aiohttp.TCPConnector(
            limit=limit, ssl=tls if tls is not None else True, keepalive_timeout=60
        )
        return aiohttp.ClientSession(
            connector=connector, headers=self._headers, auto_decompress=True
        )

    def _kwargs(self) -> dict[str, Any]:
        return {"server_hostname": self.access.server_name} if self.access.server_name else {}

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        """Send one request and decode the answer.

        A request is repeated when the server asks for it (429, 503 with Retry-After), when it was
        never sent, and, for idempotent methods, when the connection broke.

        Args:
            method: the HTTP method.
            path: the path below the server's base URL, starting with a slash.
            params: query parameters.
            body: bytes or text as they are, anything else as JSON.
            content_type: the body's media type.

        Returns:
            The decoded JSON, or text where the server answered with another type.

        Raises:
            ApiError: the server refused (its status), or stayed out of reach (status 0).
        """
        if self._session is None:
            raise RuntimeError("the client is not open: use it in 'async with'")
        data = _encode(body)
        headers = {"Content-Type": content_type} if data is not None else None
        deadline = time.monotonic() + self._patience
        attempt = 0
        while True:
            failure: Exception
            wait = min(2.0, 0.05 * 2**attempt) * random.uniform(0.75, 1.25)
            try:
                async with self._session.request(
                    method,
                    self.access.server + path,
                    params=params,
                    data=data,
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_SECONDS),
                    **self._kwargs(),
                ) as response:
                    payload = await response.read()
                    decoded = _decode(payload, response.content_type)
                    if response.status < 400:
                        return decoded
                    failure = build_api_error(
                        response.status, decoded, response.reason or "Unknown"
                    )
                    asked = _retry_after(response.headers.get("Retry-After"))
                    if response.status not in (429, 503) or (
                        asked is None and response.status == 503
                    ):
                        raise failure
                    wait = max(wait, asked or 0.0)
            except _CONNECTION_ERRORS as err:
                never_sent = isinstance(err, aiohttp.ClientConnectorError)
                failure = ApiError(
                    0, "Unreachable", f"{method} {path}: {err or type(err).__name__}"
                )
                failure.__cause__ = err
                if isinstance(err, aiohttp.ClientSSLError) or not (
                    never_sent or method in _IDEMPOTENT
                ):
                    raise failure from err
            if time.monotonic() + wait > deadline:
                raise failure
            attempt += 1
            await asyncio.sleep(wait)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str | None = None,
    ) -> Manifest:
        """Fetch a collection.

        Returns:
            The List object; unlike the server's, each of its items carries apiVersion and kind.
        """
        params = _selectors(label_selector, field_selector)
        if resource_version is not None:
            params["resourceVersion"] = resource_version
        answer: Manifest = await self.request("GET", resource.path(namespace), params=params)
        kind = str(answer.get("kind", "")).removesuffix("List")
        answer["items"] = [
            {"apiVersion": answer.get("apiVersion"), "kind": kind, **item}
            for item in answer.get("items") or []
        ]
        return answer

    async def get(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Manifest:
        """Fetch one object or one of its subresources."""
        answer: Manifest = await self.request("GET", resource.path(namespace, name, subresource))
        return answer

    async def create(
        self,
        resource: Resource,
        body: Manifest,
        namespace: str | None = None,
        *,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Manifest:
        """Create an object, or post to a subresource such as ``binding`` or ``eviction``."""
        answer: Manifest = await self.request(
            "POST", resource.path(namespace, name, subresource), body=body
        )
        return answer

    async def replace(
        self,
        resource: Resource,
        body: Manifest,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Manifest:
        """Write a whole object; its resourceVersion guards against lost updates."""
        path = resource.path(
            namespace or body["metadata"].get("namespace"), body["metadata"]["name"], subresource
        )
        answer: Manifest = await self.request("PUT", path, body=body)
        return answer

    async def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        body: Any,
        *,
        kind: PatchKind = "merge",
        subresource: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Change part of an object by one of the four kinds of patch."""
        answer: Manifest = await self.request(
            "PATCH",
            resource.path(namespace, name, subresource),
            body=body,
            content_type=PATCH_TYPES[kind],
            params=params,
        )
        return answer

    async def apply(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        body: Manifest,
        *,
        field_manager: str,
        force: bool = True,
        subresource: str | None = None,
    ) -> Manifest:
        """Server-side apply."""
        return await self.patch(
            resource,
            name,
            namespace,
            body,
            kind="apply",
            subresource=subresource,
            params={"fieldManager": field_manager, "force": "true" if force else "false"},
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_seconds: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> Manifest:
        """Delete an object, if wanted only the one with this uid or resourceVersion."""
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if uid or resource_version:
            options["preconditions"] = {k: v for k, v in preconditions.items() if v}
        answer: Manifest = await self.request(
            "DELETE", resource.path(namespace, name), body=options
        )
        return answer

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str | None = None,
        timeout_seconds: int = 300,
    ) -> AsyncGenerator[Manifest, None]:
        """Stream the changes of a collection, bookmarks included, until the server ends it.

        Yields:
            Watch events: ``{"type": "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK", "object": …}``.

        Raises:
            ApiError: the server refused, sent an ERROR event (410: list again), or the
                connection broke (status 0).
        """
        if self._watch_session is None:
            raise RuntimeError("the client is not open: use it in 'async with'")
        params = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_seconds),
        }
        if resource_version is not None:
            params["resourceVersion"] = resource_version
        try:
            # A server that goes down may accept a watch and never begin it.
            async with asyncio.timeout(_WATCH_START_SECONDS):
                response = await self._watch_session.get(
                    self.access.server + resource.path(namespace),
                    params=params,
                    timeout=aiohttp.ClientTimeout(
                        total=timeout_seconds + 30, sock_read=_WATCH_SILENCE_SECONDS
                    ),
                    **self._kwargs(),
                )
            async with response:
                if response.status >= 400:
                    decoded = _decode(await response.read(), response.content_type)
                    raise build_api_error(response.status, decoded, response.reason or "Unknown")
                # Not readline(): it refuses lines longer than its buffer, and objects can be.
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if not line.strip():
                            continue
                        event: Manifest = orjson.loads(line)
                        if event["type"] == "ERROR":
                            status = event["object"]
                            raise build_api_error(int(status.get("code", 500)), status, "Unknown")
                        yield event
        except _CONNECTION_ERRORS as err:
            raise ApiError(0, "Unreachable", f"watch {resource.plural}: {err}") from err


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    params = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    return params


def _encode(body: Any) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode()
    return orjson.dumps(body)


def _decode(payload: bytes, content_type: str) -> Any:
    if content_type == "application/json" and payload:
        try:
            return orjson.loads(payload)
        except orjson.JSONDecodeError:
            pass
    return payload.decode(errors="replace")


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        return 1.0
