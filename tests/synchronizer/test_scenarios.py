"""A whole synchronizer on virtual time: scripted controller, workers and routers, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from berth.ids import VersionKey
from berth.model import Artifact, DesiredJob, DesiredModel, DesiredState, Order, Serving, VersionSpec
from berth.resources import Resources
from berth.states import Runtime
from doubles.news import News
from doubles.scripted_controller import ScriptedController
from doubles.scripted_router import ScriptedRouter, stay_connected
from doubles.scripted_worker import ScriptedFleet, ScriptedWorker
from synchronizer.cell.loop import CellLoop
from synchronizer.cell.running import running
from synchronizer.core.events import Discovered
from synchronizer.replay.playing import play
from synchronizer.settings import SynchronizerSettings
from synchronizer.surroundings.ports import Surroundings

pytestmark = pytest.mark.looptime

V1, V2 = VersionKey("t", "m", 1), VersionKey("t", "m", 2)


def desired(generation: int, *keys: VersionKey, target: int = 0, job: str = "j") -> DesiredState:
    specs = tuple(VersionSpec(key, Artifact("0" * 64, 10), Resources.host(100)) for key in keys)
    target = target or max((key.version for key in keys), default=0)
    models = (DesiredModel(V1.model_key, Serving.only(target)),) if keys else ()
    return DesiredState("c", generation, (DesiredJob(job, Runtime.ONNXRUNTIME, specs),), models)


class MemoryState:
    """What a synchronizer keeps, surviving it in the test."""

    def __init__(self) -> None:
        self.desired: DesiredState | None = None
        self.leadership = (0, 0)

    async def read_desired(self, cell: str) -> DesiredState | None:
        return self.desired

    async def write_desired(self, state: DesiredState) -> None:
        self.desired = state

    async def read_leadership(self) -> tuple[int, int]:
        return self.leadership

    async def write_leadership(self, epoch: int, reserved: int) -> None:
        self.leadership = (epoch, reserved)


class ScriptedDiscovery:
    def __init__(self, fleet: ScriptedFleet) -> None:
        self._fleet = fleet
        self._news = News()
        self.left: set[str] = set()
        self.leaving: set[str] = set()

    async def watch(self) -> AsyncIterator[Discovered]:
        while True:
            workers = self._fleet.workers.items()
            there = {name: worker.address for name, worker in workers if name not in self.left}
            yield Discovered(there, frozenset(self.leaving))
            await self._news.next()

    def changed(self) -> None:
        self._news.tell()


class Stage:
    """A controller, two workers of one job and a router, around whatever synchronizers a test starts."""

    def __init__(self) -> None:
        self.controller = ScriptedController(desired(1, V1))
        self.w1, self.w2 = ScriptedWorker("w1", "j", load_s=0.5), ScriptedWorker("w2", "j", load_s=0.5)
        self.fleet = ScriptedFleet(self.w1, self.w2)
        self.discovery = ScriptedDiscovery(self.fleet)
        self.router = ScriptedRouter("r1")
        for worker in (self.w1, self.w2):
            worker.before_unload = lambda key, name=worker.address.replica: self._check_unload(name, key)  # type: ignore[misc]
        self.wrong: list[str] = []
        self.steps_replayed = 0

    def _check_unload(self, name: str, key: VersionKey) -> None:
        if name in self.router.replicas(key):
            self.wrong.append(f"{name} unloaded {key} while it was routed")

    @asynccontextmanager
    async def synchronizer(
        self, state: MemoryState, instance: str = "s1", *, router: ScriptedRouter | None = None
    ) -> AsyncIterator[CellLoop]:
        settings = SynchronizerSettings(
            instance=instance, cell="c", controllers="unused:1", registry_dir=Path("unused"), state_dir=Path("unused")
        )
        process = running(
            settings,
            state,
            self.controller,
            workers=self.fleet,
            around=Surroundings(self.discovery),
            registry=CollectorRegistry(),
            record=(lines := list[str]()).append,
        )
        async with process as loop, asyncio.TaskGroup() as tasks:
            feed = tasks.create_task(stay_connected(router or self.router, loop.publisher.serve))
            yield loop
            feed.cancel()
        # Whatever the scenario was: what the cell was told, told again, is answered as it was.
        assert [step.differences() for step in play(lines) if not step.is_the_same] == []
        self.steps_replayed += len(lines) - 1

    @property
    def wanted(self) -> tuple[str, ...]:
        return self.controller.observed.wanted if self.controller.observed is not None else ()

    async def routed(self, key: VersionKey, *replicas: str, timeout: float = 10.0) -> None:
        await self.router.news.until(lambda: self.router.replicas(key) == set(replicas), timeout)

    async def observed(self, key: VersionKey, *replicas: str, timeout: float = 10.0) -> None:
        def true() -> bool:
            seen = self.controller.observed.replicas if self.controller.observed is not None else ()
            return {entry.status.address.replica for entry in seen if key in entry.routed} == set(replicas)

        await self.controller.news.until(true, timeout)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_version_goes_live_and_is_reported_routed() -> None:
    stage = Stage()
    async with stage.synchronizer(MemoryState()):
        await stage.routed(V1, "w1", "w2", timeout=1.0)
        assert stage.router.table.models[V1.model_key].serving.default == 1
        assert stage.router.table.replicas["w1"] == stage.w1.address
        await stage.observed(V1, "w1", "w2", timeout=0.2)
    assert stage.controller.lease_until <= now(), "the lease was given up"


async def test_a_new_version_takes_over_and_the_old_one_goes_last() -> None:
    stage = Stage()
    async with stage.synchronizer(MemoryState()):
        await stage.observed(V1, "w1", "w2")
        stage.w2.load_s = 3.0
        stage.controller.desire(desired(2, V1, V2, target=2))
        await stage.routed(V2, "w1")
        assert stage.router.table.models[V1.model_key].serving.default == 1, "not on as many replicas yet"
        await stage.routed(V2, "w1", "w2")
        assert stage.router.table.models[V1.model_key].serving.default == 2
        stage.controller.desire(desired(3, V2))
        await stage.w1.news.until(lambda: stage.w1.held() == {V2})
        await stage.w2.news.until(lambda: stage.w2.held() == {V2})
    assert stage.wrong == []
    defaults = [table.models[V1.model_key].serving.default for table in stage.router.tables]
    assert [0, *sorted(set(defaults) - {0})] == list(dict.fromkeys(defaults)), "never back, never to nothing"
    assert stage.w1.loads == {V1: 1, V2: 1}


async def test_an_unload_waits_for_a_silent_router_but_not_for_ever() -> None:
    stage = Stage()
    silent = ScriptedRouter("r2")
    async with stage.synchronizer(MemoryState()) as loop, asyncio.TaskGroup() as tasks:
        other = tasks.create_task(stay_connected(silent, loop.publisher.serve))
        await stage.observed(V1, "w1", "w2")
        silent.acking = False
        began = now()
        stage.controller.desire(desired(2, V2))
        await stage.routed(V1)
        await stage.w1.news.until(lambda: V1 not in stage.w1.states, 20.0)
        assert 9.9 <= now() - began <= 10.5
        other.cancel()


async def test_a_failed_load_says_why_and_is_not_routed() -> None:
    stage = Stage()
    stage.w1.failing = stage.w2.failing = frozenset({V1})
    async with stage.synchronizer(MemoryState()):
        await stage.router.news.until(
            lambda: any(
                entry.reason == "failed: cannot be loaded"
                for route in stage.router.table.models.values()
                for entry in route.versions
            )
        )
        assert stage.router.replicas(V1) == set()


@pytest.mark.parametrize("how", ["kill", "sever"])
async def test_a_broken_stream_withdraws_the_routes_at_once(how: str) -> None:
    stage = Stage()
    async with stage.synchronizer(MemoryState()):
        await stage.observed(V1, "w1", "w2")
        began = now()
        getattr(stage.w1, how)()
        await stage.routed(V1, "w2")
        assert now() - began < 0.1
        if how == "kill":
            stage.w1.restart()
            stage.discovery.changed()
        await stage.routed(V1, "w1", "w2")
        assert stage.w1.loads[V1] == (2 if how == "kill" else 1)


async def test_a_silent_worker_is_lost_after_three_seconds() -> None:
    stage = Stage()
    async with stage.synchronizer(MemoryState()):
        await stage.observed(V1, "w1", "w2")
        began = now()
        stage.w1.muted = True
        await stage.routed(V1, "w2")
        assert 2.0 <= now() - began <= 3.1


async def test_a_draining_replica_loses_its_routes_then_its_versions() -> None:
    stage = Stage()
    async with stage.synchronizer(MemoryState()):
        await stage.observed(V1, "w1", "w2")
        stage.w1.drain()
        stage.discovery.left.add("w1")
        stage.discovery.changed()
        await stage.w1.news.until(lambda: not stage.w1.states)
        assert stage.router.replicas(V1) == {"w2"}
    assert stage.wrong == []


async def test_a_replica_known_to_leave_loses_its_routes_before_it_says_so() -> None:
    stage = Stage()
    async with stage.synchronizer(MemoryState()):
        await stage.observed(V1, "w1", "w2")
        stage.discovery.leaving.add("w1")
        stage.discovery.changed()
        await stage.routed(V1, "w2", timeout=0.2)
        await stage.w1.news.until(lambda: not stage.w1.states)
        await stage.observed(V1, "w2")
        assert stage.controller.observed is not None
        draining = {seen.status.address.replica: seen.status.draining for seen in stage.controller.observed.replicas}
        assert draining == {"w1": True, "w2": False}
        # A StatefulSet's next pod has the same name.
        stage.w1.restart()
        stage.discovery.leaving.clear()
        stage.discovery.changed()
        await stage.routed(V1, "w1", "w2")
    assert stage.wrong == []


async def test_a_job_without_replicas_is_reported_as_wanted_while_requests_wait() -> None:
    stage = Stage()
    async with stage.synchronizer(MemoryState()) as loop:
        await stage.observed(V1, "w1", "w2")
        loop.demand.hear((V1,))
        stage.discovery.left |= {"w1", "w2"}
        stage.discovery.changed()
        stage.w1.kill()
        stage.w2.kill()
        await stage.routed(V1)
        loop.demand.hear((V1,))
        await stage.controller.news.until(lambda: stage.wanted == ("j",), 0.2)
        await stage.controller.news.until(lambda: stage.wanted == (), 5.0)
        loop.demand.hear((V2,))
        loop.demand.hear((V1,))
        await stage.controller.news.until(lambda: stage.wanted == ("j",), 0.2)
        stage.w1.restart()
        stage.discovery.left.discard("w1")
        stage.discovery.changed()
        await stage.controller.news.until(lambda: stage.wanted == ())


async def test_the_job_of_a_replica_is_deleted() -> None:
    stage = Stage()
    async with stage.synchronizer(MemoryState()):
        await stage.observed(V1, "w1", "w2")
        stage.controller.desire(desired(2, V1, job="another"))
        await stage.w1.news.until(lambda: not stage.w1.states)
        await stage.w2.news.until(lambda: not stage.w2.states)
    assert stage.wrong == []


async def test_without_desired_state_nothing_is_pushed_or_published() -> None:
    stage = Stage()
    stage.controller.desired = None
    stage.w1.states, stage.w1.accepted = {}, Order(1, 1)
    async with stage.synchronizer(MemoryState()) as loop:
        await stage.controller.news.until(lambda: stage.controller.epoch == 1)
        with pytest.raises(TimeoutError):
            await stage.router.news.until(lambda: bool(stage.router.tables), 30.0)
        assert stage.w1.accepted == Order(1, 1)
        assert loop.not_ready() == "no desired state yet"


async def test_a_restart_reloads_nothing_and_no_route_disappears() -> None:
    stage, state = Stage(), MemoryState()
    async with stage.synchronizer(state):
        await stage.observed(V1, "w1", "w2")
    before = len(stage.router.tables)
    async with stage.synchronizer(state):
        await stage.controller.news.until(lambda: stage.controller.epoch == 2)
        await stage.router.news.until(lambda: stage.router.table.order.epoch == 2)
        await stage.observed(V1, "w1", "w2")
    assert all(
        {name for entry in table.models[V1.model_key].versions for name in entry.replicas} == {"w1", "w2"}
        for table in stage.router.tables[before:]
    )
    assert stage.w1.loads == stage.w2.loads == {V1: 1}


async def test_a_restart_does_not_wait_for_ever_for_a_replica_that_hangs() -> None:
    stage, state = Stage(), MemoryState()
    async with stage.synchronizer(state):
        await stage.observed(V1, "w1", "w2")
    stage.w2.muted = True
    async with stage.synchronizer(state):
        began = now()
        await stage.router.news.until(lambda: stage.router.table.order.epoch == 2)
        assert 2.0 <= now() - began <= 2.5
        assert stage.router.replicas(V1) == {"w1"}


async def test_without_controllers_the_leader_goes_on_and_a_restarted_one_resumes() -> None:
    stage, state = Stage(), MemoryState()
    async with stage.synchronizer(state):
        await stage.observed(V1, "w1", "w2")
        stage.controller.away = True
        stage.w1.kill()
        with pytest.raises(TimeoutError):
            await stage.router.news.until(lambda: False, 20.0)
        assert stage.router.replicas(V1) == {"w2"}, "it went on long after its lease"
    before, generation = len(stage.router.tables), stage.router.table.order.generation
    stage.w1.restart()
    async with stage.synchronizer(state) as loop:
        await stage.routed(V1, "w1", "w2")
        assert loop.not_ready() is None
        assert stage.router.table.order.epoch == 1
        assert stage.router.table.order.generation > generation + 1000, "above all that were reserved"
        assert "w2" in stage.router.tables[before].replicas
        stage.controller.away = False
        await stage.router.news.until(lambda: stage.router.table.order.epoch == 2)
        await stage.observed(V1, "w1", "w2")
    assert stage.w2.loads == {V1: 1}


async def test_a_version_removed_while_no_synchronizer_ran_is_withdrawn_before_it_goes() -> None:
    stage, state = Stage(), MemoryState()
    async with stage.synchronizer(state):
        await stage.observed(V1, "w1", "w2")
        stage.controller.desire(desired(2, V1, V2))
        await stage.observed(V2, "w1", "w2")
    stage.controller.desire(desired(3, V2))
    async with stage.synchronizer(state):
        await stage.w1.news.until(lambda: stage.w1.held() == {V2})
        await stage.w2.news.until(lambda: stage.w2.held() == {V2})
    assert stage.wrong == []
    assert stage.w1.loads == {V1: 1, V2: 1}


async def test_a_standby_takes_over_and_the_deposed_leader_is_fenced() -> None:
    """The leader is cut off from the controller alone; workers and routers show it that its epoch is over."""
    stage = Stage()
    cut_off = ScriptedController(desired(1, V1))
    async with AsyncExitStack() as stack:
        stage.controller, shared = cut_off, stage.controller
        first = await stack.enter_async_context(stage.synchronizer(MemoryState(), "s1"))
        await stage.routed(V1, "w1", "w2")
        cut_off.away = True
        stage.controller = shared
        shared.epoch = 1  # both speak of one lease: what the first was granted, the second's controller knows
        second = await stack.enter_async_context(stage.synchronizer(MemoryState(), "s2"))
        await stage.observed(V1, "w1", "w2")
        assert stage.router.table.order.epoch == 2
        await stage.controller.news.until(lambda: first.not_ready() is not None, 5.0)
        assert second.not_ready() is None
        assert stage.w1.accepted.epoch == 2
    assert stage.w1.loads == stage.w2.loads == {V1: 1}
    assert stage.wrong == []


async def test_a_lease_denied_makes_a_leader_stand_by() -> None:
    stage = Stage()
    async with stage.synchronizer(MemoryState()) as loop:
        await stage.observed(V1, "w1", "w2")
        stage.controller.holder, stage.controller.epoch = "someone", 2
        stage.controller.lease_until = now() + 3600.0
        with pytest.raises(TimeoutError):
            await stage.router.news.until(lambda: False, 2.0)
        tables = len(stage.router.tables)
        stage.controller.desire(desired(2, V2))
        with pytest.raises(TimeoutError):
            await stage.router.news.until(lambda: len(stage.router.tables) > tables, 10.0)
        assert stage.w1.held() == {V1}
        assert loop.not_ready() is None, "it stands by, with a desired state and a controller that answers"
