"""HTTP calls to the API server over the official asynchronous client."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from scoring_operator.api import Manifest
from scoring_operator.cluster.errors import ConflictError, TransientError, error_from_answer

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

# A call that fails for longer than a blink goes back to the queue, where its model waits without a worker: with more
# attempts, ten failing models kept every worker waiting, and the healthy models with them.
_ATTEMPTS = 2
_WAIT_SECONDS = 0.1
# A server that asks for a longer wait gets it from the queue's backoff, which blocks no worker.
_LONGEST_WAIT_SECONDS = 5.0
_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10)


class CallObserver(Protocol):
    """Told about every call: for metrics, and for tests that count writes."""

    def __call__(self, verb: str, path: str, status: int) -> None:
        """Note one answer; status 0 means that none came."""


async def connect(kubeconfig: Path | None) -> ApiClient:
    """Make a client from a kubeconfig file, or from the pod's service account.

    Args:
        kubeconfig: None: the pod's service account if there is one, else the default kubeconfig.

    Raises:
        kubernetes.aio.config.ConfigException: neither gives a way to connect.
    """
    configuration = Configuration()
    if kubeconfig is None:
        try:
            kube_config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        except kube_config.ConfigException:
            await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
    else:
        await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(kubeconfig), client_configuration=configuration
        )
    configuration.proxy = configuration.proxy or _proxy_for(configuration.host)
    return ApiClient(configuration)


def _proxy_for(url: str) -> str | None:
    """The proxy that HTTPS_PROXY and NO_PROXY name for an address."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


class Client:
    """JSON in, JSON out; repeats calls that failed for reasons that pass.

    Args:
        api: the official client, which knows address and credentials.
        observe_call: told about every answer.
    """

    def __init__(self, api: ApiClient, observe_call: CallObserver | None = None) -> None:
        self._api = api
        self._observe = observe_call
        api.user_agent = "scoring-operator"
        configuration = api.configuration
        # The official client's own session serialises with the standard library, and reads ~/.netrc in a thread before every
        # call, where it fails when it finds credentials beside our token.
        self._session = aiohttp.ClientSession(
            # A connection each for a dozen watches, and one for each call in flight.
            connector=aiohttp.TCPConnector(limit=100, ssl=api.rest_client.ssl_context),
            # Watch events can be larger than aiohttp expects of a line.
            read_bufsize=2**21,
        )
        route = {
            "proxy": configuration.proxy,
            "proxy_headers": configuration.proxy_headers,
            "server_hostname": configuration.tls_server_name,
        }
        self._route = {name: value for name, value in route.items() if value}

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        await self._api.close()  # type: ignore[no-untyped-call]

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """Make one call, repeating it while the server is busy or away.

        Every call that this operator makes may be repeated: applies, patches and deletes are idempotent or name what they
        are about, a create that was done already ends in a conflict, and a repeated event is harmless.

        Args:
            method: HTTP method.
            path: URL path.
            query: query parameters.
            body: JSON object to send.
            content_type: of the body.

        Returns:
            The JSON object of the answer.

        Raises:
            ClusterError: the API server refused, or stayed away.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._call_once(method, path, query, body, content_type)
            except TransientError as err:
                asked = err.retry_after_seconds
                if attempt == _ATTEMPTS or (asked or 0) > _LONGEST_WAIT_SECONDS:
                    raise
                # Jitter keeps many workers from coming back at the same moment.
                blink = _WAIT_SECONDS * (0.5 + random.random())
                await asyncio.sleep(blink if asked is None else asked)
        raise AssertionError("unreachable")

    async def _call_once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Manifest | None,
        content_type: str,
    ) -> Manifest:
        doing = f"{method.lower()} {path}"
        status = 0
        try:
            response = await self._send(
                method, path, query, body, content_type, patience=_REQUEST_TIMEOUT
            )
            async with response:
                status = response.status
                data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise TransientError(f"no answer ({err or type(err).__name__})", doing=doing) from err
        finally:
            if self._observe:
                self._observe(method, path, status)
        if not 200 <= status < 300:
            retry_after = response.headers.get("Retry-After")
            refusal = error_from_answer(status, data, doing=doing, retry_after=retry_after)
            if isinstance(refusal, ConflictError) and method == "GET":
                # Reading conflicts with nothing: something on the way is unwell.
                raise TransientError(refusal.message, status=status, doing=doing)
            raise refusal
        value = None
        with suppress(ValueError):  # something on the way answered for the server
            value = orjson.loads(data)
        if not isinstance(value, dict):
            raise TransientError("the answer is no JSON object", status=status, doing=doing)
        return value

    async def watch(
        self, path: str, *, query: Mapping[str, str], silence_seconds: float
    ) -> AsyncIterator[Manifest]:
        """Yield watch events until the server ends the stream.

        Args:
            path: URL path of the collection.
            query: query parameters; `watch=1` is added.
            silence_seconds: a stream that is silent for longer is taken for dead.

        Raises:
            ClusterError: the stream could not be opened, broke, or fell silent.
        """
        doing = f"watch {path}"
        patience = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence_seconds)
        try:
            response = await self._send(
                "GET", path, {**query, "watch": "1"}, None, "application/json", patience=patience
            )
            if self._observe:
                self._observe("WATCH", path, response.status)
            async with response:
                if response.status != 200:
                    data = await response.read()
                    retry_after = response.headers.get("Retry-After")
                    raise error_from_answer(
                        response.status, data, doing=doing, retry_after=retry_after
                    )
                async for event in _json_lines(response.content):
                    if event.get("type") == "ERROR":
                        status = event.get("object", {})
                        raise error_from_answer(
                            int(status.get("code", 500)), orjson.dumps(status), doing=doing
                        )
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
            raise TransientError(f"the stream broke ({err!r})", doing=doing) from err

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Manifest | None,
        content_type: str,
        *,
        patience: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        _, url, headers, _, _ = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            auth_settings=["BearerToken"],
        )
        return await self._session.request(
            method,
            url,
            headers=headers,
            data=None if body is None else orjson.dumps(body),
            timeout=patience,
            **self._route,
        )


async def _json_lines(stream: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Split a stream into JSON objects, one a line, of any length."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield orjson.loads(line)
    if rest.strip():
        with suppress(ValueError):  # a stream that was cut in the middle of an event
            yield orjson.loads(rest)
