from __future__ import annotations

import copy

import pytest

from scoring_operator.cluster.ownership import (
    as_applied,
    is_as_applied,
    lost_fields,
    owned_fields,
    owns_field,
    stamp,
    was_applied,
)

WANTED = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "faq",
        "namespace": "default",
        "labels": {"a": "b"},
        "ownerReferences": [{"uid": "u", "kind": "ScoringModel", "name": "faq"}],
    },
    "spec": {
        "replicas": 1,
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "scorer",
                        "image": "i",
                        "args": ["serve"],
                        "ports": [{"containerPort": 8080}],
                    }
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
            }
        },
    },
}
OWNED = {
    "f:metadata": {
        "f:annotations": {"f:mlscoring.io/applied": {}},
        "f:labels": {"f:a": {}},
        "f:ownerReferences": {'k:{"uid":"u"}': {}},
    },
    "f:spec": {
        "f:replicas": {},
        "f:template": {
            "f:spec": {
                "f:containers": {
                    'k:{"name":"scorer"}': {
                        ".": {},
                        "f:name": {},
                        "f:image": {},
                        "f:args": {},
                        "f:ports": {
                            'k:{"containerPort":8080,"protocol":"TCP"}': {
                                ".": {},
                                "f:containerPort": {},
                            }
                        },
                    }
                },
                "f:volumes": {'k:{"name":"tmp"}': {".": {}, "f:name": {}, "f:emptyDir": {}}},
            }
        },
    },
}


def live(owned=OWNED, manager="m", **annotations):
    stored = copy.deepcopy(stamp(WANTED))
    stored["metadata"]["annotations"].update(annotations)
    stored["metadata"]["managedFields"] = [
        {"manager": manager, "operation": "Apply", "fieldsV1": owned}
    ]
    return stored


def without(*path):
    owned = copy.deepcopy(OWNED)
    at = owned
    for step in path[:-1]:
        at = at[step]
    del at[path[-1]]
    return owned


def test_what_is_owned_in_full_is_as_applied():
    assert lost_fields(stamp(WANTED), live(), "m") == []
    assert is_as_applied(stamp(WANTED), live(), "m")


def test_another_hash_is_a_change():
    changed = copy.deepcopy(WANTED)
    changed["spec"]["replicas"] = 2
    assert not is_as_applied(stamp(changed), live(), "m")


def test_an_object_that_we_never_applied_is_a_change():
    assert not is_as_applied(stamp(WANTED), live(manager="somebody"), "m")


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        (("f:spec", "f:replicas"), ".spec.replicas"),
        (("f:metadata", "f:labels"), ".metadata.labels"),
        (("f:metadata", "f:ownerReferences"), ".metadata.ownerReferences"),
        (
            ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"scorer"}', "f:image"),
            ".spec.template.spec.containers[0].image",
        ),
        (
            ("f:spec", "f:template", "f:spec", "f:containers"),
            ".spec.template.spec.containers[0]",
        ),
    ],
)
def test_a_field_that_somebody_took_is_found(path, lost):
    found = lost_fields(stamp(WANTED), live(without(*path)), "m")
    assert any(lost.startswith(f) or f.startswith(lost) for f in found)


def test_a_status_entry_of_the_same_manager_does_not_count():
    stored = live()
    stored["metadata"]["managedFields"][0]["subresource"] = "status"
    assert not is_as_applied(stamp(WANTED), stored, "m")


def test_what_was_created_is_as_applied_but_was_not_applied():
    stored = live()
    stored["metadata"]["managedFields"][0]["operation"] = "Update"
    assert is_as_applied(stamp(WANTED), stored, "m")
    assert not was_applied(stored, "m")
    assert was_applied(live(), "m")


def test_what_was_created_and_changed_counts_as_applied_beside_the_fields_of_others():
    stored = live()
    status = {"manager": "m", "operation": "Update", "subresource": "status", "fieldsV1": {}}
    other = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:paused": {}}}}
    changed = {"f:spec": {"f:replicas": {}, "f:minReadySeconds": {}, "f:template": {}}}
    more = {"manager": "m", "operation": "Update", "fieldsV1": changed}
    stored["metadata"]["managedFields"] += [status, other, more]
    assert not was_applied(stored, "m")
    managed = as_applied(stored, "m")
    mine = [e for e in managed if e["manager"] == "m" and "subresource" not in e]
    assert [e["operation"] for e in mine] == ["Apply"]
    assert {"f:replicas", "f:minReadySeconds", "f:template"} == mine[0]["fieldsV1"]["f:spec"].keys()
    # The template is owned as a whole by one entry, and in parts by the other: both stay.
    whole = {".": {}, **OWNED["f:spec"]["f:template"]}
    assert mine[0]["fieldsV1"]["f:spec"]["f:template"] == whole
    assert [e for e in managed if e not in mine] == [status, other]
    after = {"metadata": {"managedFields": managed}}
    assert was_applied(after, "m")
    assert owned_fields(after, "m") == owned_fields(stored, "m")
    assert as_applied({"metadata": {"managedFields": [other]}}, "m") == [other]


def test_owning_a_field_is_told():
    assert owns_field(live(), "m", "spec", "replicas")
    assert not owns_field(live(), "m", "spec", "paused")


def test_secret_values_do_not_enter_the_hash_but_are_compared():
    one = {"kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "MQ=="}}
    two = {"kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "Mg=="}}
    assert stamp(one)["metadata"] == stamp(two)["metadata"]
    owned = {
        "f:metadata": {"f:annotations": {"f:mlscoring.io/applied": {}}},
        "f:data": {"f:a": {}},
    }
    stored = copy.deepcopy(stamp(one))
    stored["metadata"]["managedFields"] = [
        {"manager": "m", "operation": "Apply", "fieldsV1": owned}
    ]
    assert is_as_applied(stamp(one), stored, "m")
    assert not is_as_applied(stamp(two), stored, "m")
    stored["data"]["of-the-user"] = "eA=="
    assert is_as_applied(stamp(one), stored, "m")
