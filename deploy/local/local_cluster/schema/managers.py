"""The entries of `metadata.managedFields`: who owns which fields since when."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from local_cluster.schema.fieldset import Fields, sort_fields, union

# At most so many Update managers; older ones are thrown together (a real server's limit).
_MAX_UPDATE_MANAGERS = 10
# Metadata that nobody owns.
_UNOWNED = (
    "f:name", "f:namespace", "f:creationTimestamp", "f:selfLink", "f:uid", "f:clusterName", "f:generation",
    "f:managedFields", "f:resourceVersion",
)  # fmt: skip


class Owner(NamedTuple):
    """Identifies an entry. An applier is the same in every API version, so its `api_version` here is empty."""

    manager: str
    operation: str
    api_version: str
    subresource: str

    def identifier(self) -> str:
        """Return the text by which conflicts are sorted."""
        entry = {"manager": self.manager, "operation": self.operation}
        if self.api_version:
            entry["apiVersion"] = self.api_version
        if self.subresource:
            entry["subresource"] = self.subresource
        return json.dumps(entry, separators=(",", ":"))

    def describe(self, version: str, time: str | None) -> str:
        """Return the manager as conflict messages name it."""
        text = json.dumps(self.manager)
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        if self.operation == "Update":
            text += f" using {version}"
        return text

    @staticmethod
    def sort_key(entry: dict[str, Any]) -> tuple[str, str, str, str, str]:
        """Return the order in which a real server lists entries: appliers first, then by time and name."""
        return (
            entry.get("operation", ""),
            entry.get("time") or "",
            entry.get("manager", ""),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
        )


class Managers:
    """The field sets of all managers of one object."""

    __slots__ = ("decoded", "fields", "times", "versions")

    def __init__(
        self,
        fields: dict[Owner, Fields] | None = None,
        times: dict[Owner, str] | None = None,
        versions: dict[Owner, str] | None = None,
    ) -> None:
        self.fields = fields if fields is not None else {}
        self.times = times if times is not None else {}
        self.versions = versions if versions is not None else {}
        # Entries as they were stored: most stay as they are, and need not be built and sorted again.
        self.decoded: dict[Owner, dict[str, Any]] = {}

    def encode(self) -> list[dict[str, Any]]:
        """Return the list for `metadata.managedFields`."""
        entries: list[dict[str, Any]] = []
        for owner, fields in self.fields.items():
            stored = self.decoded.get(owner)
            if (
                stored is not None
                and stored.get("fieldsV1") is fields
                and stored.get("time") == self.times.get(owner)
                and stored.get("apiVersion") == self.versions.get(owner)
            ):
                entries.append(stored)
                continue
            entry: dict[str, Any] = {
                "manager": owner.manager,
                "operation": owner.operation,
                "apiVersion": self.versions.get(owner) or owner.api_version,
            }
            time = self.times.get(owner)
            if time:
                entry["time"] = time
            entry["fieldsType"] = "FieldsV1"
            entry["fieldsV1"] = sort_fields(fields)
            if owner.subresource:
                entry["subresource"] = owner.subresource
            entries.append(entry)
        entries.sort(key=Owner.sort_key)
        return entries

    def cap(self) -> None:
        """Throw the oldest Update managers together when there are too many."""
        updaters = [owner for owner in self.fields if owner.operation == "Update"]
        if len(updaters) <= _MAX_UPDATE_MANAGERS:
            return
        updaters.sort(key=lambda owner: (self.times.get(owner) or "", owner))
        surplus = updaters[: len(updaters) - _MAX_UPDATE_MANAGERS + 1]
        ancient = Owner("ancient-changes", "Update", surplus[-1].api_version, "")
        merged: Fields = {}
        for owner in surplus:
            merged = union(merged, self.fields.pop(owner))
        self.fields[ancient] = union(merged, self.fields.get(ancient, {}))
        self.versions[ancient] = ancient.api_version
        newest = self.times.get(surplus[-1])
        if newest:
            self.times[ancient] = newest


def decode_managers(obj: dict[str, Any] | None) -> Managers:
    """Read the managers of an object; entries that are no FieldsV1 make the whole list void, as in a real server."""
    managers = Managers()
    entries = (obj or {}).get("metadata", {}).get("managedFields") or ()
    for entry in entries:
        operation = entry.get("operation")
        if operation not in ("Apply", "Update") or entry.get("fieldsType") != "FieldsV1":
            return Managers()
        version = entry.get("apiVersion", "")
        owner = Owner(
            entry.get("manager", ""),
            operation,
            "" if operation == "Apply" else version,
            entry.get("subresource", ""),
        )
        managers.fields[owner] = entry.get("fieldsV1") or {}
        managers.versions[owner] = version
        managers.decoded[owner] = entry
        if entry.get("time"):
            managers.times[owner] = entry["time"]
    return managers


def strip_metadata(fields: Fields) -> Fields:
    """Return the set without what nobody owns: name, uid, versions and the like."""
    out = {key: value for key, value in fields.items() if key not in ("f:apiVersion", "f:kind")}
    metadata = out.get("f:metadata")
    if metadata is not None:
        rest = {k: v for k, v in metadata.items() if k != "." and (k not in _UNOWNED or v)}
        if rest:
            out["f:metadata"] = rest
        else:
            del out["f:metadata"]
    return out
