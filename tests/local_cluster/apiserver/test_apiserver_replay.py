"""What a real API server answered, asked of ours: statuses and bodies equal but for names that must differ."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

RECORDING = Path(__file__).with_name("exchanges.jsonl.gz")
EDGES = Path(__file__).with_name("edge_exchanges.jsonl.gz")

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_AGE = re.compile(r"^(\d+[smhdy])+$")
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ADDRESS = re.compile(r"^10\.(0|96)\.\d+\.\d+$")
_CONTROLLER = "kube-controller-manager"


def load_recording(path: Path = RECORDING) -> list[dict[str, Any]]:
    """Read all exchanges, in order."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def blur(value: Any, key: str = "") -> Any:
    """Replace what must differ: uids, times, versions, ages, addresses, generated names.

    What a controller manager wrote into a workload is taken out: a bare server has none.
    """
    if isinstance(value, dict):
        result = {_UID.sub("<uid>", k): blur(v, k) for k, v in value.items()}
        if "managedFields" in value:
            kept = [blur(e) for e in value["managedFields"] if e.get("manager") != _CONTROLLER]
            # Their order depends on which writes fell into the same second.
            result["managedFields"] = sorted(kept, key=lambda e: json.dumps(e, sort_keys=True))
        if value.get("kind") in ("Deployment", "PodDisruptionBudget") and "status" in value:
            result["status"] = "<controller>"
        if key == "annotations":
            result.pop("deployment.kubernetes.io/revision", None)
        if key == "metadata" and not result.get("annotations", True):
            del result["annotations"]
        if str(value.get("name", "")).startswith(str(value.get("generateName", "\0"))):
            result["name"] = "<generated>"
        return result
    if isinstance(value, list):
        return [blur(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if key == "resourceVersion":
        return "<version>"
    if key == "storageVersionHash":
        return "<hash>"
    if _ADDRESS.match(value):
        return "<address>"
    if _AGE.match(value):
        return "<age>"
    return _UID.sub(
        "<uid>", _TIME.sub("<time>", re.sub(r'(resourceVersion\\*":\\*")\d+', r"\1N", value))
    )


def find_differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    """List where two answers differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted(found.keys() | wanted.keys()):
            if key not in found:
                lines.append(f"{path}.{key}: missing, wanted {json.dumps(wanted[key])[:200]}")
            elif key not in wanted:
                lines.append(f"{path}.{key}: not wanted: {json.dumps(found[key])[:200]}")
            else:
                lines.extend(find_differences(found[key], wanted[key], f"{path}.{key}"))
        return lines
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        return [
            line
            for i, (one, other) in enumerate(zip(found, wanted, strict=True))
            for line in find_differences(one, other, f"{path}[{i}]")
        ]
    if found == wanted:
        return []
    return [f"{path}: {json.dumps(found)[:700]}, wanted {json.dumps(wanted)[:700]}"]


class Replay:
    """Translates between the names of the recording and those of this run."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._names: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._tags: dict[str, str] = {}

    def _learn(self, wanted: Any, found: Any) -> None:
        """Remember which uid, version and generated name stands for which."""
        if isinstance(wanted, dict) and isinstance(found, dict):
            for key, value in wanted.items():
                other = found.get(key)
                if key == "uid" and isinstance(value, str) and isinstance(other, str):
                    self._names.setdefault(value, other)
                elif key == "resourceVersion" and isinstance(value, str) and isinstance(other, str):
                    self._versions[value] = other
                else:
                    self._learn(value, other)
        elif isinstance(wanted, list) and isinstance(found, list):
            for one, other in zip(wanted, found, strict=False):
                self._learn(one, other)

    def _translate(self, text: str) -> str:
        for recorded, actual in self._names.items():
            text = text.replace(recorded, actual)
        text = re.sub(
            r'("path": ?"/metadata/resourceVersion", ?"value": ?"|"resourceVersion": ?")(\d+)',
            lambda m: m[1] + self._versions.get(m[2], m[2]),
            text,
        )
        return re.sub(
            r"(resourceVersion=)(\d+)", lambda m: m[1] + self._versions.get(m[2], m[2]), text
        )

    async def _current_hash(self, path: str) -> str:
        async with self._session.get(self._url + "/openapi/v3") as response:
            index = await response.json()
        document = path.partition("?")[0].removeprefix("/openapi/v3/")
        return str(index["paths"][document]["serverRelativeURL"].partition("hash=")[2])

    async def send(self, exchange: dict[str, Any]) -> list[str]:
        """Send one exchange's request again.

        Returns:
            How the answer differs from the recorded one.
        """
        request, wanted = exchange["request"], exchange["response"]
        path = self._translate(request["path"])
        if "hash=" in path:
            path = re.sub("hash=[0-9A-F]+", "hash=" + await self._current_hash(path), path)
        headers = {k: v for k, v in request["headers"].items() if k != "If-None-Match"}
        tag = request["headers"].get("If-None-Match")
        if tag:
            headers["If-None-Match"] = self._tags.get(tag, "unknown")
        body = request["body"]
        data = None
        if isinstance(body, str):
            data = self._translate(body).encode()
        elif body is not None:
            data = self._translate(json.dumps(body)).encode()
        async with self._session.request(
            request["method"], self._url + path, data=data, headers=headers
        ) as response:
            differences = []
            if response.status != wanted["status"]:
                text = (await response.text())[:300] if "watch" not in path else ""
                return [f"status {response.status}, wanted {wanted['status']}: {text}"]
            if wanted["headers"].get("Etag"):
                self._tags[wanted["headers"]["Etag"]] = response.headers["ETag"]
            events = wanted.get("events")
            if events is not None or "watch=true" in path:
                for event in events or ():
                    found = orjson.loads(await response.content.readline())
                    self._learn(event, found)
                    if event["type"] == "BOOKMARK" and found["type"] == "BOOKMARK":
                        # Go writes the zero fields of a built-in type into bookmarks; only metadata means something.
                        event, found = ({"m": e["object"]["metadata"]} for e in (event, found))
                    differences += find_differences(blur(found), blur(event), event.get("type", ""))
                return differences
            text = await response.read()
            warnings = response.headers.getall("Warning", [])
        if warnings != wanted.get("warnings", warnings):
            differences.append(f"warnings {warnings}, wanted {wanted['warnings']}")
        wanted_body = wanted["body"]
        if not isinstance(wanted_body, dict) or "base64" in wanted_body or not text:
            return differences
        if response.headers["Content-Type"].startswith("application/json"):
            found = orjson.loads(text)
            self._learn(wanted_body, found)
            differences += find_differences(*map(_sort_causes, (blur(found), blur(wanted_body))))
        return differences


def _sort_causes(status: Any) -> Any:
    """Put the causes of a 422 into one order: a real server's own changes from run to run."""
    causes = (status.get("details") or {}).get("causes") if isinstance(status, dict) else None
    if not causes or status.get("code") != 422:
        return status
    ordered = sorted({json.dumps(cause, sort_keys=True) for cause in causes})
    head = str(status["message"]).partition(" is invalid: ")[0]
    return {**status, "message": head, "details": {**status["details"], "causes": ordered}}


SKIPPED = {
    **dict.fromkeys(
        (100, 101, 127, 129, 130, 131, 132),
        "pods and replica sets were made by a controller manager",
    ),
    **dict.fromkeys((99, 201), "the row shows counts that a controller manager observed"),
    **dict.fromkeys((120, 206), "events were written by a controller manager"),
    **dict.fromkeys(
        (146, 147, 233, 234),
        "the real server needs a second to drop a CRD; here it is gone at once",
    ),
    161: "the real server was initialising its storage",
    230: "half of the events are a controller manager's",
    **dict.fromkeys((144, 167), "the version is our own"),
}
"""Exchanges that a bare server cannot answer alike, and why."""

ALLOWED = {
    **dict.fromkeys((110, 111, 112, 113, 114, 115, 116), ".metadata.generation"),
}
"""Differences that may be: the real server counts a generation where an apply only drops and defaults fields again."""


def _is_discovery(exchange: dict[str, Any]) -> bool:
    path = exchange["request"]["path"].partition("?")[0].strip("/").split("/")
    return path[0] in {"api", "apis"} and len(path) <= (2 if path[0] == "api" else 3)


async def test_recorded_exchanges_are_answered_as_by_a_real_server(client: Any) -> None:
    replay = Replay(client.session, client.url)
    problems: list[str] = []
    for number, exchange in enumerate(load_recording()):
        if number in SKIPPED or _is_discovery(exchange):
            continue
        async with asyncio.timeout(10):
            differences = await replay.send(exchange)
        allowed = ALLOWED.get(number)
        differences = [
            d for d in differences if allowed is None or not d.partition(":")[0].endswith(allowed)
        ]
        title = f"{number} ({exchange['step']}) {exchange['request']['method']} {exchange['request']['path'][:90]}"
        problems.extend(f"{title}: {difference}" for difference in differences)
        if (
            exchange["request"]["path"].startswith("/apis/apiextensions")
            and exchange["request"]["method"] != "GET"
        ):
            await _settle(client, exchange)
    assert problems == []


async def _settle(client: Any, exchange: dict[str, Any]) -> None:
    """Wait for what the server does on its own after a definition came or went."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/scoringmodels.mlscoring.io"
    if exchange["request"]["method"] == "POST":
        await client.wait_for(path, lambda _, crd: bool(crd["status"]["conditions"]))
    else:
        await client.wait_gone(path)


def _served(recorded: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Cut a recorded aggregated document down to what is served here."""
    names = {
        (g["metadata"].get("name", ""), v["version"], r["resource"]): {
            s["subresource"] for s in r.get("subresources", ())
        }
        for g in found["items"]
        for v in g["versions"]
        for r in v["resources"]
    }
    for group in recorded["items"]:
        for version in group["versions"]:
            key = (group["metadata"].get("name", ""), version["version"])
            version["resources"] = [
                r for r in version["resources"] if (*key, r["resource"]) in names
            ]
            for resource in version["resources"]:
                kept = [
                    s
                    for s in resource.get("subresources", ())
                    if s["subresource"] in names[(*key, resource["resource"])]
                ]
                resource.pop("subresources", None)
                if kept:
                    resource["subresources"] = kept
        group["versions"] = [v for v in group["versions"] if v["resources"]]
    recorded["items"] = [g for g in recorded["items"] if g["versions"]]
    return recorded


@pytest.mark.parametrize("number", [2, 3])
async def test_aggregated_discovery_says_of_each_resource_what_a_real_server_says(
    client: Any, number: int
) -> None:
    exchange = load_recording()[number]
    request = exchange["request"]
    found = await client.get(request["path"], accept=request["headers"]["Accept"])
    found["items"] = [g for g in found["items"] if g["metadata"].get("name") != "metrics.k8s.io"]
    assert find_differences(found, _served(exchange["response"]["body"], found)) == []


async def test_older_discovery_says_of_each_resource_what_a_real_server_says(client: Any) -> None:
    problems = []
    for exchange in load_recording():
        body = exchange["response"].get("body")
        if not isinstance(body, dict) or body.get("kind") != "APIResourceList":
            continue
        status, found = await client.request("GET", exchange["request"]["path"])
        if status == 404:  # a group that is not served
            continue
        names = {r["name"] for r in found["resources"]}
        body["resources"] = [r for r in body["resources"] if r["name"] in names]
        problems += find_differences(blur(found), blur(body), body["groupVersion"])
    assert problems == []


async def test_aggregated_discovery_is_not_sent_again_to_those_who_have_it(client: Any) -> None:
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    async with client.session.get(client.url + "/apis", headers={"Accept": accept}) as response:
        tag = response.headers["ETag"]
    headers = {"Accept": accept, "If-None-Match": tag}
    async with client.session.get(client.url + "/apis", headers=headers) as response:
        assert response.status == 304


LEFT = {
    "a client's mistake is never a 5xx here": (
        "cm put bad version",
        "watch bad rv",
        "ssa strict unknown",
        "dep ssa dup key",
        "dep ssa wrong type",
        "dep strategic no key",
        "dep strategic bad directive",
        "svc ssa dup ports",
        "sm ssa dup cond",
        "sm ssa unknown",
        "sm ssa type",
    ),
    "the message says more than the real server's": (
        "cm wrong kind",
        "cm wrong apiVersion",
        "cm wrong type",
        "cm not acceptable",
        "cm unknown patch type",
        "cm put other uid",
        "ssa no apiVersion",
        "pod log no node",
    ),
    "the message has other words or another order": (
        "cm broken json",
        "cm empty body",
        "cm strict unknown",
        "cm strict duplicate",
        "list labels bad",
        "list continue bad",
        "ssa broken yaml",
        "dep ssa conflict env",
        "ing no pathType",
        "pod binding again",
        "sm float replicas",
        "sm status bad",
        "sm status enum",
        "crd invalid",
    ),
    "the real server prints a Go struct, a Go diff, or an object in the order of its Go fields": (
        "cm merge patch type",
        "cm patch strict unknown",
        "dep strategy unknown",
        "pod security",
        "pod selectors",
        "svc ports dup",
        "pdb both",
        "pod env update",
    ),
    "version numbers and page tokens are our own": (
        "list limit",
        "list limit plain",
        "list future rv",
        "delete preconditions rv",
    ),
    "the real server answers these paths with plain text": ("unknown group", "unknown path"),
    "the descriptions of columns, which kubectl does not show, are shorter": (
        "list table",
        "list table no object",
        "list table full object",
        "get table",
        "watch table",
        "secret table",
    ),
    "rules for fields of pods that the project does not use": (
        "pod bad names",
        "pod volumes",
        "pod env",
        "pod policies",
        "pod affinity",
        "pod spread",
    ),
    "the status of built-in types is taken as its controller writes it": (
        "dep status patch",
        "dep status bad",
        "dep table",
        "dep fields by status",
        "pod status",
        "pod delete graceful",
        "pod delete force",
    ),
    "an item that is there twice has an owner here": ("pod dup ports warn", "dep dup env warns"),
    "the recorded server had no controller manager, or another name": ("sa create", "crd get"),
    "wrong types are refused with another status": ("dep scale string", "sm type"),
    "a dry run reserves a node port here": ("svc nodeport",),
    "a review carries no managed fields here": ("self review",),
    "the first bookmark of a watch that asked for none is not marked": ("sm watch",),
}
"""Answers that differ in what neither kubectl nor a program depends on, and why."""


async def test_recorded_mistakes_are_answered_as_by_a_real_server(client: Any) -> None:
    replay = Replay(client.session, client.url)
    left = {step for steps in LEFT.values() for step in steps}
    problems: list[str] = []
    for exchange in load_recording(EDGES):
        async with asyncio.timeout(10):
            differences = await replay.send(exchange)
        if exchange["step"] not in left:
            problems.extend(f"{exchange['step']}: {difference}" for difference in differences)
        if exchange["step"] == "crd create":
            await _settle(client, exchange)
    assert problems == []
