"""The clients that matter: kubectl, the official client in both forms, kopf; and a node's logs."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml
from aiohttp import web

from local_cluster.apiserver.pki import ensure_identity

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "x:1"}]},
        },
    },
}
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.io"},
    "spec": {
        "group": "example.io",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "description": "What is wanted.",
                                "properties": {
                                    "size": {"type": "integer", "description": "How large."}
                                },
                            },
                            "status": {
                                "type": "object",
                                "x-kubernetes-preserve-unknown-fields": True,
                            },
                        },
                    }
                },
            }
        ],
    },
}


def build_deployment(image: str = "x:1") -> dict[str, Any]:
    copy: dict[str, Any] = yaml.safe_load(yaml.safe_dump(DEPLOYMENT))
    copy["spec"]["template"]["spec"]["containers"][0]["image"] = image
    return copy


async def test_kubectl_applies_diffs_edits_and_patches(kubectl: Any) -> None:
    _, out, _ = await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    assert out == "deployment.apps/web created\n"
    _, out, _ = await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    assert out == "deployment.apps/web unchanged\n"
    code, out, _ = await kubectl("diff", "-f", "-", stdin=build_deployment("x:2"), fails=True)
    assert code == 1
    assert "+      - image: x:2" in out
    _, out, _ = await kubectl("apply", "-f", "-", stdin=build_deployment("x:2"))
    assert out == "deployment.apps/web configured\n"
    for kind, patch in (
        ("merge", '{"spec":{"replicas":2}}'),
        ("strategic", '{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"x:3"}]}}}}'),
        ("json", '[{"op":"replace","path":"/spec/replicas","value":4}]'),
    ):
        await kubectl("patch", "deploy", "web", f"--type={kind}", "-p", patch)
    _, out, _ = await kubectl(
        "get", "deploy", "web", "-o", "jsonpath={.spec.replicas} {..containers[0].image}"
    )
    assert out == "4 x:3"


async def test_kubectl_server_side_apply_shows_conflicts(kubectl: Any) -> None:
    await kubectl("apply", "--server-side", "--field-manager=a", "-f", "-", stdin=DEPLOYMENT)
    code, _, err = await kubectl(
        "apply",
        "--server-side",
        "--field-manager=b",
        "-f",
        "-",
        stdin=build_deployment("x:2"),
        fails=True,
    )
    assert code == 1
    assert 'conflict with "a": .spec.template.spec.containers[name="c"].image' in err
    await kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=b",
        "-f",
        "-",
        stdin=build_deployment("x:2"),
    )


async def test_kubectl_defines_explains_and_lists_custom_resources(kubectl: Any) -> None:
    await kubectl("apply", "-f", "-", stdin=CRD)
    await kubectl("wait", "--for=condition=Established", "crd/things.example.io", "--timeout=10s")
    _, out, _ = await kubectl("explain", "thing.spec")
    assert "What is wanted." in out
    assert "How large." in out
    thing = {
        "apiVersion": "example.io/v1",
        "kind": "Thing",
        "metadata": {"name": "t"},
        "spec": {"size": 1},
    }
    await kubectl("apply", "-f", "-", stdin=thing)
    _, out, _ = await kubectl("get", "th")
    assert out.split()[:3] == ["NAME", "AGE", "t"]
    thing["spec"] = {"sise": 1}
    code, _, err = await kubectl("apply", "-f", "-", stdin=thing, fails=True)
    assert code == 1
    assert 'unknown field "spec.sise"' in err
    _, out, _ = await kubectl("delete", "thing", "t")
    assert 'thing.example.io "t" deleted' in out
    await kubectl("delete", "crd", "things.example.io")


async def test_kubectl_creates_what_it_sends_as_protobuf(kubectl: Any) -> None:
    await kubectl("create", "namespace", "team")
    await kubectl("create", "secret", "generic", "s", "--from-literal=a=b", "-n", "team")
    await kubectl("create", "configmap", "m", "--from-literal=a=b", "-n", "team")
    await kubectl(
        "create", "deployment", "d", "--image=x:1", "--replicas=0", "--port=80", "-n", "team"
    )
    _, out, _ = await kubectl(
        "get", "secret", "s", "-n", "team", "-o", "jsonpath={.data.a} {.type}"
    )
    assert out == "Yg== Opaque"
    _, out, _ = await kubectl("get", "deploy", "d", "-n", "team", "-o", "yaml")
    spec = yaml.safe_load(out)["spec"]
    assert spec["replicas"] == 0
    assert spec["template"]["spec"]["containers"][0]["ports"] == [
        {"containerPort": 80, "protocol": "TCP"}
    ]
    await kubectl("delete", "namespace", "team", "--timeout=20s")


async def test_kubectl_scales_labels_restarts_and_describes(kubectl: Any) -> None:
    await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    await kubectl("scale", "deploy/web", "--replicas=3")
    await kubectl("label", "deploy", "web", "team=a")
    await kubectl("annotate", "deploy", "web", "note=b")
    await kubectl("rollout", "restart", "deploy/web")
    await kubectl("expose", "deploy", "web", "--port=80")
    _, out, _ = await kubectl("describe", "deploy", "web")
    assert "3 desired" in out
    _, out, _ = await kubectl("get", "all", "-o", "name")
    assert {"deployment.apps/web", "service/web"} <= set(out.split())
    await kubectl("run", "one", "--image=x")
    _, out, _ = await kubectl("get", "pods", "--no-headers", "-o", "wide")
    assert out.split()[:4] == ["one", "0/1", "Pending", "0"]
    _, out, _ = await kubectl("auth", "can-i", "create", "pods")
    assert out == "yes\n"
    _, out, _ = await kubectl("api-resources", "--api-group=policy", "-o", "name")
    assert out == "poddisruptionbudgets.policy\n"


async def test_kubectl_shows_what_the_server_refuses(kubectl: Any) -> None:
    bad = build_deployment()
    bad["spec"]["replicsa"] = 1
    code, _, err = await kubectl("apply", "-f", "-", stdin=bad, fails=True)
    assert code == 1
    assert 'strict decoding error: unknown field "spec.replicsa"' in err
    code, _, err = await kubectl("get", "pod", "nope", fails=True)
    assert err == 'Error from server (NotFound): pods "nope" not found\n'


async def test_kubectl_top_reads_what_an_agent_reported(kubectl: Any, client: Any) -> None:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    metrics = {
        "metadata": {"name": "one"},
        "timestamp": now,
        "window": "10s",
        "containers": [{"name": "c", "usage": {"cpu": "250m", "memory": "64Mi"}}],
    }
    await client.post("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", metrics)
    _, out, _ = await kubectl("top", "pods", "--no-headers")
    assert out.split() == ["one", "250m", "64Mi"]


@pytest.fixture
async def node_port(tmp_path: Path) -> AsyncIterator[int]:
    """A node agent that answers with what it was asked for."""

    async def logs(request: web.Request) -> web.Response:
        if request.match_info["container"] == "waiting":
            return web.Response(status=400, text="container is waiting to start")
        return web.Response(text=f"{request.path} {request.query_string}\n")

    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    runner = web.AppRunner(app)
    await runner.setup()
    context: ssl.SSLContext = ensure_identity(tmp_path / "node", "127.0.0.1").ssl_context()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_logs_come_from_the_node_of_the_pod(client: Any, node_port: int) -> None:
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node_port}},
    }
    await client.post("/api/v1/nodes", {"metadata": {"name": "n1"}, "status": status})
    containers = [{"name": "a", "image": "x"}, {"name": "waiting", "image": "x"}]
    pods = "/api/v1/namespaces/default/pods"
    await client.post(
        pods, {"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": containers}}
    )
    _, text = await client.request("GET", f"{pods}/p/log?container=a&tailLines=5&follow=true")
    assert text == "/containerLogs/default/p/a follow=true&tailLines=5\n"
    status, body = await client.request("GET", f"{pods}/p/log?container=waiting")
    assert (status, body["message"]) == (400, "container is waiting to start")
    status, body = await client.request("GET", f"{pods}/p/log")
    assert status == 400
    assert (
        "a container name must be specified for pod p, choose one of: [a waiting]"
        in body["message"]
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_official_client_reads_writes_and_watches(client: Any) -> None:
    from kubernetes import client as k8s
    from kubernetes import config, dynamic, watch

    def use() -> list[str]:
        with config.new_client_from_config(str(client.kubeconfig)) as api_client:
            core = k8s.CoreV1Api(api_client)
            body = k8s.V1ConfigMap(metadata=k8s.V1ObjectMeta(name="a"), data={"x": "1"})
            core.create_namespaced_config_map("default", body)
            listed = core.list_namespaced_config_map("default")
            apps = dynamic.DynamicClient(api_client).resources.get(
                api_version="apps/v1", kind="Deployment"
            )
            apps.server_side_apply(
                body=DEPLOYMENT, name="web", namespace="default", field_manager="test"
            )
            assert apps.get(name="web", namespace="default").spec.replicas == 1
            stream = watch.Watch().stream(
                core.list_namespaced_config_map, "default", timeout_seconds=1
            )
            seen = [event["object"].metadata.name for event in stream]
            return [item.metadata.name for item in listed.items] + seen

    assert await asyncio.to_thread(use) == ["a", "a"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_asynchronous_official_client_applies_and_lists(client: Any) -> None:
    from kubernetes.aio import client as k8s
    from kubernetes.aio import config
    from kubernetes.aio.dynamic import DynamicClient

    configuration = k8s.Configuration()
    await config.load_kube_config(str(client.kubeconfig), client_configuration=configuration)
    async with k8s.ApiClient(configuration) as api_client:
        core = k8s.CoreV1Api(api_client)
        assert {n.metadata.name for n in (await core.list_namespace()).items} >= {"default"}
        dynamic = await DynamicClient(api_client)
        apps = await dynamic.resources.get(api_version="apps/v1", kind="Deployment")
        made = await apps.server_side_apply(
            body=DEPLOYMENT, name="web", namespace="default", field_manager="test"
        )
        assert made.metadata.generation == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_kopf_operator_handles_custom_resources(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(client.kubeconfig))
    await client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", CRD)
    await client.wait_for("/apis/example.io/v1", lambda status, _: status == 200)
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> Any:
        return kopf.login_with_kubeconfig(**arguments)

    @kopf.on.create("example.io", "v1", "things", registry=registry)
    async def created(patch: kopf.Patch, body: kopf.Body, **_: Any) -> None:
        patch.status["seen"] = True
        kopf.event(body, type="Normal", reason="Seen", message="seen")

    stop, ready = asyncio.Event(), asyncio.Event()
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = "example.io/kopf"
    operator = asyncio.create_task(
        kopf.operator(
            registry=registry,
            settings=settings,
            namespaces=["default"],
            stop_flag=stop,
            ready_flag=ready,
            standalone=True,
        )
    )
    async with asyncio.timeout(20):
        await ready.wait()
        things = "/apis/example.io/v1/namespaces/default/things"
        thing = {
            "apiVersion": "example.io/v1",
            "kind": "Thing",
            "metadata": {"name": "t"},
            "spec": {},
        }
        await client.post(things, thing)
        await client.wait_for(
            f"{things}/t", lambda _, obj: obj.get("status", {}).get("seen") is True
        )
        await client.wait_for(
            "/api/v1/namespaces/default/events",
            lambda _, events: any(e["reason"] == "Seen" for e in events["items"]),
        )
        stop.set()
        await operator
