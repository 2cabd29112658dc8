"""Whatever happens, in whatever order, through whatever network: it ends as if only the last wish had ever been told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from operator_cluster import SETTINGS, eventually, writes
from proof_gate import Fault, Gate, Plan, dice
from proof_specs import SPECS
from proof_world import FOREIGN_KINDS, Place, World, running_world

import scoring_operator.cluster.client
import scoring_operator.reconcile
from scoring_operator.api import Key, Kind, Kinds
from scoring_operator.app import Operator
from scoring_operator.cluster import Client, ClusterError
from scoring_operator.keys import read_keys

NAMES = ["a", "b"]
CASES = ["minimal", "scaled-by-cpu", "canary", "inside", "own-keys", "workload-identity", "stopped"]
CHILDREN: list[tuple[Kind, str]] = [
    (Kinds.DEPLOYMENT, ""),
    (Kinds.SERVICE, ""),
    (Kinds.INGRESS, ""),
    (Kinds.DISRUPTION_BUDGET, ""),
    (Kinds.SERVICE_ACCOUNT, ""),
    (Kinds.AUTOSCALER, ""),
    (Kinds.SECRET, "-keys"),
    (Kinds.SECRET, "-tls"),
    (Kinds.DEPLOYMENT, "-canary"),
    (Kinds.SERVICE, "-canary"),
]
EDITS: dict[Kind, dict[str, Any]] = {
    Kinds.DEPLOYMENT: {"spec": {"replicas": 9, "template": {"spec": {"nodeSelector": {"a": "b"}}}}},
    Kinds.SERVICE: {"spec": {"selector": {"mlscoring.io/scoringmodel": "x"}}},
    Kinds.INGRESS: {"spec": {"rules": [{"host": "elsewhere.example.com"}]}},
    Kinds.DISRUPTION_BUDGET: {"spec": {"maxUnavailable": "50%"}},
    Kinds.SERVICE_ACCOUNT: {"automountServiceAccountToken": True},
    Kinds.AUTOSCALER: {"spec": {"maxReplicas": 77}},
    Kinds.SECRET: {"data": {"primary": None, "tls.crt": "eA=="}},
}
UNLABEL = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
ROTATE = {"metadata": {"annotations": {"mlscoring.io/rotate": "primary"}}}


def examples(few: int) -> settings:
    """Few examples, and as many as the profile says with `--hypothesis-profile=long`."""
    wanted = settings().max_examples
    many = wanted if wanted != settings.get_profile("default").max_examples else few
    return settings(
        max_examples=many,
        deadline=None,
        # The same examples every time, unless many are asked for.
        derandomize=many == few,
        # Making a counterexample smaller takes minutes, which a quick run does not have.
        phases=[Phase.generate] if many == few else list(Phase),
        suppress_health_check=list(HealthCheck),
    )


@dataclass
class Stage:
    """A loop with an API server in it, which sleeps between two examples."""

    runner: asyncio.Runner
    world: World


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with asyncio.Runner() as runner:
        context = running_world(tmp_path_factory.mktemp("api"))
        world = runner.run(context.__aenter__())
        yield Stage(runner, world)
        runner.run(context.__aexit__(None, None, None))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at again after half a minute, and calls that time out after one, take their time here too."""
    import aiohttp

    monkeypatch.setattr(scoring_operator.reconcile, "_LOOK_AGAIN_SECONDS", 0.3)
    patience = aiohttp.ClientTimeout(total=0.5)
    monkeypatch.setattr(scoring_operator.cluster.client, "_REQUEST_TIMEOUT", patience)


class Scene:
    """A namespace and the operator that looks after it, which may be stopped and started."""

    def __init__(self, place: Place, kubeconfig: Path) -> None:
        self.place = place
        self._kubeconfig = kubeconfig
        self._operator: Operator | None = None

    async def start(self) -> Operator:
        while True:
            operator = Operator(SETTINGS, kubeconfig=self._kubeconfig, namespace=self.place.name)
            try:
                await operator.start()
            except ClusterError:
                continue  # as the process around it does
            self._operator = operator
            return operator

    async def stop(self) -> None:
        if self._operator:
            await self._operator.stop()
            self._operator = None

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def settle(self) -> None:
        if self._operator:
            await rest(self._operator)

    async def converge(self) -> None:
        async def right() -> bool:
            return await self.place.problems() == []

        try:
            await eventually(right, seconds=20)
        except AssertionError:
            raise AssertionError(await self.place.problems()) from None


async def rest(operator: Operator) -> None:
    """Until the operator has worked off its queue and stops writing; that it looks again by the clock is no work."""

    async def quiet() -> bool:
        before = writes(operator)
        await eventually(idle, "the queue is empty")
        await asyncio.sleep(0.1)
        await eventually(idle, "the queue is empty")
        return writes(operator) == before

    async def idle() -> bool:
        return operator.queue.is_idle

    await eventually(quiet, "the operator stops writing")


async def write_nothing_twice(world: World, place: Place) -> None:
    """Another operator, and another look at every model, change nothing."""
    scene = Scene(place, world.kubeconfig)
    operator = await scene.start()
    try:
        await rest(operator)
        for model in await place.list(Kinds.SCORING_MODEL):
            operator.queue.add(Key(place.name, model["metadata"]["name"]))
        await rest(operator)
        made = [s for m in operator.metrics.calls.collect() for s in m.samples]
        assert writes(operator) == 0, [s.labels for s in made if s.labels["verb"] == "PATCH"]
    finally:
        await scene.stop()


async def act(scene: Scene, step: tuple[Any, ...]) -> None:
    """One thing that a user, an administrator or another controller does."""
    what, place = step[0], scene.place
    if what == "apply":
        await place.apply_model(step[1], SPECS[step[2]])
    elif what == "delete":
        await place.delete(Kinds.SCORING_MODEL, step[1])
    elif what == "restart":
        await scene.restart()
    elif what == "settle":
        await scene.settle()
    elif what == "foreign":
        await place.make_foreign(step[2], step[1] + ("-keys" if step[2] is Kinds.SECRET else ""))
    else:
        kind, suffix = step[2]
        name = step[1] + suffix
        if (kind.name, name) in place.foreign or await place.get(kind, name) is None:
            return
        try:
            if what == "delete child":
                await place.delete(kind, name)
            elif what == "edit child":
                await place.patch(kind, name, EDITS[kind])
            elif what == "unlabel child":
                await place.patch(kind, name, UNLABEL)
            elif what == "rotate" and suffix == "-keys":
                await place.patch(kind, name, ROTATE)
        except ClusterError:
            return  # collected in the meantime, or another kind of Secret: nothing has happened


name = st.sampled_from(NAMES)
child = st.sampled_from(CHILDREN)
step = st.one_of(
    st.tuples(st.just("apply"), name, st.sampled_from(CASES)),
    st.tuples(st.just("apply"), name, st.sampled_from(CASES)),
    st.tuples(st.just("delete"), name),
    st.tuples(st.sampled_from(["delete child", "edit child", "unlabel child"]), name, child),
    st.tuples(st.just("rotate"), name, st.just((Kinds.SECRET, "-keys"))),
    st.tuples(st.just("foreign"), name, st.sampled_from(FOREIGN_KINDS)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("settle")),
)


@examples(few=14)
@given(steps=st.lists(step, min_size=3, max_size=12))
def test_any_order_of_events_converges_and_is_written_once(
    stage: Stage, steps: list[tuple[Any, ...]]
) -> None:
    async def play() -> None:
        place = await stage.world.place()
        scene = Scene(place, stage.world.kubeconfig)
        await scene.start()
        try:
            await act(scene, ("apply", "a", "minimal"))
            for each in steps:
                await act(scene, each)
            await scene.converge()
            await scene.settle()
        finally:
            await scene.stop()
        await write_nothing_twice(stage.world, place)

    stage.runner.run(play())


@examples(few=8)
@given(
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.05, 0.2, 0.4]),
    steps=st.lists(step, min_size=2, max_size=6),
)
def test_any_weather_converges_and_is_written_once(
    stage: Stage, seed: int, share: float, steps: list[tuple[Any, ...]]
) -> None:
    """409, 429 with and without a wait, 500, 503, 504, lost and unheard calls, timeouts, cut and expired watches."""

    async def play() -> None:
        place = await stage.world.place()
        gate = Gate(stage.world.kubeconfig, plan=dice(seed, share))
        async with gate.open(stage.world.folder) as kubeconfig:
            scene = Scene(place, kubeconfig)
            await scene.start()
            try:
                await act(scene, ("apply", "a", "canary"))
                for each in steps:
                    if each[0] != "settle":
                        await act(scene, each)
                await scene.converge()
            finally:
                await scene.stop()
        fair = Scene(place, stage.world.kubeconfig)
        await fair.start()
        await fair.settle()
        await fair.stop()
        assert await place.problems() == []
        await write_nothing_twice(stage.world, place)

    stage.runner.run(play())


FAULTS = [
    *(Fault("status", status) for status in (409, 429, 500, 502, 503, 504)),
    Fault("status", 429, "1"),
    Fault("lost"),
    Fault("unheard"),
    Fault("hang"),
]


def every_third(fault: Fault) -> Plan:
    """A plan that breaks every third writing call."""
    count = itertools.count()

    def plan(call: Any) -> Fault | None:
        return fault if call.method != "GET" and next(count) % 3 == 0 else None

    return plan


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda f: f"{f.what}{f.status or ''}{f.retry_after or ''}"
)
def test_each_kind_of_trouble_alone_converges(stage: Stage, fault: Fault) -> None:
    async def play() -> None:
        place = await stage.world.place()
        gate = Gate(stage.world.kubeconfig, plan=every_third(fault))
        async with gate.open(stage.world.folder) as kubeconfig:
            scene = Scene(place, kubeconfig)
            await scene.start()
            await act(scene, ("apply", "a", "minimal"))
            await scene.converge()
            await scene.stop()
        assert gate.faults
        await write_nothing_twice(stage.world, place)

    stage.runner.run(play())


LIFE: list[tuple[Any, ...]] = [
    ("apply", "a", "scaled-by-cpu"),
    ("apply", "a", "canary"),
    ("rotate", "a", (Kinds.SECRET, "-keys")),
    ("apply", "a", "inside"),
]


async def kill_at(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, before: list[Any], step: Any, number: int
) -> bool:
    """Kill the operator after its `number`-th call for one step, and let another one finish.

    Returns:
        Whether it came to that many calls.
    """
    place = await stage.world.place()
    scene = Scene(place, stage.world.kubeconfig)
    operator = await scene.start()
    for each in before:
        await act(scene, each)
        await scene.converge()
        await scene.settle()
    keys = read_keys(await place.get(Kinds.SECRET, "a-keys") or {})
    dead = asyncio.Event()
    left = number
    real = Client._call_once

    async def dying(self: Client, *arguments: Any) -> Any:
        nonlocal left
        if self is not operator._client:
            return await real(self, *arguments)
        if dead.is_set():
            await asyncio.Event().wait()
        left -= 1
        answer = await real(self, *arguments)
        if left < 0:
            dead.set()
            await asyncio.Event().wait()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Client, "_call_once", dying)
        await act(scene, step)
        done = asyncio.create_task(scene.converge())
        killed = asyncio.create_task(dead.wait())
        await asyncio.wait({done, killed}, return_when=asyncio.FIRST_COMPLETED)
        if not dead.is_set():
            # What is written last, such as an event, comes after everything is right: it may die there too.
            resting = asyncio.create_task(scene.settle())
            await asyncio.wait({resting, killed}, return_when=asyncio.FIRST_COMPLETED)
            if not dead.is_set():
                await resting
            resting.cancel()
            await asyncio.gather(resting, return_exceptions=True)
        died = dead.is_set()
        await scene.stop()
        for task in (done, killed):
            task.cancel()
        await asyncio.gather(done, killed, return_exceptions=True)
    during = read_keys(await place.get(Kinds.SECRET, "a-keys") or {})
    await scene.start()
    await scene.converge()
    await scene.settle()
    await scene.stop()
    after = read_keys(await place.get(Kinds.SECRET, "a-keys") or {})
    if step[0] == "rotate":
        # Once asked for, a key changes once, however often the operator dies over it.
        assert after["primary"] != keys["primary"]
        assert during["primary"] in {keys["primary"], after["primary"]}
    elif during and after:
        assert during == after
    await write_nothing_twice(stage.world, place)
    return died


@pytest.mark.parametrize("index", range(len(LIFE)), ids=["create", "change", "rotate", "shrink"])
def test_an_operator_that_dies_at_any_call_is_finished_by_the_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    async def play() -> None:
        for number in range(100):
            if not await kill_at(stage, monkeypatch, LIFE[:index], LIFE[index], number):
                assert number > 0
                return
        raise AssertionError("it never ends")

    stage.runner.run(play())
