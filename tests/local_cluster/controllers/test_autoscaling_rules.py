from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local_cluster.controllers.autoscaling import (
    History,
    MetricError,
    limit,
    recommend,
    requests_by_pod,
    usage_by_pod,
)
from local_cluster.controllers.times import format_time

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def pod(
    name: str, *, ready: bool = True, age: int = 3600, phase: str = "Running"
) -> dict[str, Any]:
    stamp = format_time(NOW - timedelta(seconds=age))
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
        "status": {
            "phase": phase,
            "startTime": stamp,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True" if ready else "False",
                    "lastTransitionTime": stamp,
                }
            ],
        },
    }


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ([50, 50], 2),  # on target
        ([54, 54], 2),  # within a tenth of it
        ([60, 60], 3),  # 1.2 x: ceil(2.4)
        ([100, 100], 4),
        ([20, 20], 1),
        ([500, 500], 20),
    ],
)
def test_replicas_follow_the_ratio_of_use_to_target(usage: list[int], expected: int) -> None:
    pods = [pod(str(number)) for number in range(len(usage))]
    used = {str(number): value for number, value in enumerate(usage)}
    requests = {str(number): 100 for number in range(len(usage))}
    found = recommend(pods, used, requests, 2, NOW, resource="cpu", target_utilization=50)
    assert found.replicas == expected


def test_starting_pod_does_not_drive_growth() -> None:
    pods = [pod("a"), pod("b", age=5)]
    requests = {"a": 100, "b": 100}
    usage = {"a": 100, "b": 900}
    found = recommend(pods, usage, requests, 2, NOW, resource="cpu", target_utilization=50)
    assert found.replicas == 2
    assert found.utilization == 100


def test_pod_without_measurement_counts_as_idle_for_growth_and_busy_for_shrinking() -> None:
    pods = [pod("a"), pod("b")]
    requests = {"a": 100, "b": 100}
    grow = recommend(pods, {"a": 90}, requests, 2, NOW, resource="cpu", target_utilization=50)
    assert grow.replicas == 2
    shrink = recommend(pods, {"a": 10}, requests, 2, NOW, resource="cpu", target_utilization=50)
    assert shrink.replicas == 2


def test_nothing_measured_is_an_error_with_its_reason() -> None:
    with pytest.raises(MetricError) as caught:
        recommend([pod("a")], {}, {"a": 1}, 1, NOW, resource="cpu", target_utilization=50)
    assert caught.value.reason == "FailedGetResourceMetric"


def test_missing_request_names_the_container() -> None:
    item = pod("a")
    item["spec"]["containers"][0]["resources"] = {}
    with pytest.raises(MetricError, match="missing request for cpu in container c of Pod a"):
        requests_by_pod([item], "cpu")


def test_use_is_summed_over_containers_or_taken_of_one() -> None:
    metrics = [
        {
            "metadata": {"name": "a"},
            "containers": [
                {"name": "c", "usage": {"cpu": "100m"}},
                {"name": "sidecar", "usage": {"cpu": "50m"}},
            ],
        }
    ]
    assert usage_by_pod(metrics, "cpu") == {"a": 150}
    assert usage_by_pod(metrics, "cpu", "sidecar") == {"a": 50}
    assert usage_by_pod(metrics, "cpu", "absent") == {}


def spec(**behavior: Any) -> dict[str, Any]:
    return {"minReplicas": 1, "maxReplicas": 10, "behavior": behavior}


def test_growth_is_limited_to_doubling_or_four_pods() -> None:
    found = limit(spec(), 1, 10, History(), 1000)
    assert found.replicas == 5
    assert (found.limited, found.limited_reason) == (True, "ScaleUpLimit")


def test_maximum_and_minimum_bound_the_result() -> None:
    most = limit(spec(), 8, 50, History(), 1000)
    assert (most.replicas, most.limited_reason) == (10, "TooManyReplicas")
    down = {"stabilizationWindowSeconds": 0}
    least = limit(spec(scaleDown=down), 3, 0, History(), 1000)
    assert (least.replicas, least.limited_reason) == (1, "TooFewReplicas")


def test_shrinking_waits_for_the_highest_recommendation_of_the_window() -> None:
    history = History()
    assert limit(spec(), 5, 5, history, 0).replicas == 5
    held = limit(spec(), 5, 1, history, 100)
    assert (held.replicas, held.able_reason) == (5, "ScaleDownStabilized")
    assert limit(spec(), 5, 1, history, 301).replicas == 1


def test_growth_can_be_stabilised_too() -> None:
    behavior = {"scaleUp": {"stabilizationWindowSeconds": 60}}
    history = History()
    limit(spec(**behavior), 1, 1, history, 0)
    held = limit(spec(**behavior), 1, 5, history, 30)
    assert (held.replicas, held.able_reason) == (1, "ScaleUpStabilized")
    assert limit(spec(**behavior), 1, 5, history, 100).replicas == 5


def test_policies_count_what_was_changed_within_their_period() -> None:
    behavior = {
        "scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
    }
    history = History(ups=[(990, 2)])
    assert limit(spec(**behavior), 3, 9, history, 1000).replicas == 3
    assert limit(spec(**behavior), 3, 9, history, 1100).replicas == 5


def test_disabled_direction_does_not_move() -> None:
    off = {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}
    assert limit(spec(scaleDown=off), 5, 1, History(), 1000).replicas == 5
    assert limit(spec(scaleUp=off), 5, 9, History(), 1000).replicas == 5
