"""What pods have beyond reading and writing: binding to a node, and logs from there."""

from __future__ import annotations

import ssl
from urllib.parse import quote

import aiohttp
from aiohttp import web

from local_cluster.apiserver import clock
from local_cluster.apiserver.cluster import Cluster, WriteOptions
from local_cluster.apiserver.errors import ApiError, bad_request, conflict
from local_cluster.apiserver.objects import Objects
from local_cluster.apiserver.requests import ResourceRequest
from local_cluster.apiserver.resources import Manifest, Resource

_LOG_PARAMETERS = (
    "follow",
    "previous",
    "timestamps",
    "tailLines",
    "sinceSeconds",
    "sinceTime",
    "limitBytes",
)
_CONNECT_SECONDS = 5.0


class Pods:
    """Binds pods and fetches their logs."""

    def __init__(self, cluster: Cluster, objects: Objects) -> None:
        self._cluster = cluster
        self._objects = objects
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections to nodes."""
        if self._session is not None:
            await self._session.close()

    def bind(
        self, resource: Resource, namespace: str, name: str, body: Manifest, options: WriteOptions
    ) -> None:
        """Assign a pod to a node.

        Args:
            resource: the pods.
            namespace: of the pod.
            name: of the pod.
            body: the Binding.
            options: of the write.

        Raises:
            ApiError: 400, 404, or 409 when the pod has a node already.
        """
        target = body.get("target") or {}
        node = target.get("name")
        if not node:
            raise bad_request("target.name: Required value")
        if target.get("kind") not in {None, "", "Node"}:
            raise bad_request(
                f'target.kind: Unsupported value: "{target["kind"]}": supported values: "Node"'
            )
        pod = self._objects.get(resource, namespace, name).obj
        if pod["metadata"].get("deletionTimestamp"):
            raise conflict(
                resource, name, f"pod {name} is being deleted, cannot be assigned to a host"
            )
        if pod["spec"].get("nodeName"):
            raise conflict(
                resource,
                name,
                f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"',
            )
        if options.dry_run:
            return
        spec = {**pod["spec"], "nodeName": node}
        status = dict(pod.get("status") or {})
        now = clock.now()
        scheduled = {
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": None,
            "lastTransitionTime": now,
        }
        if "observedGeneration" not in status and pod["metadata"].get("generation"):
            scheduled["observedGeneration"] = pod["metadata"]["generation"]
        others = [c for c in status.get("conditions") or () if c["type"] != "PodScheduled"]
        status["conditions"] = [*others, scheduled]
        metadata = dict(pod["metadata"])
        for field in ("annotations", "labels"):
            added = (body.get("metadata") or {}).get(field)
            if added:
                metadata[field] = {**(metadata.get(field) or {}), **added}
        self._objects.write_internal(
            resource, {**pod, "metadata": metadata, "spec": spec, "status": status}
        )

    def _choose_container(self, pod: Manifest, wanted: str) -> str:
        spec, name = pod["spec"], pod["metadata"]["name"]
        containers = [c["name"] for c in spec.get("containers") or ()]
        inits = [c["name"] for c in spec.get("initContainers") or ()]
        if wanted:
            if wanted not in containers + inits:
                raise bad_request(f"container {wanted} is not valid for pod {name}")
            return wanted
        if len(containers) == 1:
            return str(containers[0])
        default = (pod["metadata"].get("annotations") or {}).get(
            "kubectl.kubernetes.io/default-container"
        )
        if default in containers:
            return str(default)
        text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
        if inits:
            text += f" or one of the init containers: [{' '.join(inits)}]"
        raise bad_request(text)

    def _node_url(self, pod: Manifest) -> str:
        node_name = pod["spec"].get("nodeName")
        if not node_name:
            raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
        node = self._cluster.get("/nodes", "", node_name)
        if node is None:
            raise ApiError(
                404,
                "NotFound",
                f'nodes "{node_name}" not found',
                {"name": node_name, "kind": "nodes"},
            )
        status = node.get("status") or {}
        addresses = {a["type"]: a["address"] for a in status.get("addresses") or ()}
        address = addresses.get("InternalIP") or addresses.get("Hostname")
        endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
        port = endpoint.get("Port") or endpoint.get("port") or 10250
        if not address:
            raise bad_request(
                f"no preferred addresses found; known addresses: {list(addresses.values())}"
            )
        host = f"[{address}]" if ":" in address else address
        return f"https://{host}:{port}"

    async def logs(self, http: web.BaseRequest, request: ResourceRequest) -> web.StreamResponse:
        """Stream a container's log from the node agent.

        Raises:
            ApiError: 400 or 404; 500 when the node does not answer.
        """
        pod = self._objects.get(request.resource, request.namespace, request.name).obj
        container = self._choose_container(pod, request.query.get("container", ""))
        url = f"{self._node_url(pod)}/containerLogs/{quote(request.namespace)}/{quote(request.name)}/{quote(container)}"
        parameters = {k: request.query[k] for k in _LOG_PARAMETERS if request.query.get(k)}
        if self._session is None:
            # A node's certificate is its own; the kubelet's is not verified for logs either, unless configured.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            connector = aiohttp.TCPConnector(ssl=context, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        try:
            async with self._session.get(url, params=parameters) as upstream:
                if upstream.status != 200:
                    raise self._failure(upstream.status, (await upstream.text()).strip())
                response = web.StreamResponse(
                    headers={"Content-Type": "text/plain", "Cache-Control": "no-cache, private"}
                )
                response.enable_chunked_encoding()
                await response.prepare(http)
                try:
                    async for chunk in upstream.content.iter_any():
                        await response.write(chunk)
                except (ConnectionResetError, aiohttp.ClientPayloadError):
                    return response
                await response.write_eof()
                return response
        except aiohttp.ClientConnectionError as err:
            raise ApiError(500, "InternalError", f'Get "{url}": {err}') from err

    @staticmethod
    def _failure(status: int, text: str) -> ApiError:
        reasons = {400: "BadRequest", 404: "NotFound"}
        if status in reasons:
            return ApiError(status, reasons[status], text)
        return ApiError(
            500,
            "InternalError",
            f'an error on the server ("{text}") has prevented the request from succeeding',
        )
