from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from local_cluster.controllers.disruption import derive_pdb_status
from local_cluster.controllers.endpoints import build_endpoints, build_slices
from local_cluster.controllers.jobs import derive_job_status
from local_cluster.controllers.node_lifecycle import derive_taints, seconds_tolerated
from local_cluster.controllers.quantities import format_milli, parse_milli, scaled_value
from local_cluster.controllers.scheduling import (
    NodeUsage,
    check_node,
    describe_refusals,
    pod_requests,
)
from local_cluster.controllers.selectors import (
    format_selector,
    matches_selector,
    parse_selector,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def node(**given: Any) -> dict[str, Any]:
    spec = {key: given[key] for key in ("taints", "unschedulable") if key in given}
    return {
        "metadata": {"name": "n1", "labels": given.get("labels", {})},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "2", **given.get("more", {})}
        },
    }


def pod(requests: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "resources": {"requests": requests or {}}}
    return {"metadata": {"name": "p"}, "spec": {"containers": [container], **spec}}


TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
HELPLESS = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
NO_VICTIMS = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."


@pytest.mark.parametrize(
    ("item", "target", "reason"),
    [
        (pod({"cpu": "3"}), node(), f"1 Insufficient cpu. {HELPLESS}"),
        (
            pod({"nvidia.com/gpu": "1"}),
            node(),
            f"1 Insufficient nvidia.com/gpu. {HELPLESS}",
        ),
        (
            pod({"cpu": "3", "memory": "5Gi"}),
            node(),
            f"1 Insufficient cpu, 1 Insufficient memory. {HELPLESS}",
        ),
        (pod(), node(unschedulable=True), f"1 node(s) were unschedulable. {HELPLESS}"),
        (
            pod(),
            node(taints=[TAINT]),
            f"1 node(s) had untolerated taint {{gpu: yes}}. {HELPLESS}",
        ),
        (
            pod(nodeSelector={"zone": "a"}),
            node(labels={"zone": "b"}),
            f"1 node(s) didn't match Pod's node affinity/selector. {HELPLESS}",
        ),
    ],
)
def test_unschedulable_pod_is_told_the_reason_in_the_real_words(
    item: dict[str, Any], target: dict[str, Any], reason: str
) -> None:
    refusal = check_node(item, pod_requests(item), target, NodeUsage())
    assert refusal is not None
    assert describe_refusals([refusal]) == f"0/1 nodes are available: {reason}"


def test_what_other_pods_use_counts_and_could_be_preempted() -> None:
    usage = NodeUsage()
    usage.add(pod_requests(pod({"cpu": "1500m"})))
    item = pod({"cpu": "600m"})
    refusal = check_node(item, pod_requests(item), node(), usage)
    assert refusal is not None
    assert describe_refusals([refusal]).endswith(f"1 Insufficient cpu. {NO_VICTIMS}")
    usage.add({})
    refusal = check_node(pod(), {}, node(), usage)
    assert refusal is not None
    assert refusal.reasons == ("Too many pods",)


def test_without_nodes_the_message_says_so() -> None:
    assert describe_refusals([]) == "no nodes available to schedule pods"


@pytest.mark.parametrize(
    ("item", "target"),
    [
        (pod({"cpu": "2"}), node()),
        (pod({"nvidia.com/gpu": "1"}), node(more={"nvidia.com/gpu": "1"})),
        (
            pod(tolerations=[{"key": "gpu", "operator": "Exists"}]),
            node(taints=[TAINT]),
        ),
        (
            pod(tolerations=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]),
            node(taints=[TAINT]),
        ),
        (pod(), node(taints=[{**TAINT, "effect": "PreferNoSchedule"}])),
        (pod(nodeSelector={"zone": "a"}), node(labels={"zone": "a"})),
        (
            pod(
                affinity={
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "x", "operator": "Exists"}]},
                                {
                                    "matchExpressions": [
                                        {"key": "zone", "operator": "In", "values": ["a", "b"]}
                                    ]
                                },
                            ]
                        }
                    }
                }
            ),
            node(labels={"zone": "b"}),
        ),
    ],
)
def test_pod_that_fits_is_not_refused(item: dict[str, Any], target: dict[str, Any]) -> None:
    assert check_node(item, pod_requests(item), target, NodeUsage()) is None


def test_pod_asks_for_the_larger_of_containers_and_init_containers() -> None:
    item = pod({"cpu": "1"})
    item["spec"]["initContainers"] = [
        {"resources": {"requests": {"cpu": "500m"}}, "restartPolicy": "Always"},
        {"resources": {"requests": {"cpu": "3", "memory": "1Ki"}}},
    ]
    assert pod_requests(item) == {"cpu": 3500, "memory": 1024000}


@pytest.mark.parametrize(
    ("text", "milli", "canonical"),
    [("1", 1000, "1"), ("250m", 250, "250m"), ("1Ki", 1024000, "1024"), ("0.1", 100, "100m")],
)
def test_quantities_are_read_and_written_as_kubernetes_does(
    text: str, milli: int, canonical: str
) -> None:
    assert parse_milli(text) == milli
    assert format_milli(milli) == canonical


def test_percentages_of_numbers_round_as_asked() -> None:
    assert scaled_value("25%", 3, round_up=True) == 1
    assert scaled_value("25%", 3, round_up=False) == 0
    assert scaled_value(7, 3, round_up=False) == 7


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("app=web,tier!=db", {"app": "web"}, True),
        ("app=web", {"app": "api"}, False),
        ("env in (a,b),!old", {"env": "b"}, True),
        ("env notin (a, b)", {"env": "b"}, False),
        ("present", {"present": ""}, True),
    ],
)
def test_selectors_are_read_from_text(text: str, labels: dict[str, str], expected: bool) -> None:
    assert matches_selector(parse_selector(text), labels) is expected


def test_selector_survives_the_way_to_text_and_back() -> None:
    selector = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["a", "b"]}],
    }
    parsed = parse_selector(format_selector(selector))
    for labels in ({"app": "web"}, {"app": "web", "env": "a"}, {"env": "c"}):
        assert matches_selector(parsed, labels) == matches_selector(selector, labels)


SERVICE = {
    "metadata": {"name": "web", "namespace": "default", "uid": "s", "labels": {"l": "1"}},
    "spec": {
        "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    },
}


def backend(
    name: str, ip: str, *, ready: bool = True, leaving: bool = False, port: int = 8080
) -> Any:
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "uid": name}
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "metadata": metadata,
        "spec": {
            "nodeName": "n1",
            "containers": [{"ports": [{"name": "http", "containerPort": port}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def test_slices_tell_ready_serving_and_terminating_apart() -> None:
    pods = [
        backend("a", "127.0.0.2"),
        backend("b", "127.0.0.3", ready=False),
        backend("c", "127.0.0.4", leaving=True),
    ]
    (item,) = build_slices(SERVICE, pods)
    conditions = [endpoint["conditions"] for endpoint in item["endpoints"]]
    assert conditions == [
        {"ready": True, "serving": True, "terminating": False},
        {"ready": False, "serving": False, "terminating": False},
        {"ready": False, "serving": True, "terminating": True},
    ]
    assert item["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert item["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
    (subset,) = build_endpoints(SERVICE, [item])["subsets"]
    assert [address["ip"] for address in subset["addresses"]] == ["127.0.0.2"]
    assert [address["ip"] for address in subset["notReadyAddresses"]] == ["127.0.0.3"]


def test_pods_with_other_port_numbers_get_a_slice_of_their_own() -> None:
    slices = build_slices(SERVICE, [backend("a", "127.0.0.2"), backend("b", "127.0.0.3", port=81)])
    assert sorted(item["ports"][0]["port"] for item in slices) == [81, 8080]
    assert len({item["metadata"]["name"] for item in slices}) == 2


def test_service_without_pods_has_one_empty_slice() -> None:
    (item,) = build_slices(SERVICE, [])
    assert item["endpoints"] == []


def test_more_than_a_hundred_endpoints_are_split() -> None:
    pods = [backend(f"p{n:03}", f"127.0.1.{n}") for n in range(150)]
    assert [len(item["endpoints"]) for item in build_slices(SERVICE, pods)] == [100, 50]


@pytest.mark.parametrize(
    ("spec", "ready", "expected", "desired", "allowed"),
    [
        ({"maxUnavailable": 1}, 2, 2, 1, 1),
        ({"maxUnavailable": 1}, 1, 2, 1, 0),
        ({"maxUnavailable": 1}, 1, 1, 0, 1),
        ({"maxUnavailable": "50%"}, 3, 3, 1, 2),
        ({"minAvailable": 1}, 2, 2, 1, 1),
        ({"minAvailable": "100%"}, 2, 2, 2, 0),
    ],
)
def test_budget_allows_what_keeps_enough_pods_healthy(
    spec: dict[str, Any], ready: int, expected: int, desired: int, allowed: int
) -> None:
    pods = [backend(f"p{n}", f"127.0.0.{n}", ready=n < ready) for n in range(expected)]
    pdb = {"metadata": {"generation": 1}, "spec": spec}
    status = derive_pdb_status(pdb, pods, expected, NOW)
    assert status["currentHealthy"] == ready
    assert (status["desiredHealthy"], status["disruptionsAllowed"]) == (desired, allowed)
    assert status["conditions"][0]["reason"] == (
        "SufficientPods" if allowed else "InsufficientPods"
    )


def test_cordon_and_lost_nodes_become_taints_and_go_again() -> None:
    item = node(unschedulable=True, taints=[TAINT])
    item["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    keys = [(taint["key"], taint["effect"]) for taint in derive_taints(item, NOW)]
    assert keys == [
        ("gpu", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    ]
    item["spec"] = {"taints": derive_taints(item, NOW)}
    item["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert derive_taints(item, NOW) == [TAINT]


def test_pods_stay_on_a_lost_node_as_long_as_they_tolerate_it() -> None:
    taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    toleration = {"key": taint["key"], "operator": "Exists", "effect": "NoExecute"}
    assert seconds_tolerated(pod(), taint) == 300
    assert seconds_tolerated(pod(tolerations=[{**toleration, "tolerationSeconds": 5}]), taint) == 5
    assert seconds_tolerated(pod(tolerations=[toleration]), taint) is None


@pytest.mark.parametrize(
    ("phases", "condition"),
    [
        (["Running"], None),
        (["Succeeded"], "Complete"),
        (["Failed"], None),
        (["Failed", "Failed"], "Failed"),
    ],
)
def test_job_ends_by_success_or_by_too_many_failures(
    phases: list[str], condition: str | None
) -> None:
    job = {"spec": {"completions": 1, "backoffLimit": 1}, "status": {}}
    pods = [
        {"metadata": {"name": str(n)}, "status": {"phase": phase}} for n, phase in enumerate(phases)
    ]
    status = derive_job_status(job, pods, NOW)
    last = (status.get("conditions") or [{}])[-1].get("type")
    assert last == condition
    assert ("completionTime" in status) == (condition == "Complete")
