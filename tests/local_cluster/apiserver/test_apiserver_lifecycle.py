"""What lives and dies together: owners, namespaces, definitions, finalizers, and the server itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_cluster.apiserver import ApiServer

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
THINGS = "/apis/example.io/v1/namespaces/default/things"


def build_owned(name: str, owner: dict[str, Any], **more: Any) -> dict[str, Any]:
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        **more,
    }
    return {"metadata": {"name": name, "ownerReferences": [reference]}}


def build_crd() -> dict[str, Any]:
    spec = {
        "type": "object",
        "properties": {"size": {"type": "integer", "default": 2, "minimum": 1}},
    }
    status = {"type": "object", "properties": {"phase": {"type": "string"}}}
    schema = {"type": "object", "properties": {"spec": spec, "status": status}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
        ],
    }
    names = {"plural": "things", "kind": "Thing", "shortNames": ["th"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.io"},
        "spec": {
            "group": "example.io",
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }


def build_thing(name: str = "t", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "example.io/v1",
        "kind": "Thing",
        "metadata": {"name": name},
        "spec": spec,
    }


async def define(client: Any) -> None:
    await client.post(CRDS, build_crd())
    await client.wait_for("/apis/example.io/v1", lambda status, _: status == 200)


async def test_dependents_go_with_their_owner_down_the_chain(client: Any) -> None:
    owner = await client.post(CONFIG_MAPS, {"metadata": {"name": "owner"}})
    child = await client.post(CONFIG_MAPS, build_owned("child", owner))
    await client.post(CONFIG_MAPS, build_owned("grandchild", child))
    await client.request("DELETE", f"{CONFIG_MAPS}/owner")
    await client.wait_gone(f"{CONFIG_MAPS}/child")
    await client.wait_gone(f"{CONFIG_MAPS}/grandchild")


async def test_an_object_whose_owner_never_was_is_collected(client: Any) -> None:
    ghost = {"metadata": {"name": "ghost", "uid": "11111111-2222-3333-4444-555555555555"}}
    await client.post(CONFIG_MAPS, build_owned("orphan", ghost))
    await client.wait_gone(f"{CONFIG_MAPS}/orphan")


async def test_an_object_with_a_living_owner_stays_and_loses_the_dead_one(client: Any) -> None:
    one = await client.post(CONFIG_MAPS, {"metadata": {"name": "one"}})
    two = await client.post(CONFIG_MAPS, {"metadata": {"name": "two"}})
    body = build_owned("child", one)
    body["metadata"]["ownerReferences"] += build_owned("child", two)["metadata"]["ownerReferences"]
    await client.post(CONFIG_MAPS, body)
    await client.request("DELETE", f"{CONFIG_MAPS}/one")
    left = await client.wait_for(
        f"{CONFIG_MAPS}/child", lambda _, obj: len(obj["metadata"]["ownerReferences"]) == 1
    )
    assert left["metadata"]["ownerReferences"][0]["name"] == "two"


async def test_orphaned_dependents_stay_without_an_owner(client: Any) -> None:
    owner = await client.post(CONFIG_MAPS, {"metadata": {"name": "owner"}})
    await client.post(CONFIG_MAPS, build_owned("child", owner))
    await client.request("DELETE", f"{CONFIG_MAPS}/owner", {"propagationPolicy": "Orphan"})
    await client.wait_gone(f"{CONFIG_MAPS}/owner")
    assert "ownerReferences" not in (await client.get(f"{CONFIG_MAPS}/child"))["metadata"]


async def test_a_foreground_delete_waits_for_blocking_dependents(client: Any) -> None:
    owner = await client.post(CONFIG_MAPS, {"metadata": {"name": "owner"}})
    child = build_owned("child", owner, blockOwnerDeletion=True)
    child["metadata"]["finalizers"] = ["example.io/wait"]
    await client.post(CONFIG_MAPS, child)
    _, marked = await client.request(
        "DELETE", f"{CONFIG_MAPS}/owner", {"propagationPolicy": "Foreground"}
    )
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]
    await client.wait_for(
        f"{CONFIG_MAPS}/child", lambda _, obj: "deletionTimestamp" in obj["metadata"]
    )
    assert (await client.request("GET", f"{CONFIG_MAPS}/owner"))[0] == 200
    await client.merge(f"{CONFIG_MAPS}/child", {"metadata": {"finalizers": None}})
    await client.wait_gone(f"{CONFIG_MAPS}/child")
    await client.wait_gone(f"{CONFIG_MAPS}/owner")


async def test_finalizers_hold_an_object_until_the_last_is_removed(client: Any) -> None:
    await client.post(CONFIG_MAPS, {"metadata": {"name": "a", "finalizers": ["x.io/a", "x.io/b"]}})
    _, marked = await client.request("DELETE", f"{CONFIG_MAPS}/a")
    assert marked["metadata"]["deletionTimestamp"]
    status, body = await client.merge(
        f"{CONFIG_MAPS}/a", {"metadata": {"finalizers": ["x.io/a", "x.io/c"]}}
    )
    assert status == 422
    assert "no new finalizers can be added" in body["message"]
    await client.merge(f"{CONFIG_MAPS}/a", {"metadata": {"finalizers": ["x.io/a"]}})
    assert (await client.request("GET", f"{CONFIG_MAPS}/a"))[0] == 200
    await client.merge(f"{CONFIG_MAPS}/a", {"metadata": {"finalizers": []}})
    assert (await client.request("GET", f"{CONFIG_MAPS}/a"))[0] == 404


async def test_a_namespace_takes_its_content_with_it_and_takes_nothing_new(client: Any) -> None:
    namespaces = "/api/v1/namespaces"
    await client.post(namespaces, {"metadata": {"name": "team"}})
    await client.wait_for(
        f"{namespaces}/team/serviceaccounts/default", lambda status, _: status == 200
    )
    held = {"metadata": {"name": "held", "finalizers": ["x.io/wait"]}}
    await client.post(f"{namespaces}/team/configmaps", held)
    _, going = await client.request("DELETE", f"{namespaces}/team")
    assert going["status"]["phase"] == "Terminating"
    status, body = await client.request(
        "POST", f"{namespaces}/team/configmaps", {"metadata": {"name": "b"}}
    )
    assert (status, body["message"]) == (
        403,
        'configmaps "b" is forbidden: unable to create new content in namespace team because it is being terminated',
    )
    await client.wait_gone(f"{namespaces}/team/serviceaccounts/default")
    await client.merge(f"{namespaces}/team/configmaps/held", {"metadata": {"finalizers": None}})
    await client.wait_gone(f"{namespaces}/team")


async def test_collections_are_deleted_by_selector(client: Any) -> None:
    for name, app in (("a", "x"), ("b", "x"), ("c", "y")):
        await client.post(CONFIG_MAPS, {"metadata": {"name": name, "labels": {"app": app}}})
    status, _ = await client.request("DELETE", f"{CONFIG_MAPS}?labelSelector=app%3Dx")
    assert status == 200
    assert [i["metadata"]["name"] for i in (await client.get(CONFIG_MAPS))["items"]] == ["c"]


async def test_custom_resources_are_defaulted_pruned_validated_and_printed(client: Any) -> None:
    await define(client)
    made = await client.post(THINGS, build_thing(colour="red"))
    assert made["spec"] == {"size": 2}
    assert client.warnings == ['299 - "unknown field \\"spec.colour\\""']
    status, body = await client.request("POST", THINGS, build_thing("bad", size=0))
    assert status == 422
    assert body["message"].startswith(
        'Thing.example.io "bad" is invalid: spec.size: Invalid value: 0'
    )
    await client.merge(f"{THINGS}/t/status", {"status": {"phase": "Up"}, "spec": {"size": 9}})
    table = await client.get(THINGS, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    assert table["rows"][0]["cells"] == ["t", 2, "Up"]


async def test_custom_resources_take_no_strategic_patches_and_no_unversioned_puts(
    client: Any,
) -> None:
    await define(client)
    await client.post(THINGS, build_thing())
    status, _ = await client.request(
        "PATCH", f"{THINGS}/t", {}, content_type="application/strategic-merge-patch+json"
    )
    assert status == 415
    status, body = await client.request("PUT", f"{THINGS}/t", build_thing(size=3))
    assert status == 422
    assert body["details"]["causes"][0]["field"] == "metadata.resourceVersion"


async def test_what_is_nested_too_deeply_to_be_stored_harms_nothing(client: Any) -> None:
    crd = build_crd()
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    await client.post(CRDS, crd)
    await client.wait_for("/apis/example.io/v1", lambda status, _: status == 200)
    deep = b'{"apiVersion":"example.io/v1","kind":"Thing","metadata":{"name":"t"},"spec":'
    body = deep + b'{"a":' * 600 + b"1" + b"}" * 601
    assert (await client.request("POST", THINGS, body))[0] == 400
    await client.post(THINGS, build_thing())


async def test_a_deleted_definition_takes_its_objects_and_its_path(client: Any) -> None:
    await define(client)
    await client.post(THINGS, build_thing())
    await client.request("DELETE", f"{CRDS}/things.example.io")
    await client.wait_gone(f"{CRDS}/things.example.io")
    assert (await client.request("GET", THINGS))[0] == 404
    groups = {g["name"] for g in (await client.get("/apis"))["groups"]}
    assert "example.io" not in groups
    await define(client)
    assert (await client.get(THINGS))["items"] == []


async def test_applied_fields_of_others_are_a_conflict_until_forced(client: Any) -> None:
    await define(client)
    assert (await client.apply(f"{THINGS}/t", build_thing(size=3), manager="a"))[0] == 201
    status, body = await client.apply(f"{THINGS}/t", build_thing(size=4), manager="b")
    assert (status, body["message"]) == (
        409,
        'Apply failed with 1 conflict: conflict with "a": .spec.size',
    )
    status, body = await client.apply(
        f"{THINGS}/t", build_thing(size=4), manager="b", query="&force=true"
    )
    assert (status, body["spec"]["size"]) == (200, 4)


async def test_state_outlives_the_server(tmp_path: Path, connect: Callable[..., Any]) -> None:
    state = tmp_path / "state"
    async with ApiServer(state) as server:
        client = await connect(server)
        await define(client)
        made = await client.post(THINGS, build_thing())
        url, token = client.url, client.token
        await client.session.close()
    async with ApiServer(state) as server:
        client = await connect(server)
        assert (client.url, client.token) == (url, token)
        assert await client.get(f"{THINGS}/t") == made
        _, changed = await client.merge(f"{THINGS}/t", {"spec": {"size": 7}})
        assert int(changed["metadata"]["resourceVersion"]) > int(
            made["metadata"]["resourceVersion"]
        )
        old = made["metadata"]["resourceVersion"]
        async with client.session.get(
            f"{client.url}{THINGS}?watch=true&resourceVersion={int(old) - 1}"
        ) as watch:
            assert b'"code":410' in await watch.content.readline()
        await client.session.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_what_was_acknowledged_survives_the_process(
    tmp_path: Path, connect: Callable[..., Any], number: signal.Signals
) -> None:
    state = tmp_path / "state"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "local_cluster.apiserver",
        "--state",
        str(state),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    assert os.stat(state / "kubeconfig").st_mode & 0o777 == 0o600
    probe = ApiServer(state)
    probe.url = url
    client = await connect(probe)
    await client.post(CONFIG_MAPS, {"metadata": {"name": "a"}})
    await client.session.close()
    process.send_signal(number)
    async with asyncio.timeout(10):
        code = await process.wait()
    assert code == (0 if number == signal.SIGTERM else -9)
    async with ApiServer(state) as server:
        client = await connect(server)
        assert (await client.get(f"{CONFIG_MAPS}/a"))["metadata"]["name"] == "a"
        await client.session.close()
