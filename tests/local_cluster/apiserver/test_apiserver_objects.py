"""Rules of single objects: names, versions, generations, statuses, patches, refusals."""

from __future__ import annotations

from typing import Any

import pytest

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"


def build_deployment(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "x:1"}]},
            },
            **spec,
        },
    }


def build_pod(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "x:1"}], **spec},
    }


async def test_requests_without_a_valid_token_are_refused(client: Any) -> None:
    for header in ("", "Bearer wrong", "Basic abc"):
        status, body = await client.request("GET", CONFIG_MAPS, headers={"Authorization": header})
        assert (status, body["reason"]) == (401, "Unauthorized")


async def test_generated_names_start_with_the_prefix_and_differ(client: Any) -> None:
    body = {"metadata": {"generateName": "a-"}}
    names = {(await client.post(CONFIG_MAPS, body))["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("a-") and len(name) == 7 for name in names)


async def test_a_taken_name_is_refused_with_already_exists(client: Any) -> None:
    await client.post(CONFIG_MAPS, {"metadata": {"name": "a"}})
    status, body = await client.request("POST", CONFIG_MAPS, {"metadata": {"name": "a"}})
    assert (status, body["reason"]) == (409, "AlreadyExists")
    assert body["message"] == 'configmaps "a" already exists'


async def test_a_stale_version_is_refused_with_conflict(client: Any) -> None:
    first = await client.post(CONFIG_MAPS, {"metadata": {"name": "a"}})
    await client.merge(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})
    status, body = await client.request("PUT", f"{CONFIG_MAPS}/a", first)
    assert (status, body["reason"]) == (409, "Conflict")
    assert body["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )


async def test_writes_that_change_nothing_leave_the_version_alone(client: Any) -> None:
    created = await client.post(DEPLOYMENTS, build_deployment())
    version = created["metadata"]["resourceVersion"]
    _, put = await client.request("PUT", f"{DEPLOYMENTS}/web", created)
    _, patched = await client.merge(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 1}})
    assert put["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"] == version
    _, applied = await client.apply(f"{DEPLOYMENTS}/web", build_deployment(), query="&force=true")
    _, again = await client.apply(f"{DEPLOYMENTS}/web", build_deployment(), query="&force=true")
    assert applied["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]


async def test_generation_counts_changes_of_the_spec_alone(client: Any) -> None:
    await client.post(DEPLOYMENTS, build_deployment())
    _, labelled = await client.merge(f"{DEPLOYMENTS}/web", {"metadata": {"labels": {"a": "b"}}})
    assert labelled["metadata"]["generation"] == 1
    _, status = await client.merge(f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 1}})
    assert status["metadata"]["generation"] == 1
    _, scaled = await client.merge(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 2}})
    assert scaled["metadata"]["generation"] == 2


async def test_spec_and_status_are_written_through_their_own_endpoints(client: Any) -> None:
    await client.post(DEPLOYMENTS, {**build_deployment(), "status": {"replicas": 9}})
    _, body = await client.merge(
        f"{DEPLOYMENTS}/web", {"spec": {"replicas": 3}, "status": {"replicas": 3}}
    )
    assert (body["spec"]["replicas"], body["status"]) == (3, {})
    _, body = await client.merge(
        f"{DEPLOYMENTS}/web/status", {"spec": {"replicas": 4}, "status": {"replicas": 4}}
    )
    assert (body["spec"]["replicas"], body["status"]["replicas"]) == (3, 4)


async def test_a_dry_run_answers_as_if_and_stores_nothing(client: Any) -> None:
    status, body = await client.request(
        "POST", f"{CONFIG_MAPS}?dryRun=All", {"metadata": {"name": "a"}}
    )
    assert status == 201
    assert body["metadata"]["uid"]
    assert (await client.request("GET", f"{CONFIG_MAPS}/a"))[0] == 404


@pytest.mark.parametrize(
    ("validation", "status"), [("Ignore", 201), ("Warn", 201), ("Strict", 400)]
)
async def test_unknown_fields_are_dropped_reported_or_refused(
    client: Any, validation: str, status: int
) -> None:
    body = build_deployment(replcas=2)
    found, answer = await client.request(
        "POST", f"{DEPLOYMENTS}?fieldValidation={validation}", body
    )
    assert found == status
    if validation == "Strict":
        assert 'strict decoding error: unknown field "spec.replcas"' in answer["message"]
    else:
        assert "replcas" not in answer["spec"]
        assert len(client.warnings) == (1 if validation == "Warn" else 0)


async def test_objects_in_a_missing_namespace_are_refused(client: Any) -> None:
    status, body = await client.request(
        "POST", "/api/v1/namespaces/nope/configmaps", {"metadata": {"name": "a"}}
    )
    assert (status, body["message"]) == (404, 'namespaces "nope" not found')


BAD_REQUESTS: list[tuple[str, str, Any, str, int]] = [
    ("POST", CONFIG_MAPS, b"{", "application/json", 400),
    ("POST", CONFIG_MAPS, b"[]", "application/json", 400),
    ("POST", CONFIG_MAPS, b"", "application/json", 400),
    ("POST", CONFIG_MAPS, b"x", "text/plain", 415),
    ("POST", CONFIG_MAPS, b"k8s\x00garbage", "application/vnd.kubernetes.protobuf", 400),
    ("POST", CONFIG_MAPS, {"metadata": "x"}, "application/json", 400),
    ("POST", CONFIG_MAPS, {"metadata": {}}, "application/json", 422),
    ("POST", CONFIG_MAPS, {"metadata": {"name": 3}}, "application/json", 400),
    ("POST", CONFIG_MAPS, {"metadata": {"name": "A_b"}}, "application/json", 422),
    ("POST", CONFIG_MAPS, {"kind": "Pod", "metadata": {"name": "a"}}, "application/json", 400),
    ("POST", CONFIG_MAPS, {"apiVersion": "v2", "metadata": {"name": "a"}}, "application/json", 400),
    ("POST", CONFIG_MAPS, {"metadata": {"name": "a", "namespace": "b"}}, "application/json", 400),
    ("POST", f"{CONFIG_MAPS}?dryRun=Some", {"metadata": {"name": "a"}}, "application/json", 422),
    (
        "POST",
        PODS,
        {"metadata": {"name": "a"}, "spec": {"containers": [None]}},
        "application/json",
        400,
    ),
    (
        "POST",
        PODS,
        {"metadata": {"name": "a"}, "spec": {"containers": "x"}},
        "application/json",
        400,
    ),
    ("POST", PODS, {"metadata": {"name": "a", "labels": [1]}}, "application/json", 400),
    ("POST", PODS, b'{"a":' * 900 + b"1" + b"}" * 900, "application/json", 400),
    ("POST", "/api/v1/configmaps", {"metadata": {"name": "a"}}, "application/json", 400),
    ("POST", f"{CONFIG_MAPS}/a", {}, "application/json", 405),
    ("PUT", CONFIG_MAPS, {}, "application/json", 405),
    ("PATCH", f"{CONFIG_MAPS}/kube", {}, "application/json", 415),
    ("PATCH", f"{CONFIG_MAPS}/kube", b"x", "application/merge-patch+json", 400),
    ("PATCH", f"{CONFIG_MAPS}/kube", {}, "application/merge-patch+json", 404),
    ("PATCH", f"{CONFIG_MAPS}/kube", {}, "application/apply-patch+yaml", 422),
    ("PATCH", f"{CONFIG_MAPS}/a?fieldManager=m", b"{a", "application/apply-patch+yaml", 400),
    (
        "PATCH",
        f"{CONFIG_MAPS}/a?fieldManager=m",
        {"kind": "ConfigMap"},
        "application/apply-patch+yaml",
        400,
    ),
    ("GET", f"{CONFIG_MAPS}?labelSelector=a%20%20b", None, "", 400),
    ("GET", f"{CONFIG_MAPS}?fieldSelector=spec.x%3D1", None, "", 400),
    ("GET", f"{CONFIG_MAPS}?limit=x", None, "", 400),
    ("GET", f"{CONFIG_MAPS}?continue=x", None, "", 400),
    ("GET", f"{CONFIG_MAPS}?resourceVersion=x", None, "", 400),
    ("GET", "/api/v1/nothing", None, "", 404),
    ("GET", "/apis/none/v1/x", None, "", 404),
    ("GET", "/apis/none/v1", None, "", 404),
    ("GET", "/nothing", None, "", 404),
    ("DELETE", f"{CONFIG_MAPS}/none", {"propagationPolicy": "Sideways"}, "application/json", 422),
    ("DELETE", "/api/v1/namespaces/default", {}, "application/json", 403),
]


@pytest.mark.parametrize(("method", "path", "body", "content_type", "wanted"), BAD_REQUESTS)
async def test_bad_input_gets_its_status_and_never_a_5xx(
    client: Any, method: str, path: str, body: Any, content_type: str, wanted: int
) -> None:
    status, answer = await client.request(method, path, body, content_type=content_type)
    assert status == wanted, answer
    assert (answer["kind"], answer["status"], answer["code"]) == ("Status", "Failure", wanted)


async def test_services_get_addresses_that_they_keep(client: Any) -> None:
    spec = {"ports": [{"port": 80}], "selector": {"a": "b"}}
    made = await client.post(SERVICES, {"metadata": {"name": "a"}, "spec": spec})
    address = made["spec"]["clusterIP"]
    assert address.startswith("10.96.")
    assert made["spec"]["clusterIPs"] == [address]
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec}
    status, put = await client.request("PUT", f"{SERVICES}/a", body)
    assert (status, put["spec"]["clusterIP"]) == (200, address)
    status, answer = await client.merge(f"{SERVICES}/a", {"spec": {"clusterIP": "10.96.9.9"}})
    assert status == 422
    assert "may not change once set" in answer["message"]
    other = {"metadata": {"name": "b"}, "spec": {**spec, "clusterIP": address}}
    status, answer = await client.request("POST", SERVICES, other)
    assert status == 422
    assert "provided IP is already allocated" in answer["message"]


async def test_node_ports_are_given_where_asked_for(client: Any) -> None:
    spec = {"type": "NodePort", "ports": [{"port": 80}]}
    made = await client.post(SERVICES, {"metadata": {"name": "a"}, "spec": spec})
    assert 30000 <= made["spec"]["ports"][0]["nodePort"] <= 32767


async def test_headless_services_have_no_address(client: Any) -> None:
    spec = {"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]}
    made = await client.post(SERVICES, {"metadata": {"name": "a"}, "spec": spec})
    assert made["spec"]["clusterIP"] == "None"


async def test_scale_is_read_and_written_through_its_subresource(client: Any) -> None:
    await client.post(DEPLOYMENTS, build_deployment())
    status, scale = await client.merge(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 5}})
    assert (status, scale["kind"], scale["spec"]["replicas"]) == (200, "Scale", 5)
    assert scale["status"]["selector"] == "app=web"
    assert (await client.get(f"{DEPLOYMENTS}/web"))["spec"]["replicas"] == 5
    status, _ = await client.merge(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": -1}})
    assert status == 422


async def test_lists_come_in_pages(client: Any) -> None:
    for i in range(5):
        await client.post(
            CONFIG_MAPS, {"metadata": {"name": f"c{i}", "labels": {"odd": str(i % 2)}}}
        )
    names, token = [], ""
    while True:
        page = await client.get(f"{CONFIG_MAPS}?limit=2&continue={token}")
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert names == [f"c{i}" for i in range(5)]
    assert len((await client.get(f"{CONFIG_MAPS}?labelSelector=odd%3D1"))["items"]) == 2
    assert len((await client.get(f"{CONFIG_MAPS}?labelSelector=odd+in+(0),!x"))["items"]) == 3
    assert len((await client.get(f"{CONFIG_MAPS}?fieldSelector=metadata.name%3Dc3"))["items"]) == 1


async def test_items_of_builtin_lists_carry_no_type(client: Any) -> None:
    await client.post(CONFIG_MAPS, {"metadata": {"name": "a"}})
    item = (await client.get(CONFIG_MAPS))["items"][0]
    assert "kind" not in item
    assert "apiVersion" not in item


async def test_pods_are_selected_by_node_and_phase(client: Any) -> None:
    await client.post(PODS, build_pod("a", nodeName="n1"))
    await client.post(PODS, build_pod("b"))
    found = await client.get(f"{PODS}?fieldSelector=spec.nodeName%3Dn1,status.phase%3DPending")
    assert [p["metadata"]["name"] for p in found["items"]] == ["a"]


async def test_binding_gives_a_pod_its_node_once(client: Any) -> None:
    await client.post(PODS, build_pod("a"))
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "a"},
        "target": {"kind": "Node", "name": "n1"},
    }
    assert (await client.request("POST", f"{PODS}/a/binding", binding))[0] == 201
    pod = await client.get(f"{PODS}/a")
    assert pod["spec"]["nodeName"] == "n1"
    assert pod["status"]["conditions"][0]["type"] == "PodScheduled"
    assert (await client.request("POST", f"{PODS}/a/binding", binding))[0] == 409


async def test_pods_on_a_node_end_gracefully_and_others_at_once(client: Any) -> None:
    await client.post(PODS, build_pod("free"))
    await client.post(PODS, build_pod("bound", nodeName="n1", terminationGracePeriodSeconds=7))
    await client.request("DELETE", f"{PODS}/free", {})
    assert (await client.request("GET", f"{PODS}/free"))[0] == 404
    _, pod = await client.request("DELETE", f"{PODS}/bound", {})
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 7
    assert pod["metadata"]["deletionTimestamp"]
    assert (await client.request("GET", f"{PODS}/bound"))[0] == 200
    await client.request("DELETE", f"{PODS}/bound", {"gracePeriodSeconds": 0})
    assert (await client.request("GET", f"{PODS}/bound"))[0] == 404


async def test_preconditions_of_a_delete_hold(client: Any) -> None:
    await client.post(CONFIG_MAPS, {"metadata": {"name": "a"}})
    status, body = await client.request(
        "DELETE", f"{CONFIG_MAPS}/a", {"preconditions": {"uid": "other"}}
    )
    assert status == 409
    assert "the UID in the precondition (other) does not match" in body["message"]


async def test_eviction_respects_disruption_budgets(client: Any) -> None:
    for name in ("a", "b"):
        await client.post(PODS, build_pod(name, nodeName="n1"))
        ready = {"conditions": [{"type": "Ready", "status": "True"}], "phase": "Running"}
        await client.merge(f"{PODS}/{name}/status", {"status": ready})
    budget = {
        "metadata": {"name": "p"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
    }
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    await client.post(budgets, budget)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}}
    status, body = await client.request("POST", f"{PODS}/a/eviction", eviction)
    assert (status, body["reason"]) == (429, "TooManyRequests")
    assert body["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    await client.merge(f"{budgets}/p", {"spec": {"minAvailable": 1}})
    status, body = await client.request("POST", f"{PODS}/a/eviction", eviction)
    assert (status, body["status"]) == (201, "Success")
    assert (await client.get(f"{PODS}/a"))["metadata"]["deletionTimestamp"]


async def test_pods_over_quota_are_refused_and_usage_is_kept(client: Any) -> None:
    quotas = "/api/v1/namespaces/default/resourcequotas"
    await client.post(quotas, {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}})
    await client.post(PODS, build_pod("a"))
    status, body = await client.request("POST", PODS, build_pod("b"))
    assert (status, body["reason"]) == (403, "Forbidden")
    assert body["message"] == (
        'pods "b" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1'
    )
    found = await client.wait_for(
        f"{quotas}/q", lambda _, q: q["status"].get("used") == {"pods": "1"}
    )
    assert found["status"]["hard"] == {"pods": "1"}


async def test_tokens_of_service_accounts_open_the_api_until_the_account_goes(client: Any) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await client.post(accounts, {"metadata": {"name": "robot"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = (await client.post(f"{accounts}/robot/token", request))["status"]["token"]
    headers = {"Authorization": f"Bearer {token}"}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    status, body = await client.request(
        "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review, headers=headers
    )
    assert status == 201
    assert body["status"]["userInfo"]["username"] == "system:serviceaccount:default:robot"
    await client.request("DELETE", f"{accounts}/robot")
    assert (await client.request("GET", CONFIG_MAPS, headers=headers))[0] == 401


async def test_events_are_the_same_in_both_groups(client: Any) -> None:
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"},
        "reason": "R",
        "message": "m",
        "type": "Normal",
    }
    await client.post("/api/v1/namespaces/default/events", event)
    found = await client.get("/apis/events.k8s.io/v1/namespaces/default/events/e")
    assert (found["apiVersion"], found["note"], found["regarding"]["name"]) == (
        "events.k8s.io/v1",
        "m",
        "a",
    )
    listed = await client.get(
        "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Da"
    )
    assert len(listed["items"]) == 1


async def test_autoscalers_are_the_same_in_both_versions(client: Any) -> None:
    old = {
        "metadata": {"name": "h"},
        "spec": {
            "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 70,
            "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"},
        },
    }
    await client.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", old)
    found = await client.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h")
    assert found["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 70
    again = await client.get("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h")
    assert again["spec"]["targetCPUUtilizationPercentage"] == 70


async def test_lists_are_given_as_metadata_alone(client: Any) -> None:
    await client.post(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"x": "1"}})
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    found = await client.get(CONFIG_MAPS, accept=accept)
    assert found["kind"] == "PartialObjectMetadataList"
    assert found["items"][0].keys() == {"kind", "apiVersion", "metadata"}
