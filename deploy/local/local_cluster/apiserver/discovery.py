"""Discovery: which groups, versions and resources there are, in the aggregated and the older form.

Documents are made when asked for and kept until a CRD changes what is served.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from local_cluster.apiserver.cluster import Cluster
from local_cluster.apiserver.errors import no_such_path
from local_cluster.apiserver.resources import Manifest, Resource

AGGREGATED_TYPE = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def accepts_aggregated(accept: str) -> bool:
    """Tell whether a client takes aggregated discovery, in the version that is served."""
    wanted = {"g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"}
    return any(
        wanted <= {part.strip() for part in clause.split(";")} for clause in accept.split(",")
    )


class Discovery:
    """Builds discovery documents.

    Args:
        cluster: for the registry.
        address: ``host:port`` that ``/api`` shows.
    """

    def __init__(self, cluster: Cluster, address: str) -> None:
        self._cluster = cluster
        self._address = address
        self._made_for = -1
        self._cache: dict[str, tuple[bytes, str]] = {}

    def aggregated(self, path: str) -> tuple[bytes, str]:
        """Give the aggregated document of ``/api`` or ``/apis``, and its ETag."""
        return self._cached("aggregated " + path, lambda: self._build_aggregated(path == "/api"))

    def versions(self) -> bytes:
        """Give the ``APIVersions`` of ``/api``."""
        document = {
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [
                {"clientCIDR": "0.0.0.0/0", "serverAddress": self._address}
            ],
        }
        return orjson.dumps(document)

    def group_list(self) -> bytes:
        """Give the ``APIGroupList`` of ``/apis``."""
        return self._cached("groups", self._build_groups)[0]

    def group(self, name: str) -> bytes:
        """Give the ``APIGroup`` of ``/apis/GROUP``, or raise 404."""
        for group, versions in self._cluster.registry.groups():
            if group and group == name:
                return orjson.dumps(
                    {"kind": "APIGroup", "apiVersion": "v1", **_group(group, versions)}
                )
        raise no_such_path()

    def resource_list(self, group: str, version: str) -> bytes:
        """Give the ``APIResourceList`` of one group and version, or raise 404."""
        if not self._cluster.registry.has_version(group, version):
            raise no_such_path()
        return self._cached(f"{group}/{version}", lambda: self._build_resources(group, version))[0]

    def _cached(self, key: str, build: Any) -> tuple[bytes, str]:
        if self._made_for != self._cluster.registry.changes:
            self._cache.clear()
            self._made_for = self._cluster.registry.changes
        if key not in self._cache:
            body = orjson.dumps(build())
            self._cache[key] = (body, f'"{hashlib.sha512(body).hexdigest().upper()}"')
        return self._cache[key]

    def _build_groups(self) -> Manifest:
        groups = [
            _group(name, versions) for name, versions in self._cluster.registry.groups() if name
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def _build_resources(self, group: str, version: str) -> Manifest:
        entries: list[Manifest] = []
        for resource in self._cluster.registry.resources(group, version):
            entry: Manifest = {
                "name": resource.plural,
                "singularName": resource.singular,
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": list(resource.verbs),
            }
            if resource.short_names:
                entry["shortNames"] = list(resource.short_names)
            if resource.categories:
                entry["categories"] = list(resource.categories)
            if resource.storage_version_hash:
                entry["storageVersionHash"] = resource.storage_version_hash
            entries.append(entry)
            for sub in resource.subresources.values():
                entries.append(
                    {
                        "name": f"{resource.plural}/{sub.name}",
                        "singularName": "",
                        "namespaced": resource.namespaced,
                        **({"group": sub.group} if sub.group else {}),
                        **({"version": sub.version} if sub.version else {}),
                        "kind": sub.kind,
                        "verbs": list(sub.verbs),
                    }
                )
        group_version = f"{group}/{version}" if group else version
        document = {"kind": "APIResourceList", "groupVersion": group_version, "resources": entries}
        return document if group == "" else {"apiVersion": "v1", **document}

    def _build_aggregated(self, core: bool) -> Manifest:
        items = []
        for group, versions in self._cluster.registry.groups():
            if (group == "") is not core:
                continue
            items.append(
                {
                    "metadata": {"name": group} if group else {},
                    "versions": [
                        {
                            "version": version,
                            "resources": [
                                _aggregated(r)
                                for r in self._cluster.registry.resources(group, version)
                            ],
                            "freshness": "Current",
                        }
                        for version in versions
                    ],
                }
            )
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": "apidiscovery.k8s.io/v2",
            "metadata": {},
            "items": items,
        }


def _group(name: str, versions: list[str]) -> Manifest:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _aggregated(resource: Resource) -> Manifest:
    # Built-in types leave group and version of their kind empty here: those of the surrounding entry hold.
    own = resource.crd is not None
    group, version = (resource.group, resource.version) if own else ("", "")
    entry: Manifest = {
        "resource": resource.plural,
        "responseKind": {"group": group, "version": version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": {
                    "group": sub.group or group,
                    "version": sub.version or version,
                    "kind": sub.kind,
                },
                "verbs": list(sub.verbs),
            }
            for sub in resource.subresources.values()
        ]
    return entry
