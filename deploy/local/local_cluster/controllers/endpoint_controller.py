"""Services with selectors get their EndpointSlices and Endpoints."""

from __future__ import annotations

import logging
from typing import Any

from local_cluster.client import (
    ENDPOINTS,
    ENDPOINTSLICES,
    ApiError,
    Client,
    Key,
    Manifest,
    WorkQueue,
    object_key,
)
from local_cluster.controllers.caches import SERVICE_NAME_LABEL, Caches, find_by_selector
from local_cluster.controllers.conditions import is_true
from local_cluster.controllers.endpoints import (
    FQDN,
    IPV4,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    build_endpoints,
    build_slices,
)
from local_cluster.controllers.selectors import matches_labels

log = logging.getLogger(__name__)


class EndpointController:
    """Follows Services and pods.

    The node agent's pods have loopback addresses. A real API server takes none in EndpointSlices of type IPv4, but
    takes the same text as a name: where it refuses one, all slices are of type FQDN from then on, and the older
    Endpoints objects, which know no names, are left alone.

    Args:
        client: an open client.
        caches: the shared local copies.
        workers: Services worked on at a time.
    """

    def __init__(self, client: Client, caches: Caches, *, workers: int = 8) -> None:
        self._client = client
        self._caches = caches
        self._workers = workers
        self._address_type = IPV4
        self.queue: WorkQueue[Key] = WorkQueue("endpoints")
        caches.services.on_change(lambda key, old, new: self.queue.add(key))
        caches.pods.on_change(self._on_pod)
        caches.slices.on_change(self._on_slice)
        caches.endpoints.on_change(self._on_endpoints)

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.run(self.reconcile, workers=self._workers)

    def _on_pod(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if old is not None and new is not None and _relevant(old) == _relevant(new):
            return
        for item in (old, new):
            if item is None:
                continue
            labels = item["metadata"].get("labels") or {}
            for service in find_by_selector(self._caches.services_by_selector, key[0], labels):
                selector = service["spec"].get("selector")
                if selector and matches_labels(selector, labels):
                    self.queue.add(object_key(service))

    def _on_slice(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        name = ((new or old or {})["metadata"].get("labels") or {}).get(SERVICE_NAME_LABEL)
        if name:
            self.queue.add((key[0], name))

    def _on_endpoints(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        self.queue.add(key)

    async def reconcile(self, key: Key) -> None:
        """Write what differs of one Service's slices."""
        service = self._caches.services.get(*key)
        if service is None:
            # Slices go with their owner; Endpoints have none and are removed by name.
            if self._caches.endpoints.get(*key) is not None:
                await self._delete(ENDPOINTS, key)
            return
        selector = service["spec"].get("selector")
        if not selector or service["spec"].get("type") == "ExternalName":
            return
        if service["metadata"].get("deletionTimestamp"):
            return
        pods = [
            pod
            for pod in self._caches.pods_with(key[0], selector)
            if matches_labels(selector, pod["metadata"].get("labels"))
        ]
        tried = self._address_type
        try:
            await self._write_all(key, service, pods)
        except ApiError as err:
            if tried == FQDN or not _refuses_loopback(err):
                raise
            log.info("the server takes no loopback addresses, endpoints are written as names")
            self._address_type = FQDN
            await self._write_all(key, service, pods)

    async def _write_all(self, key: Key, service: Manifest, pods: list[Manifest]) -> None:
        wanted = build_slices(service, pods, self._address_type)
        existing = {
            item["metadata"]["name"]: item
            for item in self._caches.slices_by_service.get(f"{key[0]}/{key[1]}")
            if (item["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) == MANAGED_BY
        }
        for body in wanted:
            there = existing.pop(body["metadata"]["name"], None)
            await self._write(ENDPOINTSLICES, body, there, ("endpoints", "ports"))
        for name in existing:
            await self._delete(ENDPOINTSLICES, (key[0], name))
        if self._address_type == FQDN:
            return
        await self._write(
            ENDPOINTS,
            build_endpoints(service, wanted),
            self._caches.endpoints.get(*key),
            ("subsets",),
        )

    async def _write(
        self, resource: Any, body: Manifest, there: Manifest | None, fields: tuple[str, ...]
    ) -> None:
        if there is None:
            try:
                await self._client.create(resource, body, body["metadata"]["namespace"])
            except ApiError as err:
                if err.status == 403 and "being terminated" in err.message:
                    return
                raise
            return
        same = all((there.get(name) or []) == (body.get(name) or []) for name in fields)
        if same and there["metadata"].get("labels") == body["metadata"].get("labels"):
            return
        metadata = {**there["metadata"], "labels": body["metadata"]["labels"]}
        await self._client.replace(resource, {**body, "metadata": metadata})

    async def _delete(self, resource: Any, key: Key) -> None:
        try:
            await self._client.delete(resource, key[1], key[0])
        except ApiError as err:
            if not err.is_not_found:
                raise


def _refuses_loopback(err: ApiError) -> bool:
    return err.status == 422 and "may not be in the loopback range" in err.message


def _relevant(pod: Manifest) -> tuple[Any, ...]:
    status = pod.get("status", {})
    return (
        pod["metadata"].get("labels"),
        pod["metadata"].get("deletionTimestamp"),
        status.get("podIP"),
        status.get("phase"),
        is_true(status, "Ready"),
        pod["spec"].get("nodeName"),
    )
