from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from local_cluster.client import (
    DEPLOYMENTS,
    ENDPOINTSLICES,
    HPAS,
    JOBS,
    LEASES,
    NODES,
    PDBS,
    PODMETRICS,
    PODS,
    REPLICASETS,
    RESOURCEQUOTAS,
    SERVICEACCOUNTS,
    SERVICES,
    ApiError,
    Client,
)
from local_cluster.controllers import ControllerManager

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    },
}

PDB = {
    "apiVersion": "policy/v1",
    "kind": "PodDisruptionBudget",
    "metadata": {"name": "web"},
    "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
}


def deployment(name: str = "web", replicas: int = 2, image: str = "x:1", **spec: Any) -> Any:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [
                        {
                            "name": "c",
                            "image": image,
                            "ports": [{"name": "http", "containerPort": 8080}],
                            "resources": {"requests": {"cpu": "100m"}},
                        }
                    ]
                },
            },
            **spec,
        },
    }


async def start(world: Any, body: Any) -> None:
    await world.client.create(DEPLOYMENTS, body, "default")
    replicas = body["spec"]["replicas"]
    await world.until(lambda: world.is_rolled_out(body["metadata"]["name"], replicas))


async def set_image(world: Any, image: str, name: str = "web") -> None:
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]
    await world.client.patch(DEPLOYMENTS, name, "default", patch, kind="json")


async def test_deployment_becomes_available_pods_through_one_replicaset(world: Any) -> None:
    await world.add_node()
    await start(world, deployment(replicas=3))
    (item,) = world.all(REPLICASETS)
    digest = item["metadata"]["labels"]["pod-template-hash"]
    assert item["metadata"]["name"] == f"web-{digest}"
    assert len(world.pods_of("web")) == 3
    assert all(pod["spec"]["nodeName"] == "n1" for pod in world.pods_of("web"))
    await world.until(
        lambda: world.condition("web", "Progressing").get("reason") == "NewReplicaSetAvailable"
    )
    assert world.condition("web", "Available")["reason"] == "MinimumReplicasAvailable"
    message = f'ReplicaSet "{item["metadata"]["name"]}" has successfully progressed.'
    assert world.condition("web", "Progressing")["message"] == message
    annotations = world.get(DEPLOYMENTS, "web")["metadata"]["annotations"]
    assert annotations["deployment.kubernetes.io/revision"] == "1"
    await world.until(
        lambda: {"ScalingReplicaSet", "SuccessfulCreate", "Scheduled"} <= world.reasons("web")
    )


async def test_rolling_update_keeps_the_wanted_number_available(world: Any) -> None:
    await world.add_node()
    strategy = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    await start(world, deployment(replicas=3, strategy=strategy))
    lowest = 3

    def done() -> bool:
        nonlocal lowest
        ready = [
            pod
            for pod in world.pods_of("web")
            if any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in pod.get("status", {}).get("conditions") or []
            )
        ]
        lowest = min(lowest, len(ready))
        images = {pod["spec"]["containers"][0]["image"] for pod in world.pods_of("web")}
        return images == {"x:2"} and bool(world.is_rolled_out("web", 3, 2))

    await set_image(world, "x:2")
    await world.until(done)
    assert lowest >= 3
    annotations = world.get(DEPLOYMENTS, "web")["metadata"]["annotations"]
    assert annotations["deployment.kubernetes.io/revision"] == "2"


async def test_broken_revision_leaves_the_old_pods_and_reports_the_deadline(world: Any) -> None:
    await world.add_node()
    strategy = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    await start(world, deployment(replicas=2, strategy=strategy, progressDeadlineSeconds=1))
    world.broken_images.add("bad")
    await set_image(world, "bad")
    await world.until(
        lambda: world.condition("web", "Progressing").get("reason") == "ProgressDeadlineExceeded"
    )
    images = sorted(pod["spec"]["containers"][0]["image"] for pod in world.pods_of("web"))
    assert images == ["bad", "x:1", "x:1"]
    assert world.condition("web", "Available")["status"] == "True"
    # Rolling back takes the old ReplicaSet up again, under a new revision.
    await set_image(world, "x:1")
    await world.until(lambda: world.is_rolled_out("web", 2))
    annotations = world.get(DEPLOYMENTS, "web")["metadata"]["annotations"]
    assert annotations["deployment.kubernetes.io/revision"] == "3"
    assert len(world.all(REPLICASETS)) == 2


async def test_recreate_waits_for_the_old_pods_to_be_gone(world: Any) -> None:
    await world.add_node()
    await start(world, deployment(replicas=2, strategy={"type": "Recreate"}))
    mixed = False

    def done() -> bool:
        nonlocal mixed
        images = {pod["spec"]["containers"][0]["image"] for pod in world.all(PODS)}
        mixed = mixed or len(images) > 1
        return images == {"x:2"} and bool(world.is_rolled_out("web", 2, 2))

    await set_image(world, "x:2")
    await world.until(done)
    assert not mixed


async def test_scaling_and_pausing_work(world: Any) -> None:
    await world.add_node()
    await start(world, deployment(replicas=1))
    await world.client.patch(DEPLOYMENTS, "web", "default", {"spec": {"replicas": 4}})
    await world.until(lambda: world.is_rolled_out("web", 4))
    await world.client.patch(DEPLOYMENTS, "web", "default", {"spec": {"paused": True}})
    await world.until(
        lambda: world.condition("web", "Progressing").get("reason") == "DeploymentPaused"
    )
    await set_image(world, "x:2")
    await world.client.patch(DEPLOYMENTS, "web", "default", {"spec": {"replicas": 2}})
    await world.until(lambda: len(world.pods_of("web")) == 2)
    assert len(world.all(REPLICASETS)) == 1
    await world.client.patch(DEPLOYMENTS, "web", "default", {"spec": {"paused": False}})
    await world.until(lambda: world.is_rolled_out("web", 2) and len(world.all(REPLICASETS)) == 2)


async def test_deleted_pod_is_replaced_and_history_is_limited(world: Any) -> None:
    await world.add_node()
    await start(world, deployment(replicas=1, revisionHistoryLimit=1))
    (pod,) = world.pods_of("web")
    await world.client.delete(PODS, pod["metadata"]["name"], "default")
    await world.until(
        lambda: (
            world.is_rolled_out("web", 1)
            and [p for p in world.pods_of("web") if p["metadata"]["uid"] != pod["metadata"]["uid"]]
        )
    )
    for number in (2, 3, 4):
        await set_image(world, f"x:{number}")
        generation = number
        await world.until(lambda g=generation: world.is_rolled_out("web", 1, g))
    await world.until(lambda: len(world.all(REPLICASETS)) == 2)


async def test_quota_shows_as_replica_failure_and_goes_when_it_is_lifted(world: Any) -> None:
    await world.add_node()
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "1"}},
    }
    await world.client.create(RESOURCEQUOTAS, quota, "default")
    await world.client.create(DEPLOYMENTS, deployment(replicas=2), "default")
    await world.until(
        lambda: world.condition("web", "ReplicaFailure").get("reason") == "FailedCreate"
    )
    assert "exceeded quota" in world.condition("web", "ReplicaFailure")["message"]
    await world.until(lambda: "FailedCreate" in world.reasons("web"))
    await world.client.delete(RESOURCEQUOTAS, "q", "default")
    await world.until(
        lambda: world.is_rolled_out("web", 2) and not world.condition("web", "ReplicaFailure"),
        seconds=60,
    )


async def test_pod_waits_with_a_reason_until_a_node_has_room(world: Any) -> None:
    body = deployment(replicas=1)
    container = body["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"limits": {"nvidia.com/gpu": "1"}}

    def message() -> str:
        for pod in world.pods_of("web"):
            for condition in pod.get("status", {}).get("conditions") or []:
                if condition["type"] == "PodScheduled" and condition["status"] == "False":
                    assert condition["reason"] == "Unschedulable"
                    return str(condition["message"])
        return ""

    await world.client.create(DEPLOYMENTS, body, "default")
    await world.until(lambda: message() == "no nodes available to schedule pods")
    await world.add_node("cpu-only")
    await world.until(
        lambda: message().startswith(
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: "
        )
    )
    await world.until(lambda: "FailedScheduling" in world.reasons("web"))
    await world.add_node("gpu", **{"nvidia.com/gpu": "1"})
    await world.until(lambda: world.is_rolled_out("web", 1))
    assert world.pods_of("web")[0]["spec"]["nodeName"] == "gpu"


async def test_one_gpu_goes_to_one_pod_at_a_time(world: Any) -> None:
    await world.add_node("gpu", **{"nvidia.com/gpu": "1"})
    body = deployment(replicas=2)
    container = body["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    await world.client.create(DEPLOYMENTS, body, "default")
    await world.until(lambda: world.status("web").get("availableReplicas") == 1)
    bound = [pod for pod in world.pods_of("web") if pod["spec"].get("nodeName")]
    assert len(bound) == 1
    await world.client.delete(PODS, bound[0]["metadata"]["name"], "default")
    await world.until(
        lambda: any(
            pod["spec"].get("nodeName") and pod["metadata"]["uid"] != bound[0]["metadata"]["uid"]
            for pod in world.pods_of("web")
        )
    )


async def test_service_gets_slices_that_follow_its_pods(world: Any) -> None:
    await world.add_node()
    await world.client.create(SERVICES, SERVICE, "default")

    def ready() -> set[str]:
        return {
            endpoint["addresses"][0]
            for item in world.all(ENDPOINTSLICES)
            if item["metadata"].get("labels", {}).get("kubernetes.io/service-name") == "web"
            and item["ports"]
            and item["ports"][0]["port"] == 8080
            for endpoint in item["endpoints"]
            if endpoint["conditions"]["ready"]
        }

    await start(world, deployment(replicas=2))
    await world.until(lambda: len(ready()) == 2)
    await world.client.patch(DEPLOYMENTS, "web", "default", {"spec": {"replicas": 1}})
    await world.until(lambda: len(ready()) == 1)


async def test_slices_hold_names_where_the_server_takes_no_loopback_addresses(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(send: Any) -> Any:
        async def sent(self: Client, resource: Any, body: Any, *rest: Any, **more: Any) -> Any:
            if resource is ENDPOINTSLICES and body["addressType"] == "IPv4" and body["endpoints"]:
                # What a real server answered.
                raise ApiError(
                    422,
                    "Invalid",
                    'EndpointSlice.discovery.k8s.io "web-a5f78" is invalid: endpoints[0].addresses[0]: Invalid value: '
                    '"127.167.232.4": may not be in the loopback range (127.0.0.0/8, ::1/128)',
                )
            return await send(self, resource, body, *rest, **more)

        return sent

    monkeypatch.setattr(Client, "create", refuse(Client.create))
    monkeypatch.setattr(Client, "replace", refuse(Client.replace))
    await world.add_node()
    await world.client.create(SERVICES, SERVICE, "default")
    await start(world, deployment(replicas=2))

    def slices() -> list[Any]:
        return [
            item
            for item in world.all(ENDPOINTSLICES)
            if item["metadata"]["labels"].get("kubernetes.io/service-name") == "web"
        ]

    await world.until(lambda: [len(item["endpoints"] or ()) for item in slices()] == [2])
    assert slices()[0]["addressType"] == "FQDN"


async def test_budget_status_follows_the_pods(world: Any) -> None:
    await world.add_node()
    await world.client.create(PDBS, PDB, "default")
    await start(world, deployment(replicas=2))
    status = await world.until(
        lambda: (
            (found := world.get(PDBS, "web").get("status") or {}).get("currentHealthy") == 2
            and found
        )
    )
    assert (status["expectedPods"], status["desiredHealthy"]) == (2, 1)
    assert status["disruptionsAllowed"] == 1


async def test_autoscaler_follows_cpu_and_says_why_it_cannot(world: Any) -> None:
    await world.add_node()
    await start(world, deployment(replicas=1))
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
    }
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1,
            "maxReplicas": 3,
            "metrics": [metric],
        },
    }
    await world.client.create(HPAS, hpa, "default")

    def condition(type_: str) -> dict[str, Any]:
        conditions = (world.get(HPAS, "web").get("status") or {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == type_), {})

    await world.until(lambda: condition("ScalingActive").get("reason") == "FailedGetResourceMetric")
    # Measured from now on; start-up work of young pods is left out, so they must be ready a while.
    (pod,) = world.pods_of("web")
    old = "2026-01-01T00:00:00Z"
    conditions = [{**c, "lastTransitionTime": old} for c in pod["status"]["conditions"]]
    await world.client.patch(
        PODS,
        pod["metadata"]["name"],
        "default",
        {"status": {"startTime": old, "conditions": conditions}},
        subresource="status",
    )
    metrics = {
        "apiVersion": "metrics.k8s.io/v1beta1",
        "kind": "PodMetrics",
        "metadata": {"name": pod["metadata"]["name"], "labels": pod["metadata"]["labels"]},
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "window": "10s",
        "containers": [{"name": "c", "usage": {"cpu": "150m", "memory": "1Mi"}}],
    }
    await world.client.create(PODMETRICS, metrics, "default")
    await world.until(lambda: world.is_rolled_out("web", 3))
    status = world.get(HPAS, "web")["status"]
    assert condition("ScalingActive")["reason"] == "ValidMetricFound"
    assert status["currentMetrics"][0]["resource"]["current"]["averageUtilization"] == 150
    await world.until(lambda: "SuccessfulRescale" in world.reasons("web"))


async def test_autoscaler_without_custom_metrics_api_says_so(world: Any) -> None:
    await world.add_node()
    await start(world, deployment(replicas=1))
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 3,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": "in_flight"},
                        "target": {"type": "AverageValue", "averageValue": "4"},
                    },
                }
            ],
        },
    }
    await world.client.create(HPAS, hpa, "default")

    def failed() -> str:
        for condition in (world.get(HPAS, "web").get("status") or {}).get("conditions") or []:
            if condition["reason"] == "FailedGetPodsMetric":
                return str(condition["message"])
        return ""

    assert "no custom metrics API" in await world.until(failed)


async def test_silent_node_becomes_not_ready_and_gets_no_more_pods(world: Any) -> None:
    await world.add_node()
    await start(world, deployment(replicas=1))
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "n1"},
        "spec": {
            "holderIdentity": "n1",
            "leaseDurationSeconds": 40,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }
    await world.client.create(LEASES, lease, "kube-node-lease")

    def unknown() -> bool:
        node = world.get(NODES, "n1")
        taints = {taint["key"] for taint in node["spec"].get("taints") or []}
        ready = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
        return ready["status"] == "Unknown" and "node.kubernetes.io/unreachable" in taints

    await world.until(unknown)
    await world.until(lambda: world.status("web").get("availableReplicas", 0) == 0)


async def test_job_runs_to_completion(world: Any) -> None:
    await world.add_node()
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once"},
        "spec": {
            "template": {
                "metadata": {"labels": {"app": "once"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]},
            }
        },
    }
    await world.client.create(JOBS, job, "default")
    await world.until(
        lambda: [p for p in world.pods_of("once") if p.get("status", {}).get("podIP")]
    )
    await world.set_pod_phase(world.pods_of("once")[0]["metadata"]["name"], "Succeeded")
    status = await world.until(
        lambda: (
            (found := world.get(JOBS, "once").get("status") or {}).get("completionTime") and found
        )
    )
    assert status["succeeded"] == 1
    assert status["conditions"][-1]["type"] == "Complete"


async def until_idle(manager: ControllerManager) -> None:
    """Wait until nothing was to do for a while: an answer on its way may bring more."""
    async with asyncio.timeout(10):
        quiet = 0
        while quiet < 20:
            await asyncio.sleep(0.005)
            quiet = quiet + 1 if manager.idle else 0


async def test_restarted_controllers_write_nothing_to_a_settled_cluster(world: Any) -> None:
    await world.add_node()
    await world.client.create(SERVICES, SERVICE, "default")
    await world.client.create(PDBS, PDB, "default")
    await start(world, deployment(replicas=2))
    await world.until(
        lambda: (
            world.condition("web", "Progressing").get("reason") == "NewReplicaSetAvailable"
            and world.get(PDBS, "web")["status"].get("currentHealthy") == 2
        )
    )

    async def versions() -> dict[str, str]:
        found = {}
        for resource in (DEPLOYMENTS, REPLICASETS, PODS, PDBS, ENDPOINTSLICES, SERVICES, NODES):
            for item in (await world.client.list(resource))["items"]:
                key = f"{resource.plural}/{item['metadata']['name']}"
                found[key] = item["metadata"]["resourceVersion"]
        return found

    await until_idle(world.controllers)
    before = await versions()
    async with ControllerManager(world.kubeconfig) as second:
        await until_idle(second)
    assert await versions() == before


@pytest.mark.parametrize("name", ["default"])
async def test_namespace_has_its_default_service_account(world: Any, name: str) -> None:
    account = await world.client.get(SERVICEACCOUNTS, "default", name)
    assert account["metadata"]["name"] == "default"
