"""`Schema`: one resolved node of a type, the same for built-in kinds and custom resources."""

from __future__ import annotations

from typing import Any


class Schema:
    """A node of a schema with `$ref` and `allOf` already followed.

    Attributes:
        type: `object`, `array`, `string`, `integer`, `number`, `boolean`, or empty where any value is allowed.
        format: the OpenAPI format, e.g. `int32`, `date-time`, `int-or-string`.
        properties: declared fields of an object.
        additional: the schema of the values of a map, if it is one.
        items: the schema of the items of a list.
        required: names of the fields that must be there.
        list_type: `atomic`, `map` or `set`.
        map_keys: the keys that tell the items of a `map` list apart.
        atomic: an object that has one owner as a whole.
        strategies: the strategic-merge strategies (`merge`, `replace`, `retainKeys`).
        merge_key: the key of a strategic merge.
        default: the OpenAPI default; look at `has_default` first.
        rules: the CEL rules of this node, as in the CRD.
        raw: the value validations as written (`minimum`, `maxLength`, `anyOf`, …).
        native: a node of a built-in kind, which a real server holds in a Go struct.
        go_type: the last part of the OpenAPI name of a built-in type, e.g. `Quantity`.
        has_status: on a root: `status` is a subresource, so that the main endpoint leaves it alone.
    """

    __slots__ = (
        "additional", "atomic", "cache", "default", "embedded", "enum", "format", "go_type",
        "has_default", "has_status", "int_or_string", "items", "list_type", "map_keys", "merge_key",
        "native", "nullable", "preserve_unknown", "properties", "raw", "required", "rules",
        "strategies", "type",
    )  # fmt: skip

    def __init__(self, *, native: bool = False) -> None:
        self.type = ""
        self.format = ""
        self.properties: dict[str, Schema] = {}
        self.additional: Schema | None = None
        self.items: Schema | None = None
        self.required: tuple[str, ...] = ()
        self.list_type = "atomic"
        self.map_keys: tuple[str, ...] = ()
        self.atomic = False
        self.strategies: frozenset[str] = frozenset()
        self.merge_key = ""
        self.int_or_string = False
        self.preserve_unknown = False
        self.embedded = False
        self.nullable = False
        self.has_default = False
        self.default: Any = None
        self.enum: list[Any] | None = None
        self.rules: list[dict[str, Any]] = []
        self.raw: dict[str, Any] = {}
        self.native = native
        self.go_type = ""
        self.has_status = False
        # What other modules precompute for this node (walk plans, compiled patterns and rules), by their key.
        self.cache: dict[str, Any] = {}

    def child(self, name: str) -> Schema | None:
        """Return the schema of the field or map entry `name`, or None where there is none."""
        node = self.properties.get(name)
        return node if node is not None else self.additional

    def copy(self) -> Schema:
        """Return a copy that shares its children with this node."""
        twin = Schema.__new__(Schema)
        for slot in Schema.__slots__:
            setattr(twin, slot, getattr(self, slot))
        twin.cache = {}
        return twin

    def __repr__(self) -> str:
        return f"Schema({self.go_type or self.type or 'any'})"


_VALUE_RULES = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "minItems",
    "maxItems", "minProperties", "maxProperties", "multipleOf", "uniqueItems", "allOf", "anyOf", "oneOf", "not",
)  # fmt: skip


class Compiler:
    """Turns OpenAPI schemas into `Schema` nodes; a name is compiled once, recursive types end in the same node."""

    def __init__(self, definitions: dict[str, Any], *, native: bool) -> None:
        self._definitions = definitions
        self._native = native
        self._named: dict[str, Schema] = {}
        self._open: set[str] = set()
        self._pending: list[tuple[Schema, Schema, dict[str, Any]]] = []

    def named(self, name: str) -> Schema:
        """Compile the definition `name`."""
        node = self._named.get(name)
        if node is not None:
            return node
        node = Schema(native=self._native)
        self._named[name] = node
        self._open.add(name)
        self._fill(node, self._definitions[name])
        node.go_type = name.rsplit(".", 1)[-1]
        self._open.discard(name)
        if not self._open:
            pending, self._pending = self._pending, []
            for copy, source, raw in pending:
                for slot in Schema.__slots__:
                    if slot != "cache":
                        setattr(copy, slot, getattr(source, slot))
                self._overlay(copy, raw)
        return node

    def node(self, raw: dict[str, Any]) -> Schema:
        """Compile one schema; a `$ref`, alone or in `allOf`, is followed and overlaid."""
        ref = raw.get("$ref")
        if ref is None and self._native:
            parts = raw.get("allOf")
            if parts and len(parts) == 1:
                ref = parts[0].get("$ref")
        if ref is None:
            node = Schema(native=self._native)
            self._fill(node, raw)
            return node
        name = ref.rsplit("/", 1)[-1]
        source = self.named(name)
        if len(raw) == 1:
            return source
        copy = source.copy()
        if name in self._open:  # a recursive type: its fields are not known yet
            self._pending.append((copy, source, raw))
        self._overlay(copy, raw)
        return copy

    def _overlay(self, node: Schema, raw: dict[str, Any]) -> None:
        if "default" in raw:
            node.has_default, node.default = True, raw["default"]
        if raw.get("x-kubernetes-map-type") == "atomic":
            node.atomic = True
        strategy = raw.get("x-kubernetes-patch-strategy")
        if strategy:
            node.strategies = frozenset(strategy.split(","))

    def _fill(self, node: Schema, raw: dict[str, Any]) -> None:
        node.type = raw.get("type", "")
        node.format = raw.get("format", "")
        node.int_or_string = bool(
            raw.get("x-kubernetes-int-or-string") or node.format == "int-or-string"
        )
        node.preserve_unknown = bool(raw.get("x-kubernetes-preserve-unknown-fields"))
        node.embedded = bool(raw.get("x-kubernetes-embedded-resource"))
        node.nullable = bool(raw.get("nullable"))
        node.required = tuple(raw.get("required", ()))
        node.enum = raw.get("enum")
        node.rules = raw.get("x-kubernetes-validations", [])
        node.raw = {key: raw[key] for key in _VALUE_RULES if key in raw}
        self._overlay(node, raw)
        for name, child in raw.get("properties", {}).items():
            node.properties[name] = self.node(child)
        extra = raw.get("additionalProperties")
        if isinstance(extra, dict):
            node.additional = self.node(extra)
        elif extra is True:
            node.preserve_unknown = True
        items = raw.get("items")
        if isinstance(items, dict):
            node.items = self.node(items)
        node.merge_key = raw.get("x-kubernetes-patch-merge-key", "")
        list_type = raw.get("x-kubernetes-list-type")
        if list_type:
            node.list_type = list_type
            node.map_keys = tuple(raw.get("x-kubernetes-list-map-keys", ()))
        elif node.type == "array" and "merge" in node.strategies:
            # Older lists carry only the strategic-merge marks; a real server derives the topology from them.
            node.list_type = "map" if node.merge_key else "set"
            node.map_keys = (node.merge_key,) if node.merge_key else ()
