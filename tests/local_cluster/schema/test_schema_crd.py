"""CustomResourceDefinitions and the schemas, defaults and rules that they define."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from local_cluster.schema import (
    FieldError,
    apply_defaults,
    crd_schema,
    prune,
    validate,
    validate_crd,
)

_GVK = ("example.com", "v1", "Widget")


def _crd(spec: dict[str, Any], **version: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {
                "plural": "widgets",
                "singular": "widget",
                "kind": "Widget",
                "listKind": "WidgetList",
            },
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
                    **version,
                }
            ],
        },
    }


Check = Callable[..., list[FieldError]]


@pytest.fixture
def check() -> Check:
    def run(spec: dict[str, Any], value: Any, old: Any = None) -> list[FieldError]:
        crd = _crd(spec)
        assert validate_crd(crd) == []
        schema = crd_schema(crd, "v1")

        def build(part: Any) -> dict[str, Any]:
            obj = {
                "apiVersion": "example.com/v1",
                "kind": "Widget",
                "metadata": {"name": "w"},
                "spec": part,
            }
            return apply_defaults(prune(obj, schema)[0], schema, *_GVK)

        return validate(build(value), schema, *_GVK, build(old) if old is not None else None)

    return run


def _fields(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "value", "reason", "message"),
    [
        ({"type": "integer"}, "x", "FieldValueTypeInvalid", 'Invalid value: "string": spec.a in body must be of type integer: "string"'),
        ({"type": "integer"}, 1.5, "FieldValueTypeInvalid", 'Invalid value: "number": spec.a in body must be of type integer: "number"'),
        ({"type": "string"}, True, "FieldValueTypeInvalid", 'Invalid value: "boolean": spec.a in body must be of type string: "boolean"'),
        ({"type": "integer", "minimum": 1}, 0, "FieldValueInvalid", "Invalid value: 0: spec.a in body should be greater than or equal to 1"),
        ({"type": "integer", "maximum": 3}, 4, "FieldValueInvalid", "Invalid value: 4: spec.a in body should be less than or equal to 3"),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, 0, "FieldValueInvalid", "Invalid value: 0: spec.a in body should be greater than 0"),
        ({"type": "integer", "multipleOf": 2}, 3, "FieldValueInvalid", "Invalid value: 3: spec.a in body should be a multiple of 2"),
        ({"type": "string", "minLength": 2}, "x", "FieldValueInvalid", 'Invalid value: "x": spec.a in body should be at least 2 chars long'),
        ({"type": "string", "maxLength": 2}, "xyz", "FieldValueTooLong", "Too long: may not be more than 2 bytes"),
        ({"type": "string", "pattern": "^a+$"}, "b", "FieldValueInvalid", "Invalid value: \"b\": spec.a in body should match '^a+$'"),
        ({"type": "string", "enum": ["x", "y"]}, "z", "FieldValueNotSupported", 'Unsupported value: "z": supported values: "x", "y"'),
        ({"type": "string", "format": "date-time"}, "soon", "FieldValueInvalid", 'Invalid value: "soon": spec.a in body must be of type date-time: "soon"'),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 1}, ["a", "b"], "FieldValueTooMany", "Too many: 2: must have at most 1 items"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, [], "FieldValueInvalid", "Invalid value: 0: spec.a in body should have at least 1 items"),
        ({"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1}, {"a": "1", "b": "2"}, "FieldValueTooMany", "Too many: 2: must have at most 1 items"),
        ({"x-kubernetes-int-or-string": True}, [], "FieldValueTypeInvalid", 'Invalid value: "array": spec.a in body must be of type integer,string: "array"'),
        ({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": "^1$"}, "2", "FieldValueInvalid", "Invalid value: \"2\": spec.a in body should match '^1$'"),
    ],
)  # fmt: skip
def test_value_outside_its_schema_is_refused_in_the_servers_words(
    schema: dict[str, Any], value: Any, reason: str, message: str, check: Check
) -> None:
    assert check(_fields(a=schema), {"a": value}) == [FieldError("spec.a", reason, message)]


def test_required_field_is_named(check: Check) -> None:
    spec = {**_fields(a={"type": "string"}), "required": ["a"]}
    assert check(spec, {}) == [FieldError("spec.a", "FieldValueRequired", "Required value")]


def test_one_of_must_match_exactly_once(check: Check) -> None:
    spec = {
        **_fields(a={"type": "string"}, b={"type": "string"}),
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
    }
    assert check(spec, {"a": "1"}) == []
    for value in ({}, {"a": "1", "b": "2"}):
        assert "must validate one and only one schema (oneOf)" in check(spec, value)[0].message


def test_second_item_with_the_same_key_is_a_duplicate(check: Check) -> None:
    item = {**_fields(n={"type": "string"}), "required": ["n"]}
    listed = {
        "type": "array",
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["n"],
    }
    assert check(_fields(a=listed), {"a": [{"n": "x"}, {"n": "x"}]}) == [
        FieldError("spec.a[1]", "FieldValueDuplicate", 'Duplicate value: {"n":"x"}')
    ]


def test_unchanged_invalid_value_is_let_through_on_update(check: Check) -> None:
    spec = _fields(a={"type": "string", "maxLength": 1}, b={"type": "string"})
    assert check(spec, {"a": "long", "b": "2"}, {"a": "long", "b": "1"}) == []
    assert check(spec, {"a": "longer", "b": "1"}, {"a": "long", "b": "1"}) != []


def _rule(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"rule": text, **more}]


@pytest.mark.parametrize(
    ("rule", "value", "passes"),
    [
        ("has(self.a) == has(self.b)", {"a": "x", "b": "y"}, True),
        ("has(self.a) == has(self.b)", {"a": "x"}, False),
        ("!has(self.n) || self.n > 0.5", {"n": 1}, True),
        ("self.l.all(x, x.startsWith('a'))", {"l": ["ab", "ac"]}, True),
        ("self.l.all(x, x.startsWith('a'))", {"l": ["ab", "bc"]}, False),
        ("size(self.a) == 2", {"a": "éa"}, True),
        ("self.a.matches('^[a-z]+$')", {"a": "abc"}, True),
        ("self.a.find('[0-9]+') == '12'", {"a": "ab12"}, True),
        (
            "isURL(self.a) && url(self.a).getScheme() == 'https'",
            {"a": "https://x.example.com/y"},
            True,
        ),
        ("isURL(self.a) && url(self.a).getHost() == 'x:1'", {"a": "https://x:1/y"}, True),
        (
            "isQuantity(self.a) && quantity(self.a).isGreaterThan(quantity('1Gi'))",
            {"a": "1025Mi"},
            True,
        ),
        ("isIP(self.a)", {"a": "10.0.0.1"}, True),
        ("cidr('10.0.0.0/8').containsIP(self.a)", {"a": "10.1.1.1"}, True),
        ("self.?a.orValue('d') == 'd'", {}, True),
        ("self.?o.?p.orValue(7) == 7", {}, True),
        ("self.?o.p.orValue(7) == 3", {"o": {"p": 3}}, True),
        ("self.a in ['x', 'y'] ? self.l.size() == 1 : true", {"a": "x", "l": ["1"]}, True),
        ("self.l.exists_one(x, x == 'a') && sets.contains(self.l, ['a'])", {"l": ["a", "b"]}, True),
        ("self.a.lowerAscii().split('/')[0] == 'ab'", {"a": "AB/c"}, True),
        (
            "self.__namespace__ == 'x' && self.d__dash__e == 'y'",
            {"namespace": "x", "d-e": "y"},
            True,
        ),
        ("self.t < timestamp('2027-01-01T00:00:00Z')", {"t": "2026-01-01T00:00:00Z"}, True),
        ("semver(self.a).isLessThan(semver('1.10.0'))", {"a": "1.9.0"}, True),
        ("self.m.all(k, self.m[k] > 0)", {"m": {"x": 1}}, True),
    ],
)
def test_rule_is_evaluated_as_kubernetes_does(
    rule: str, value: dict[str, Any], passes: bool, check: Check
) -> None:
    text = {"type": "string"}
    spec = {
        **_fields(
            a=text,
            b=text,
            n={"type": "number"},
            l={"type": "array", "items": text},
            o=_fields(p={"type": "integer"}),
            t={"type": "string", "format": "date-time"},
            m={"type": "object", "additionalProperties": {"type": "integer"}},
            namespace=text,
            **{"d-e": text},
        ),
        "x-kubernetes-validations": _rule(rule, message="no"),
    }
    expected = [] if passes else [FieldError("spec", "FieldValueInvalid", "Invalid value: no")]
    assert check(spec, value) == expected


def test_transition_rule_sees_the_stored_value(check: Check) -> None:
    fixed = {
        "type": "string",
        "x-kubernetes-validations": _rule("self == oldSelf", message="a is fixed"),
    }
    spec = _fields(a=fixed)
    assert check(spec, {"a": "x"}) == []
    assert check(spec, {"a": "x"}, {"a": "x"}) == []
    assert check(spec, {"a": "y"}, {"a": "x"}) == [
        FieldError("spec.a", "FieldValueInvalid", 'Invalid value: "y": a is fixed')
    ]


def test_rule_with_optional_old_self_runs_on_create_too(check: Check) -> None:
    rule = _rule(
        "oldSelf.hasValue() || self == 'first'", message="starts as first", optionalOldSelf=True
    )
    spec = _fields(a={"type": "string", "x-kubernetes-validations": rule})
    assert check(spec, {"a": "first"}) == []
    assert check(spec, {"a": "second"})[0].message == 'Invalid value: "second": starts as first'
    assert check(spec, {"a": "second"}, {"a": "first"}) == []


def test_rule_may_say_its_own_message_reason_and_field(check: Check) -> None:
    rule = _rule(
        "self.a < self.b",
        message="unused",
        messageExpression="'a is ' + string(self.a)",
        reason="FieldValueForbidden",
        fieldPath=".a",
    )
    spec = {
        **_fields(a={"type": "integer"}, b={"type": "integer"}),
        "x-kubernetes-validations": rule,
    }
    assert check(spec, {"a": 2, "b": 1}) == [
        FieldError("spec.a", "FieldValueForbidden", "Forbidden: a is 2")
    ]


def test_rule_without_message_is_quoted(check: Check) -> None:
    spec = {"type": "string", "x-kubernetes-validations": _rule("self != 'x'")}
    assert (
        check(_fields(a=spec), {"a": "x"})[0].message
        == "Invalid value: \"x\": failed rule: self != 'x'"
    )


def test_rules_wait_until_the_object_fits_its_schema(check: Check) -> None:
    spec = {**_fields(a={"type": "integer"}), "x-kubernetes-validations": _rule("self.a > 0")}
    errors = check(spec, {"a": "x"})
    assert [error.field for error in errors] == ["spec.a", "<nil>"]
    assert "some validation rules were not checked" in errors[1].message


def test_defaults_fill_nested_fields_items_and_map_values() -> None:
    inner = {**_fields(x={"type": "integer", "default": 1}), "default": {}}
    many = {"type": "array", "items": _fields(y={"type": "string", "default": "d"})}
    mapped = {
        "type": "object",
        "additionalProperties": _fields(z={"type": "boolean", "default": True}),
    }
    schema = crd_schema(_crd(_fields(inner=inner, many=many, mapped=mapped)), "v1")
    obj = {"metadata": {"name": "w"}, "spec": {"many": [{}], "mapped": {"k": {}}}}
    before = copy.deepcopy(obj)
    filled = apply_defaults(obj, schema, *_GVK)
    assert filled["spec"] == {"inner": {"x": 1}, "many": [{"y": "d"}], "mapped": {"k": {"z": True}}}
    assert obj == before
    assert apply_defaults(filled, schema, *_GVK) == filled


def test_null_counts_as_absent_unless_nullable() -> None:
    spec = _fields(
        a={"type": "string", "default": "d"},
        b={"type": "string", "nullable": True, "default": "d"},
        c={"type": "string"},
    )
    schema = crd_schema(_crd(spec), "v1")
    obj = {"metadata": {}, "spec": {"a": None, "b": None, "c": None}}
    assert apply_defaults(obj, schema, *_GVK)["spec"] == {"a": "d", "b": None}


def test_pruning_keeps_what_the_schema_leaves_open() -> None:
    spec = _fields(
        free={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        half={"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"k": _fields(x={"type": "string"})}},
        pod={"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
        many={"type": "array", "items": _fields(a={"type": "string"})},
        labels={"type": "object", "additionalProperties": {"type": "string"}},
    )  # fmt: skip
    schema = crd_schema(_crd(spec), "v1")
    obj = {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w"},
        "bogus": 1,
        "spec": {
            "free": {"anything": {"goes": 1}},
            "half": {"k": {"x": "1", "y": "2"}, "other": 1},
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
            "many": [{"a": "1"}, {"b": "2"}],
            "labels": {"any": "key"},
        },
    }
    pruned, unknown = prune(obj, schema)
    assert unknown == ["bogus", "spec.half.k.y", "spec.many[1].b"]
    assert pruned["spec"]["free"] == {"anything": {"goes": 1}}
    assert pruned["spec"]["many"] == [{"a": "1"}, {}]
    assert "bogus" in obj


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (lambda c: c["metadata"].update(name="x.example.com"), "metadata.name", 'Invalid value: "x.example.com": must be spec.names.plural+"."+spec.group'),
        (lambda c: c["spec"].update(scope="World"), "spec.scope", 'Unsupported value: "World": supported values: "Cluster", "Namespaced"'),
        (lambda c: c["spec"]["versions"][0].update(storage=False), "spec.versions", "must have exactly one version marked as storage version"),
        (lambda c: c["spec"]["versions"][0].pop("schema"), "spec.versions[0].schema.openAPIV3Schema", "Required value: schemas are required"),
        (lambda c: c["spec"]["names"].update(kind=""), "spec.names.kind", "Required value"),
    ],
)  # fmt: skip
def test_unsound_definition_is_refused(
    change: Callable[[dict[str, Any]], Any], field: str, message: str
) -> None:
    crd = _crd(_fields(a={"type": "string"}))
    change(crd)
    assert any(error.field == field and message in error.message for error in validate_crd(crd))


_ROOT = "spec.versions[0].schema.openAPIV3Schema.properties[spec]"


@pytest.mark.parametrize(
    ("schema", "field", "message"),
    [
        ({}, ".type", "Required value: must not be empty for specified object fields"),
        ({"type": "text"}, ".type", 'Unsupported value: "text"'),
        ({"type": "array"}, ".items", "Required value: must be specified"),
        ({"type": "object", "properties": {}, "additionalProperties": {"type": "string"}}, ".additionalProperties", "mutual exclusive"),
        ({"type": "string", "pattern": "["}, ".pattern", "must be a valid regular expression"),
        ({"type": "integer", "default": "x"}, ".default", "must be of type integer"),
        ({"type": "string", "uniqueItems": True}, ".uniqueItems", "Forbidden"),
        ({"type": "object", "anyOf": [{"type": "object"}]}, ".anyOf[0].type", "must be empty to be structural"),
        ({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}, ".x-kubernetes-list-map-keys", "must not be empty"),
        ({"type": "string", "x-kubernetes-validations": [{"rule": "self >"}]}, ".x-kubernetes-validations[0].rule", "compilation failed"),
        ({"type": "string", "x-kubernetes-validations": [{"rule": "slef == 'x'"}]}, ".x-kubernetes-validations[0].rule", "undeclared reference to 'slef'"),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.b == 'x'"}]}, ".x-kubernetes-validations[0].rule", "undefined field 'b'"),
        ({"type": "string", "x-kubernetes-validations": [{"rule": "self == 'x'", "message": "a\nb"}]}, ".x-kubernetes-validations[0].message", "must not contain line breaks"),
    ],
)  # fmt: skip
def test_schema_that_is_not_structural_is_refused(
    schema: dict[str, Any], field: str, message: str
) -> None:
    errors = validate_crd(_crd(schema))
    assert any(error.field == _ROOT + field and message in error.message for error in errors), (
        errors
    )
