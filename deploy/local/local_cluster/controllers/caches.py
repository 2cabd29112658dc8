"""The local copies all controllers share, with the indexes they look things up by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from local_cluster.client import (
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    HPAS,
    JOBS,
    LEASES,
    NAMESPACES,
    NODES,
    PDBS,
    PODS,
    REPLICASETS,
    SERVICEACCOUNTS,
    SERVICES,
    Client,
    Index,
    InformerSet,
    Manifest,
)
from local_cluster.controllers.owners import controller_uid

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


def copied(manifest: Manifest) -> Any:
    """A copy of a cached object to edit; several times faster than `copy.deepcopy`."""
    return orjson.loads(orjson.dumps(manifest))


def _by_namespace(item: Manifest) -> Iterable[str]:
    yield item["metadata"].get("namespace", "")


def _by_controller(item: Manifest) -> Iterable[str]:
    # Orphans are found under their namespace, for adoption.
    yield controller_uid(item) or f"orphans/{item['metadata'].get('namespace', '')}"


def _by_service(item: Manifest) -> Iterable[str]:
    metadata = item["metadata"]
    yield f"{metadata['namespace']}/{(metadata.get('labels') or {}).get(SERVICE_NAME_LABEL, '')}"


def _by_node(item: Manifest) -> Iterable[str]:
    if node := item["spec"].get("nodeName"):
        yield node


def _by_label(item: Manifest) -> Iterable[str]:
    metadata = item["metadata"]
    for name, value in (metadata.get("labels") or {}).items():
        yield f"{metadata.get('namespace', '')}/{name}={value}"


def _by_selector(item: Manifest) -> Iterable[str]:
    """One required label is enough to find a selector by the labels it may match."""
    selector = item["spec"].get("selector") or {}
    labels = selector.get("matchLabels") if item["kind"] != "Service" else selector
    namespace = item["metadata"].get("namespace", "")
    if labels:
        name = min(labels)
        yield f"{namespace}/{name}={labels[name]}"
    else:
        yield f"{namespace}/*"


def find_by_selector(index: Index, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
    """Objects of a ``_by_selector`` index that may select these labels; the caller checks."""
    found = index.get(f"{namespace}/*")
    for name, value in labels.items():
        found += index.get(f"{namespace}/{name}={value}")
    return found


class Caches:
    """Informers and indexes over one client.

    Args:
        client: an open client.
    """

    def __init__(self, client: Client) -> None:
        self.informers = InformerSet(client)
        of = self.informers.of
        self.deployments = of(DEPLOYMENTS)
        self.replicasets = of(REPLICASETS)
        self.pods = of(PODS)
        self.jobs = of(JOBS)
        self.nodes = of(NODES)
        self.leases = of(LEASES)
        self.services = of(SERVICES)
        self.slices = of(ENDPOINTSLICES)
        self.endpoints = of(ENDPOINTS)
        self.hpas = of(HPAS)
        self.pdbs = of(PDBS)
        self.namespaces = of(NAMESPACES)
        self.serviceaccounts = of(SERVICEACCOUNTS)
        self.pods_by_controller = self.pods.add_index(_by_controller)
        self.pods_by_namespace = self.pods.add_index(_by_namespace)
        self.pods_by_node = self.pods.add_index(_by_node)
        self.replicasets_by_controller = self.replicasets.add_index(_by_controller)
        self.replicasets_by_namespace = self.replicasets.add_index(_by_namespace)
        self.deployments_by_namespace = self.deployments.add_index(_by_namespace)
        self.pods_by_label = self.pods.add_index(_by_label)
        self.services_by_selector = self.services.add_index(_by_selector)
        self.slices_by_service = self.slices.add_index(_by_service)
        self.pdbs_by_selector = self.pdbs.add_index(_by_selector)

    def pods_with(self, namespace: str, labels: Mapping[str, str] | None) -> list[Manifest]:
        """Pods that may have all these labels: those with the rarest of them."""
        if not labels:
            return self.pods_by_namespace.get(namespace)
        groups = [self.pods_by_label.get(f"{namespace}/{k}={v}") for k, v in labels.items()]
        return min(groups, key=len)
