"""What is served: resource types, built in or from CustomResourceDefinitions.

Takes the packaged list of built-in types and the stored CRDs; gives look-ups by path, by kind and by storage key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

Manifest = dict[str, Any]

CRD_KEY = "apiextensions.k8s.io/customresourcedefinitions"

#: Types that two API groups or versions serve from one store: (group, version, plural) -> (key, storage apiVersion).
SHARED_STORAGE = {
    ("autoscaling", "v1", "horizontalpodautoscalers"): (
        "autoscaling/horizontalpodautoscalers",
        "autoscaling/v2",
    ),
    ("events.k8s.io", "v1", "events"): ("/events", "v1"),
}


@dataclass(frozen=True, slots=True)
class Subresource:
    """A subresource as discovery shows it."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Resource:
    """A resource type in one version.

    Attributes:
        storage_key: ``group/plural``, where its objects lie.
        storage_api_version: the apiVersion in which they lie there.
        crd: the CustomResourceDefinition behind it, None for a built-in type.
    """

    group: str
    version: str
    plural: str
    singular: str
    kind: str
    list_kind: str
    namespaced: bool
    verbs: tuple[str, ...]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: dict[str, Subresource] = field(default_factory=dict)
    storage_version_hash: str = ""
    storage_key: str = ""
    storage_api_version: str = ""
    crd: Manifest | None = None
    api_version: str = ""
    qualified: str = ""

    def __post_init__(self) -> None:
        """Derive the names that every request needs."""
        api_version = f"{self.group}/{self.version}" if self.group else self.version
        object.__setattr__(self, "api_version", api_version)
        qualified = f"{self.plural}.{self.group}" if self.group else self.plural
        object.__setattr__(self, "qualified", qualified)
        if not self.storage_key:
            object.__setattr__(self, "storage_key", f"{self.group}/{self.plural}")
        if not self.storage_api_version:
            object.__setattr__(self, "storage_api_version", api_version)

    @property
    def version_schema(self) -> Manifest:
        """The entry of ``spec.versions`` that this is; empty for a built-in type."""
        for version in (self.crd or {}).get("spec", {}).get("versions", []):
            if version["name"] == self.version:
                return dict(version)
        return {}


def _builtin_resource(group: str, version: str, entry: Manifest) -> Resource:
    key, storage_version = SHARED_STORAGE.get((group, version, entry["name"]), ("", ""))
    return Resource(
        group=group,
        version=version,
        plural=entry["name"],
        singular=entry["singular"],
        kind=entry["kind"],
        list_kind=entry["kind"] + "List",
        namespaced=entry["namespaced"],
        verbs=tuple(entry["verbs"]),
        short_names=tuple(entry.get("shortNames", ())),
        categories=tuple(entry.get("categories", ())),
        subresources={
            sub["name"]: Subresource(
                sub["name"],
                sub["kind"],
                tuple(sub["verbs"]),
                sub.get("group", ""),
                sub.get("version", ""),
            )
            for sub in entry.get("subresources", ())
        },
        storage_version_hash=entry.get("storageVersionHash", ""),
        storage_key=key,
        storage_api_version=storage_version,
    )


def build_crd_resources(crd: Manifest, version_hash: str) -> list[Resource]:
    """Build one resource for each served version of a CustomResourceDefinition.

    Args:
        crd: the stored object, its ``status.acceptedNames`` filled.
        version_hash: what discovery shows as ``storageVersionHash``.
    """
    spec, names = crd["spec"], crd["spec"]["names"]
    storage = next(v["name"] for v in spec["versions"] if v.get("storage"))
    resources = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = {}
        declared = version.get("subresources") or {}
        if "status" in declared:
            subresources["status"] = Subresource(
                "status", names["kind"], ("get", "patch", "update")
            )
        if "scale" in declared:
            subresources["scale"] = Subresource(
                "scale", "Scale", ("get", "patch", "update"), "autoscaling", "v1"
            )
        resources.append(
            Resource(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                singular=names.get("singular") or names["kind"].lower(),
                kind=names["kind"],
                list_kind=names.get("listKind") or names["kind"] + "List",
                namespaced=spec["scope"] == "Namespaced",
                verbs=(
                    "delete",
                    "deletecollection",
                    "get",
                    "list",
                    "patch",
                    "create",
                    "update",
                    "watch",
                ),
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=subresources,
                storage_version_hash=version_hash,
                storage_api_version=f"{spec['group']}/{storage}",
                crd=crd,
            )
        )
    return resources


class Registry:
    """All resource types that are served now."""

    def __init__(self) -> None:
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self._by_kind: dict[tuple[str, str, str], Resource] = {}
        self._by_key: dict[str, Resource] = {}
        self._groups: dict[str, list[str]] = {}
        self._crds: dict[str, list[Resource]] = {}
        #: Grows with each change; what is cached from the registry is cached with it.
        self.changes = 0
        text = files(__package__).joinpath("resources.json").read_text(encoding="utf-8")
        for group in json.loads(text):
            for version in group["versions"]:
                self._groups.setdefault(group["group"], []).append(version["version"])
                for entry in version["resources"]:
                    self._add(_builtin_resource(group["group"], version["version"], entry))

    def _add(self, resource: Resource) -> None:
        self._by_path[resource.group, resource.version, resource.plural] = resource
        self._by_kind[resource.group, resource.version, resource.kind] = resource
        if resource.storage_api_version == resource.api_version:
            self._by_key[resource.storage_key] = resource

    def add_crd(self, name: str, resources: list[Resource]) -> None:
        """Serve the resources of a CRD, in place of what it served before."""
        self.remove_crd(name)
        self._crds[name] = resources
        for resource in resources:
            self._add(resource)
            versions = self._groups.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
                versions.sort(key=version_priority)
        if resources and resources[0].storage_key not in self._by_key:
            self._by_key[resources[0].storage_key] = resources[
                0
            ]  # the storage version is not served
        self.changes += 1

    def remove_crd(self, name: str) -> None:
        """Stop serving the resources of a CRD."""
        for resource in self._crds.pop(name, []):
            self._by_path.pop((resource.group, resource.version, resource.plural), None)
            self._by_kind.pop((resource.group, resource.version, resource.kind), None)
            self._by_key.pop(resource.storage_key, None)
            if not any(
                (group, version) == (resource.group, resource.version)
                for group, version, _ in self._by_path
            ):
                self._groups[resource.group].remove(resource.version)
                if not self._groups[resource.group]:
                    del self._groups[resource.group]
            self.changes += 1

    def lookup(self, group: str, version: str, plural: str) -> Resource | None:
        """Find the resource behind a path."""
        return self._by_path.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """Find the resource of an ``apiVersion`` and ``kind``."""
        group, _, version = api_version.rpartition("/")
        return self._by_kind.get((group, version, kind))

    def by_key(self, storage_key: str) -> Resource | None:
        """Find the resource, in its storage version, of a storage key."""
        return self._by_key.get(storage_key)

    def groups(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each API group with its versions, preferred first."""
        yield from self._groups.items()

    def has_version(self, group: str, version: str) -> bool:
        """Tell whether anything of this group and version is served."""
        return version in self._groups.get(group, ())

    def resources(self, group: str, version: str) -> list[Resource]:
        """List the resources of one group and version, in discovery order."""
        return [r for r in self._by_path.values() if (r.group, r.version) == (group, version)]

    def stored(self) -> list[Resource]:
        """List one resource for each storage key: the one in the storage version."""
        return list(self._by_key.values())


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key for versions: GA before beta before alpha, newer before older, others last by name."""
    rest = version[1:] if version.startswith("v") else ""
    for rank, stage in ((1, "beta"), (2, "alpha")):
        if stage in rest:
            major, _, minor = rest.partition(stage)
            if major.isdigit() and minor.isdigit():
                return (rank, -int(major), -int(minor), "")
            return (3, 0, 0, version)
    return (0, -int(rest), 0, "") if rest.isdigit() else (3, 0, 0, version)
