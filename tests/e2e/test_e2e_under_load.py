"""No request is lost, whatever is done to the model, the operator or the API server while it serves."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

CLIENTS = 4
# One client's pause between two requests: a steady load that leaves the machine able to start pods.
PAUSE_SECONDS = 0.02
MOST_REQUESTS = 20_000
PATIENCE_SECONDS = 90.0
SCRIPT = """
import time

def init():
    pass

def run(data):
    time.sleep(0.005)
    return {answer!r}
"""


@dataclass
class Load:
    """A few clients that ask again and again over connections that they keep.

    Args:
        url: to post to; the address is the ingress's, the host is in the header.
        host: of the model.
        ca: certificate that must prove the server.
        key: API key; may be changed while the load runs.
    """

    url: str
    host: str
    ca: str
    key: str
    answers: Counter[str] = field(default_factory=Counter)
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=50))
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def count(self) -> int:
        """How many requests were answered."""
        return self.answers.total()

    def until(self, check: Callable[[], Any], what: str) -> Any:
        """Go on until a check gives something true; a failed request ends the wait at once."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.failures:
            found = check()
            if found:
                return found
            assert time.monotonic() < deadline, f"did not come true under load: {what}"
            time.sleep(0.1)
        raise AssertionError(self.failures)

    def until_answers(self, number: int) -> None:
        """Go on for so many answers more."""
        goal = self.count + number
        self.until(lambda: self.count >= goal, f"{number} more answers")

    async def run(self) -> None:
        context = ssl.create_default_context(cadata=self.ca)
        connector = aiohttp.TCPConnector(ssl=context, limit=CLIENTS)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(self._client(session) for _ in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._stop.is_set() and self.count + len(self.failures) < MOST_REQUESTS:
            began = time.monotonic()
            try:
                async with session.post(
                    self.url,
                    data=b"{}",
                    headers={
                        "Host": self.host,
                        "Authorization": f"Bearer {self.key}",
                        "Content-Type": "application/json",
                    },
                    server_hostname=self.host,
                    timeout=aiohttp.ClientTimeout(total=30),
                ) as answer:
                    text = await answer.text()
                    if answer.status == 200:
                        self.answers[text] += 1
                        self.recent.append(text)
                    else:
                        self._fail(f"{answer.status} {text[:300]}", began)
            except (aiohttp.ClientError, TimeoutError, OSError) as err:
                self._fail(repr(err), began)
            await asyncio.sleep(PAUSE_SECONDS)

    def _fail(self, why: str, began: float) -> None:
        took = time.monotonic() - began
        self.failures.append(f"after {self.count} answers, {took:.2f} s: {why}")


@contextmanager
def steady_load(client: Any, name: str, key: str = "primary") -> Iterator[Load]:
    """Load on a model; at the end not one request may have failed."""
    host = client.get("scoringmodel", name)["status"]["url"].removeprefix("https://").split(":")[0]
    load = Load(
        url=f"https://127.0.0.1:{client.cluster.https_port}/score",
        host=host,
        ca=client.secret(f"{name}-tls", "tls.crt").decode(),
        key=client.secret(f"{name}-keys", key).decode(),
    )
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        load.until_answers(20)
        yield load
        load.until_answers(100)
    finally:
        load._stop.set()
        thread.join()
    assert load.failures == []


def pods(client: Any) -> dict[str, bool]:
    """Names of the model's pods that are not going away, and whether they are ready."""
    found = json.loads(client.kubectl("get", "pods", "-o", "json"))["items"]
    return {
        pod["metadata"]["name"]: any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in pod.get("status", {}).get("conditions", ())
        )
        for pod in found
        if not pod["metadata"].get("deletionTimestamp")
    }


def replaced(client: Any, before: set[str], number: int) -> bool:
    """Whether there are so many ready pods, none of them one of those before."""
    now = pods(client)
    return len(now) == number and all(now.values()) and not before & set(now)


@pytest.fixture
def model(client: Any, models: Any) -> Callable[..., dict[str, Any]]:
    """Apply the model `m` that answers with a given word."""

    def apply(answer: str, **spec: Any) -> dict[str, Any]:
        uri = models.script(f"load-{answer}", SCRIPT.format(answer=answer))
        wanted = {"modelURI": uri, "framework": "python", **spec}
        client.apply_model("m", **wanted)
        return wanted

    return apply


def test_a_rolling_update_loses_no_request(client: Any, model: Any) -> None:
    model("one")
    client.wait_ready("m")
    with steady_load(client, "m") as load:
        model("two")
        load.until(lambda: set(load.recent) == {'"two"'}, "only the new revision answers")
        model("one")
        load.until(lambda: set(load.recent) == {'"one"'}, "only the old revision answers again")
    assert set(load.answers) == {'"one"', '"two"'}


def test_a_canary_that_comes_changes_and_goes_loses_no_request(
    client: Any, models: Any, model: Any
) -> None:
    canary = models.script("load-canary", SCRIPT.format(answer="canary"))
    model("one")
    client.wait_ready("m")
    with steady_load(client, "m") as load:
        model("one", canary={"modelURI": canary, "weight": 50})
        load.until(lambda: load.answers['"canary"'] > 20, "the canary answers")
        model("one", canary={"modelURI": canary, "weight": 0})
        load.until(lambda: set(load.recent) == {'"one"'}, "a canary of weight 0 gets nothing")
        model("one", canary={"modelURI": canary, "weight": 100})
        load.until(lambda: set(load.recent) == {'"canary"'}, "a canary of weight 100 gets all")
        model("one")
        load.until(lambda: set(load.recent) == {'"one"'}, "the canary is gone")
        load.until(lambda: len(pods(client)) == 1, "its pod is gone")


def test_rotating_both_keys_loses_no_request(client: Any, model: Any) -> None:
    model("one", replicas=2)
    client.wait_ready("m")
    with steady_load(client, "m", key="secondary") as load:
        for name in ("primary", "secondary"):
            old = client.secret("m-keys", name).decode()
            client.kubectl("annotate", "secret", "m-keys", f"mlscoring.io/rotate={name}")
            load.until(
                lambda n=name, o=old: client.secret("m-keys", n).decode() != o, "there is a new key"
            )
            new = client.secret("m-keys", name).decode()
            # Both pods must know the new key before a client may rely on it, and forget the old one in the end.
            load.until(lambda k=new: answers(load, k) == {200}, "the new key is accepted")
            load.key = new
            load.until(lambda k=old: answers(load, k) == {401}, "the old key is refused")
            load.until_answers(50)


def answers(load: Load, key: str, times: int = 20) -> set[int]:
    """Status codes of some requests with a key, each over a connection of its own."""
    context = ssl.create_default_context(cadata=load.ca)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    found = set()
    for _ in range(times):
        address = urlsplit(load.url)
        raw = socket.create_connection((address.hostname, address.port), timeout=30)
        connection = http.client.HTTPConnection(load.host)
        connection.sock = context.wrap_socket(raw, server_hostname=load.host)
        connection.request("POST", address.path, b"{}", headers)
        found.add(connection.getresponse().status)
        connection.close()
    return found


@pytest.mark.parametrize("how", [(), ("--grace-period=0", "--force")], ids=["stopped", "killed"])
def test_deleting_pods_loses_no_request(client: Any, model: Any, how: tuple[str, ...]) -> None:
    model("one", replicas=2)
    client.wait_ready("m")
    with steady_load(client, "m") as load:
        for _ in range(2):
            before = pods(client)
            victim = next(iter(before))
            client.kubectl("delete", "pod", victim, "--wait=false", *how)
            load.until(lambda v=victim: replaced(client, {v}, 2), "there are two ready pods again")
            load.until_answers(50)


def test_evicting_every_pod_as_a_drain_does_loses_no_request(client: Any, model: Any) -> None:
    model("one", replicas=2)
    client.wait_ready("m")
    before = set(pods(client))

    def evict(name: str) -> bool:
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": client.namespace},
        }
        path = f"/api/v1/namespaces/{client.namespace}/pods/{name}/eviction"
        client.cluster.kubectl(
            *("create", "--raw", path, "-f", "-"), input=json.dumps(eviction), check=False
        )
        return name not in pods(client)

    with steady_load(client, "m") as load:
        for name in sorted(before):
            # As `kubectl drain` does: a budget that is used up says 429, and the eviction is tried again.
            load.until(lambda n=name: evict(n), "the eviction is allowed")
        load.until(lambda: replaced(client, before, 2), "both pods are replaced")


def test_an_operator_that_is_killed_loses_no_request_and_nothing_to_do(
    client: Any, model: Any
) -> None:
    model("one")
    client.wait_ready("m")

    def operator() -> set[str]:
        found = client.cluster.kubectl(
            *("get", "pods", "-n", "scoring-system", "-o", "name"),
            *("-l", "app.kubernetes.io/name=scoring-operator"),
        )
        return set(found.split())

    with steady_load(client, "m") as load:
        for name in operator():
            client.cluster.kubectl(
                *("delete", name, "-n", "scoring-system"),
                *("--grace-period=0", "--force", "--wait=false"),
            )
        model("two")
        load.until(lambda: set(load.recent) == {'"two"'}, "the next operator rolls it out")


def test_an_api_server_that_is_killed_loses_no_request(client: Any, model: Any) -> None:
    model("one", replicas=2)
    client.wait_ready("m")
    state = client.cluster.state_dir / "cluster.json"
    pid = api_server(state)
    with steady_load(client, "m") as load:
        os.kill(pid, signal.SIGKILL)
        load.until(lambda: api_server(state) not in (0, pid), "it was started again")
        load.until(lambda: reachable(client), "it answers")
        # All that watched it goes on: a pod that is replaced now still gets its requests.
        before = pods(client)
        victim = next(iter(before))
        client.kubectl("delete", "pod", victim, "--wait=false")
        load.until(lambda: replaced(client, {victim}, 2), "there are two ready pods again")
        model("two", replicas=2)
        load.until(lambda: set(load.recent) == {'"two"'}, "a new revision is rolled out")


def reachable(client: Any) -> bool:
    return client.cluster.kubectl("get", "--raw", "/readyz", check=False).strip() == "ok"


def api_server(state: Any) -> int:
    """Process id of the API server, 0 while there is none."""
    return int(json.loads(state.read_text())["pids"].get("apiserver") or 0)
