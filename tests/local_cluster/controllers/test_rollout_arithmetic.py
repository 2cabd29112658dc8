from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local_cluster.controllers.deployment_status import (
    derive_rollout_status,
    derive_status,
    same_status,
    seconds_to_deadline,
)
from local_cluster.controllers.pods import pods_to_delete
from local_cluster.controllers.replicaset import derive_status as derive_set_status
from local_cluster.controllers.revisions import (
    build_replicaset,
    derive_annotations,
    find_new_set,
    sets_to_forget,
    template_hash,
)
from local_cluster.controllers.rollout import (
    Fences,
    derive_fences,
    is_saturated,
    new_replicaset_size,
    scale_down_old,
    scale_proportionally,
)
from local_cluster.controllers.times import format_time

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def deployment(replicas: int = 3, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
            **spec,
        },
        "status": {},
    }


def rolling(surge: int | str, unavailable: int | str) -> dict[str, Any]:
    return {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
    }


def replicaset(
    name: str, replicas: int, available: int | None = None, age: int = 0, **annotations: str
) -> dict[str, Any]:
    count = replicas if available is None else available
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": format_time(NOW - timedelta(seconds=age)),
            "annotations": {
                f"deployment.kubernetes.io/{key.replace('_', '-')}": value
                for key, value in annotations.items()
            },
        },
        "spec": {"replicas": replicas},
        "status": {"replicas": replicas, "availableReplicas": count, "readyReplicas": count},
    }


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (1, "25%", "25%", Fences(1, 0)),
        (4, "25%", "25%", Fences(1, 1)),
        (10, "25%", "25%", Fences(3, 2)),
        (3, 1, 0, Fences(1, 0)),
        (3, 0, 1, Fences(0, 1)),
        (3, "0%", "10%", Fences(0, 1)),
        (2, 0, 5, Fences(0, 2)),
        (0, 1, 1, Fences(1, 0)),
        (100, "29%", "29%", Fences(29, 29)),
    ],
)
def test_percentages_round_up_for_surge_and_down_for_unavailable(
    replicas: int, surge: int | str, unavailable: int | str, expected: Fences
) -> None:
    assert derive_fences(deployment(replicas, strategy=rolling(surge, unavailable))) == expected


@pytest.mark.parametrize(
    ("replicas", "old", "new", "expected"),
    [
        (3, 3, 0, 1),
        (3, 2, 1, 2),
        (3, 0, 3, 3),
        (3, 4, 0, 0),
        (2, 0, 5, 2),
        (10, 10, 0, 3),
    ],
)
def test_new_set_grows_only_as_far_as_the_surge_allows(
    replicas: int, old: int, new: int, expected: int
) -> None:
    sets = [replicaset("old", old), replicaset("new", new)]
    assert new_replicaset_size(deployment(replicas), sets, sets[1]) == expected


def test_recreate_gives_the_new_set_all_at_once() -> None:
    item = deployment(5, strategy={"type": "Recreate"})
    assert new_replicaset_size(item, [], None) == 5


@pytest.mark.parametrize(
    ("old", "old_available", "new", "new_available", "expected"),
    [
        # One surge pod, not available yet: nothing may go.
        (3, 3, 1, 0, {}),
        # It is available: one old pod may go.
        (3, 3, 1, 1, {"old": 2}),
        # An unhealthy old pod goes first, although the new one is not available either.
        (3, 2, 0, 0, {}),
        (4, 2, 0, 0, {"old": 3}),
        (3, 3, 3, 3, {"old": 0}),
    ],
)
def test_old_sets_shrink_only_as_far_as_availability_allows(
    old: int, old_available: int, new: int, new_available: int, expected: dict[str, int]
) -> None:
    item = deployment(3, strategy=rolling(1, 0))
    sets = [replicaset("old", old, old_available), replicaset("new", new, new_available)]
    assert scale_down_old(item, sets, sets[:1], sets[1]) == expected


def test_unhealthy_old_pods_go_before_healthy_ones_of_older_sets() -> None:
    item = deployment(4, strategy=rolling(2, 0))
    sets = [
        replicaset("oldest", 2, 2, age=30),
        replicaset("broken", 2, 0, age=20),
        replicaset("new", 2, 2),
    ]
    assert scale_down_old(item, sets, sets[:2], sets[2]) == {"broken": 0}


def test_scaling_in_a_rollout_is_shared_by_size() -> None:
    item = deployment(20, strategy=rolling("25%", "25%"))
    sets = [
        replicaset("old", 8, age=20, desired_replicas="10", max_replicas="13"),
        replicaset("new", 5, age=10, desired_replicas="10", max_replicas="13"),
    ]
    assert scale_proportionally(item, sets) == {"old": 15, "new": 10}


def test_scaling_to_zero_in_a_rollout_empties_all_sets() -> None:
    sets = [replicaset("old", 2, max_replicas="4"), replicaset("new", 2, max_replicas="4")]
    assert scale_proportionally(deployment(0), sets) == {"old": 0, "new": 0}


def test_set_is_saturated_only_when_all_its_pods_are_available() -> None:
    assert is_saturated(deployment(2), replicaset("a", 2, desired_replicas="2"))
    assert not is_saturated(deployment(2), replicaset("a", 2, 1, desired_replicas="2"))
    assert not is_saturated(deployment(2), replicaset("a", 2, desired_replicas="3"))


def test_template_hash_changes_with_template_and_collision_count_only() -> None:
    one = deployment()["spec"]["template"]
    assert template_hash(one) == template_hash({**one})
    assert template_hash(one) != template_hash(one, 1)
    assert template_hash(one) != template_hash({**one, "spec": {"containers": [{}]}})


def test_replicaset_carries_hash_selector_owner_and_revision() -> None:
    item = build_replicaset(deployment(), replicas=1, revision=4, collisions=0)
    digest = item["metadata"]["labels"]["pod-template-hash"]
    assert item["metadata"]["name"] == f"web-{digest}"
    assert item["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}
    assert item["spec"]["template"]["metadata"]["labels"]["pod-template-hash"] == digest
    assert item["metadata"]["ownerReferences"][0]["controller"] is True
    annotations = item["metadata"]["annotations"]
    assert annotations["deployment.kubernetes.io/revision"] == "4"
    assert annotations["deployment.kubernetes.io/desired-replicas"] == "3"
    assert annotations["deployment.kubernetes.io/max-replicas"] == "4"
    assert find_new_set(deployment(), [item]) is item


def test_reused_set_gets_a_new_revision_and_remembers_the_old_one() -> None:
    item = deployment()
    item["metadata"]["annotations"] = {
        "note": "a",
        "kubectl.kubernetes.io/last-applied-configuration": "x",
    }
    first = derive_annotations(item, {"deployment.kubernetes.io/revision": "1"}, 3)
    assert first["deployment.kubernetes.io/revision"] == "3"
    assert first["deployment.kubernetes.io/revision-history"] == "1"
    assert first["note"] == "a"
    assert "kubectl.kubernetes.io/last-applied-configuration" not in first
    assert derive_annotations(item, first, 3) == first


def test_only_empty_sets_beyond_the_history_limit_are_forgotten() -> None:
    sets = [replicaset(str(number), 0, revision=str(number)) for number in range(1, 5)]
    sets[0]["spec"]["replicas"] = 1
    item = deployment(revisionHistoryLimit=1)
    assert [found["metadata"]["name"] for found in sets_to_forget(item, sets)] == ["2", "3"]
    assert sets_to_forget(deployment(), sets) == []


def progressing(status: str, reason: str, age: int) -> dict[str, Any]:
    stamp = format_time(NOW - timedelta(seconds=age))
    return {
        "type": "Progressing",
        "status": status,
        "reason": reason,
        "lastUpdateTime": stamp,
        "lastTransitionTime": stamp,
    }


@pytest.mark.parametrize(
    ("available", "age", "status", "reason"),
    [
        (3, 5, "True", "NewReplicaSetAvailable"),
        (1, 5, "True", "ReplicaSetUpdated"),
        (0, 5, "True", "NewReplicaSetCreated"),
        (0, 700, "False", "ProgressDeadlineExceeded"),
    ],
)
def test_progressing_says_how_the_rollout_goes(
    available: int, age: int, status: str, reason: str
) -> None:
    item = deployment(3)
    item["status"] = {
        "replicas": 3,
        "updatedReplicas": 3,
        "conditions": [progressing("True", "NewReplicaSetCreated", age)],
    }
    new = replicaset("new", 3, available)
    result = derive_rollout_status(item, [new], new, NOW)
    found = next(c for c in result["conditions"] if c["type"] == "Progressing")
    assert (found["status"], found["reason"]) == (status, reason)


def test_missed_deadline_is_noticed_a_second_after_it() -> None:
    item = deployment(3, progressDeadlineSeconds=10)
    status = {"conditions": [progressing("True", "ReplicaSetUpdated", 4)]}
    assert seconds_to_deadline(item, status, NOW) == 7


def test_quota_failure_of_a_set_shows_in_its_deployment() -> None:
    new = replicaset("new", 1, 0)
    new["status"]["conditions"] = [
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}
    ]
    item = deployment(1)
    status = derive_rollout_status(item, [new], new, NOW)
    found = next(c for c in status["conditions"] if c["type"] == "ReplicaFailure")
    assert (found["reason"], found["message"]) == ("FailedCreate", "quota")
    new["status"]["conditions"] = []
    item["status"] = status
    again = derive_rollout_status(item, [new], new, NOW)
    assert not any(c["type"] == "ReplicaFailure" for c in again["conditions"])


def test_status_that_says_the_same_is_not_written_again() -> None:
    item = deployment(3)
    sets = [replicaset("new", 3)]
    status = derive_status(item, sets, sets[0], NOW)
    item["status"] = status
    later = derive_status(item, sets, sets[0], NOW + timedelta(hours=1))
    assert same_status(status, later)
    assert status["conditions"][0]["reason"] == "MinimumReplicasAvailable"


def pod(name: str, **given: Any) -> dict[str, Any]:
    ready = given.get("ready", True)
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "creationTimestamp": format_time(NOW - timedelta(seconds=given.get("age", 100))),
            "annotations": given.get("annotations", {}),
            "labels": {},
        },
        "spec": {"nodeName": given.get("node", "n")},
        "status": {
            "phase": given.get("phase", "Running"),
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True" if ready else "False",
                    "lastTransitionTime": format_time(
                        NOW - timedelta(seconds=given.get("ready_for", 90))
                    ),
                }
            ],
            "containerStatuses": [{"restartCount": given.get("restarts", 0)}],
        },
    }


@pytest.mark.parametrize(
    ("goes", "stays"),
    [
        (pod("a", node=""), pod("b")),
        (pod("a", phase="Pending"), pod("b", ready=False)),
        (pod("a", ready=False), pod("b")),
        (
            pod("a", annotations={"controller.kubernetes.io/pod-deletion-cost": "-1"}),
            pod("b", ready_for=1),
        ),
        (pod("a", ready_for=2), pod("b", ready_for=90)),
        (pod("a", restarts=3), pod("b")),
        (pod("a", age=1), pod("b")),
    ],
)
def test_less_useful_pods_are_deleted_first(goes: dict[str, Any], stays: dict[str, Any]) -> None:
    for order in ([goes, stays], [stays, goes]):
        assert [item["metadata"]["name"] for item in pods_to_delete(order, 1, NOW)] == ["a"]


def test_pod_counts_as_available_only_after_min_ready_seconds() -> None:
    item = {
        "metadata": {"generation": 2},
        "spec": {"replicas": 2, "minReadySeconds": 10, "template": {"metadata": {}}},
    }
    pods = [pod("a", ready_for=4), pod("b", ready_for=60)]
    status, wait = derive_set_status(item, pods, None, NOW)
    assert (status["readyReplicas"], status["availableReplicas"], wait) == (2, 1, 6)
