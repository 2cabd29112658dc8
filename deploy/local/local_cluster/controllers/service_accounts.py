"""Every namespace has a ServiceAccount named ``default``."""

from __future__ import annotations

from local_cluster.client import (
    SERVICEACCOUNTS,
    ApiError,
    Client,
    Key,
    Manifest,
    WorkQueue,
)
from local_cluster.controllers.caches import Caches


class ServiceAccountController:
    """Creates what is missing.

    Args:
        client: an open client.
        caches: the shared local copies.
    """

    def __init__(self, client: Client, caches: Caches) -> None:
        self._client = client
        self._caches = caches
        self.queue: WorkQueue[str] = WorkQueue("serviceaccounts")
        caches.namespaces.on_change(lambda key, old, new: self.queue.add(key[1]))
        caches.serviceaccounts.on_change(self._on_account)

    def _on_account(self, key: Key, old: Manifest | None, new: Manifest | None) -> None:
        if new is None and key[1] == "default":
            self.queue.add(key[0])

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.run(self.reconcile, workers=2)

    async def reconcile(self, name: str) -> None:
        """Create the account of one namespace unless it is there."""
        namespace = self._caches.namespaces.get("", name)
        if namespace is None or namespace["metadata"].get("deletionTimestamp"):
            return
        if self._caches.serviceaccounts.get(name, "default") is not None:
            return
        body = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": name},
        }
        try:
            await self._client.create(SERVICEACCOUNTS, body, name)
        except ApiError as err:
            if not (err.already_exists or err.is_not_found or err.status == 403):
                raise
