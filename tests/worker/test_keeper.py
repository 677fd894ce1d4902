"""The keeper on virtual time: what it holds and lends, whatever the runtime does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from berth.errors import Unavailable
from berth.ids import VersionKey
from berth.model import Artifact, AspiredSet, Order, VersionSpec
from berth.resources import Resources
from berth.states import ServableState as S
from doubles.scripted_runtime import Script, ScriptedArtifacts, ScriptedRuntime
from worker.core.capacity import MemoryLimits
from worker.core.lifecycle import Acceptance
from worker.keeping.execution import Patience
from worker.keeping.keeper import Keeper
from worker.metrics import WorkerMetrics
from worker.runtimes.protocol import LoadFailed, NotHeld

pytestmark = pytest.mark.looptime

ROOMY = MemoryLimits(Resources.host(100_000), max_loads=4)


def key(version: int, model: str = "m") -> VersionKey:
    return VersionKey("acme", model, version)


def spec(version: int, model: str = "m", *, content: str = "a", reserved: int = 1000) -> VersionSpec:
    return VersionSpec(key(version, model), Artifact((content * 64)[:64], 10), Resources.host(reserved))


class World:
    """A keeper over a scripted runtime, and what can be asked of it."""

    def __init__(self, keeper: Keeper, runtime: ScriptedRuntime, artifacts: ScriptedArtifacts) -> None:
        self.keeper = keeper
        self.runtime = runtime
        self.artifacts = artifacts
        self.generation = 0
        self.seen: list[dict[VersionKey, S]] = []

    def aspire(self, *specs: VersionSpec) -> Acceptance:
        self.generation += 1
        return self.keeper.aspire(AspiredSet(Order(1, self.generation), specs))

    def states(self) -> dict[VersionKey, S]:
        return {status.key: status.state for status in self.keeper.statuses()}

    def reason(self, version: int) -> str:
        return next(status.reason for status in self.keeper.statuses() if status.key == key(version))

    async def until(self, condition: Callable[[], bool], within: float = 1000.0) -> float:
        """Wait for a condition on what is reported; the seconds it took."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.timeout(within):
            revision = self.keeper.revision
            while not condition():
                revision = await self.keeper.changed(revision)
        return loop.time() - started

    async def until_states(self, states: Mapping[VersionKey, S], within: float = 1000.0) -> float:
        return await self.until(lambda: self.states() == dict(states), within)


@asynccontextmanager
async def world(
    scripts: Mapping[VersionKey, Script] | None = None,
    *,
    default: Script | None = None,
    limits: MemoryLimits = ROOMY,
    patience: Patience | None = None,
    fetch_s: float = 0.0,
) -> AsyncIterator[World]:
    runtime = ScriptedRuntime(scripts, default)
    artifacts = ScriptedArtifacts(fetch_s)
    keeper = Keeper(
        runtime,
        artifacts,
        limits,
        metrics=WorkerMetrics(CollectorRegistry()),
        patience=patience or Patience(load=60, drain=30, unload=10),
        rng=random.Random(1),
        wall=lambda: 1_000_000.0 + asyncio.get_running_loop().time(),
    )
    running = asyncio.create_task(keeper.run())
    here = World(keeper, runtime, artifacts)
    try:
        yield here
        keeper.validate()
    finally:
        keeper.close()
        async with asyncio.timeout(1000):
            await running
        assert runtime.held == {}
        assert runtime.loading == set()
        assert artifacts.leased == []
        assert here.states() == {}
        assert keeper.memory_used == 0


async def pass_time(seconds: float) -> None:
    """Let virtual time go by."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, done.set)
    await done.wait()


async def test_a_version_is_loaded_lent_and_let_go_of() -> None:
    async with world({key(1): Script(load_s=5.0, measured_bytes=700)}, fetch_s=2.0) as here:
        assert here.aspire(spec(1)) is Acceptance.ACCEPTED
        assert here.states() == {key(1): S.NEW}
        await here.until_states({key(1): S.LOADING})
        assert here.keeper.memory_used == 1000
        with pytest.raises(NotHeld):
            here.keeper.lending.acquire(key(1))
        assert await here.until_states({key(1): S.AVAILABLE}) == pytest.approx(7.0)
        assert here.keeper.memory_used == 700
        [status] = here.keeper.statuses()
        assert status.measured_bytes == 700
        assert status.attempts == 1
        assert status.since == pytest.approx(1_000_007.0)
        with here.keeper.lending.acquire(key(1)) as loaded:
            assert loaded is here.runtime.held[key(1)]
        assert here.keeper.lending.held() == {key(1)}
        here.aspire()
        await here.until_states({})
        assert here.keeper.lending.held() == frozenset()
        with pytest.raises(NotHeld):
            here.keeper.lending.acquire(key(1))


async def test_an_unload_waits_for_the_last_borrower() -> None:
    async with world(default=Script(unload_s=1.0)) as here:
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE})
        with here.keeper.lending.acquire(key(1)):
            with here.keeper.lending.acquire(key(1)):
                here.aspire()
                await here.until_states({key(1): S.DRAINING})
                with pytest.raises(NotHeld):
                    here.keeper.lending.acquire(key(1))
            await pass_time(20.0)
            assert here.states() == {key(1): S.DRAINING}
            assert key(1) in here.runtime.held
        await here.until_states({key(1): S.UNLOADING}, within=0.1)
        await here.until_states({}, within=1.1)


async def test_a_guard_taken_before_the_drain_does_not_open_after_it() -> None:
    async with world() as here:
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE})
        guard = here.keeper.lending.acquire(key(1))
        here.aspire()
        await here.until_states({})
        with pytest.raises(NotHeld), guard:
            pass


async def test_a_borrower_that_does_not_come_back_is_not_waited_for_for_ever() -> None:
    async with world(patience=Patience(drain=3.0)) as here:
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE})
        async with AsyncExitStack() as stack:
            stack.enter_context(here.keeper.lending.acquire(key(1)))
            here.aspire()
            assert await here.until_states({}) == pytest.approx(3.0)


async def test_a_new_version_takes_over_without_a_gap() -> None:
    async with world(default=Script(load_s=4.0)) as here:
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE})
        here.aspire(spec(2))
        held: list[frozenset[VersionKey]] = []

        def both_or_either() -> bool:
            held.append(here.keeper.lending.held())
            return here.states() == {key(2): S.AVAILABLE}

        await here.until(both_or_either)
        assert all(held), "a version can be acquired at any moment"


async def test_the_old_version_stays_when_the_new_one_cannot_be_loaded() -> None:
    refused = LoadFailed("not a model", permanent=True)
    async with world({key(2): Script(failures=[refused] * 99)}) as here:
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE})
        here.aspire(spec(2))
        await here.until_states({key(1): S.AVAILABLE, key(2): S.ERROR})
        assert here.reason(2) == "not a model"
        await pass_time(10_000)
        assert here.states() == {key(1): S.AVAILABLE, key(2): S.ERROR}
        assert here.runtime.loads[key(2)] == 1, "what cannot succeed is not tried again"
        here.aspire(spec(2), spec(1, "other"))
        await here.until_states({key(1): S.AVAILABLE, key(2): S.ERROR, key(1, "other"): S.AVAILABLE})
        assert here.runtime.loads[key(2)] == 1, "nor because some other version came"


async def test_a_permanent_failure_is_forgotten_once_it_is_left_out() -> None:
    async with world({key(1): Script(failures=[LoadFailed("no", permanent=True)])}) as here:
        here.aspire(spec(1))
        await here.until_states({key(1): S.ERROR})
        here.aspire()
        await here.until_states({})
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE})


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (LoadFailed("no memory", permanent=False), "no memory"),
        (RuntimeError("secret of the inside"), "internal error while loading; the worker's log says more"),
        (OSError(28, "No space left on device", "/secret/path"), "No space left on device"),
        (TimeoutError(), "loading took longer than 60 s"),
    ],
)
async def test_a_passing_fault_is_retried_and_explained(failure: Exception, reason: str) -> None:
    async with world({key(1): Script(failures=[failure] * 3)}) as here:
        here.aspire(spec(1), spec(1, "other"))
        await here.until(lambda: here.states()[key(1)] is S.ERROR)
        assert reason in here.reason(1)
        assert "secret" not in here.reason(1)
        took = await here.until_states({key(1): S.AVAILABLE, key(1, "other"): S.AVAILABLE})
        assert 10 < took < 20
        assert here.runtime.loads == {key(1): 4, key(1, "other"): 1}
        assert here.reason(1) == ""


async def test_retries_become_patient() -> None:
    async with world({key(1): Script(failures=[LoadFailed("no", permanent=False)] * 100)}) as here:
        here.aspire(spec(1))
        await pass_time(3600)
        assert 55 < here.runtime.loads[key(1)] < 70


async def test_a_store_that_is_away_is_a_passing_fault() -> None:
    async with world() as here:
        here.artifacts.failures = [Unavailable("the artifact store cannot be used now")] * 2
        here.aspire(spec(1))
        await here.until_states({key(1): S.ERROR})
        assert here.reason(1) == "the artifact could not be fetched: the artifact store cannot be used now"
        await here.until_states({key(1): S.AVAILABLE})


async def test_a_load_that_hangs_is_given_up_and_disturbs_no_other() -> None:
    async with world({key(1): Script(load_s=1e9)}) as here:
        here.aspire(spec(1), spec(1, "other"))
        await here.until(lambda: here.states()[key(1, "other")] is S.AVAILABLE, within=1.0)
        assert await here.until(lambda: here.states()[key(1)] is S.ERROR) == pytest.approx(60.0)
        assert here.reason(1) == "loading took longer than 60 s"


@pytest.mark.parametrize("after", [0.0, 0.5, 1.0, 2.5, 3.0, 3.5])
async def test_a_load_no_longer_aspired_is_cancelled_wherever_it_is(after: float) -> None:
    """The fetch takes until 1.0, the load until 3.0; at those instants both happen in one turn of the loop."""
    async with world({key(1): Script(load_s=2.0)}, fetch_s=1.0) as here:
        here.aspire(spec(1))
        await pass_time(after)
        here.aspire()
        await here.until_states({}, within=0.1)
        assert here.runtime.held == {}
        assert here.artifacts.leased == []


@pytest.mark.parametrize("after", [0.0, 0.5, 1.0, 2.5, 3.0, 3.5])
async def test_aspired_again_it_comes_back_from_wherever_it_was(after: float) -> None:
    async with world({key(1): Script(load_s=2.0, unload_s=1.0)}, fetch_s=1.0) as here:
        here.aspire(spec(1))
        await pass_time(after)
        here.aspire()
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE}, within=10)
        here.aspire()
        await pass_time(0)
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE}, within=10)
        here.keeper.validate()


async def test_a_draining_version_is_revived_without_a_load() -> None:
    async with world() as here:
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE})
        with here.keeper.lending.acquire(key(1)):
            here.aspire()
            await here.until_states({key(1): S.DRAINING})
            here.aspire(spec(1))
            await here.until_states({key(1): S.AVAILABLE}, within=0.1)
            with here.keeper.lending.acquire(key(1)):
                pass
        await pass_time(100)
        assert here.states() == {key(1): S.AVAILABLE}
        assert here.runtime.loads == {key(1): 1}


async def test_other_bytes_under_the_same_name_replace_what_is_held() -> None:
    async with world() as here:
        here.aspire(spec(1))
        await here.until_states({key(1): S.AVAILABLE})
        first = here.runtime.held[key(1)]
        here.aspire(spec(1, content="b"))
        await here.until(
            lambda: here.runtime.held.get(key(1)) not in (first, None) and key(1) in here.keeper.lending.held()
        )
        assert here.states() == {key(1): S.AVAILABLE}
        assert here.artifacts.leased == ["b" * 64]


async def test_loads_are_bounded_and_all_get_their_turn() -> None:
    versions = [spec(1, f"m{number}") for number in range(50)]
    async with world(default=Script(load_s=1.0), limits=MemoryLimits(Resources.host(10**6), max_loads=3)) as here:
        here.aspire(*versions)
        took = await here.until_states({wanted.key: S.AVAILABLE for wanted in versions})
        assert here.runtime.most_at_once == 3
        assert took == pytest.approx(17.0)


async def test_what_does_not_fit_waits_and_says_so_until_there_is_room() -> None:
    async with world(limits=MemoryLimits(Resources.host(2500))) as here:
        here.aspire(spec(1, "a"), spec(1, "b"), spec(1, "m"))
        await here.until(lambda: len(here.keeper.lending.held()) == 2)
        waiting = {status.key: status.reason for status in here.keeper.statuses() if status.state is S.NEW}
        assert list(waiting.values()) == ["waiting for memory: needs 1000 bytes"]
        assert here.keeper.memory_used <= 2500
        left = {status.key for status in here.keeper.statuses() if status.state is S.AVAILABLE}
        stay = (*waiting, min(left))
        here.aspire(*(spec(1, wanted.model) for wanted in stay))
        await here.until_states(dict.fromkeys(stay, S.AVAILABLE))


async def test_an_unload_that_fails_or_hangs_ends_all_the_same() -> None:
    scripts = {key(1): Script(unload_error=RuntimeError("no")), key(2): Script(unload_s=1e9)}
    async with world(scripts) as here:
        here.aspire(spec(1), spec(2))
        await here.until_states({key(1): S.AVAILABLE, key(2): S.AVAILABLE})
        here.aspire()
        assert await here.until_states({}) == pytest.approx(10.0)
        here.runtime.held.clear()


async def test_an_older_or_contradictory_set_changes_nothing() -> None:
    async with world() as here:
        here.keeper.aspire(AspiredSet(Order(2, 5), (spec(1),)))
        await here.until_states({key(1): S.AVAILABLE})
        for order, versions in ((Order(2, 4), ()), (Order(1, 9), ()), (Order(2, 5), (spec(2),))):
            assert here.keeper.aspire(AspiredSet(order, versions)) is Acceptance.REFUSED
        revision = here.keeper.revision
        assert here.keeper.aspire(AspiredSet(Order(2, 5), (spec(1),))) is Acceptance.REPEATED
        await pass_time(10)
        assert here.keeper.order == Order(2, 5)
        assert here.states() == {key(1): S.AVAILABLE}
        assert here.keeper.revision == revision, "repetition means nothing"


async def test_closing_ends_every_kind_of_work() -> None:
    scripts = {key(1): Script(load_s=1e9), key(2): Script(failures=[RuntimeError()] * 99), key(3): Script()}
    async with world(scripts, limits=MemoryLimits(Resources.host(3500))) as here:
        here.aspire(*(spec(version) for version in (1, 2, 3, 4)))
        await here.until(lambda: {S.LOADING, S.ERROR, S.AVAILABLE} <= set(here.states().values()))
        here.keeper.close()
        assert here.aspire(spec(5)) is Acceptance.REFUSED
        await here.until_states({}, within=1.0)


async def test_a_cancelled_keeper_ends_its_tasks() -> None:
    runtime = ScriptedRuntime(default=Script(load_s=1e9))
    keeper = Keeper(runtime, ScriptedArtifacts(), ROOMY, metrics=WorkerMetrics(CollectorRegistry()))
    running = asyncio.create_task(keeper.run())
    keeper.aspire(AspiredSet(Order(1, 1), (spec(1),)))
    await keeper.changed(keeper.revision)
    await pass_time(1.0)
    assert runtime.loading == {key(1)}
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert runtime.loading == set()


@pytest.mark.parametrize("seed", range(20))
async def test_random_orders_end_in_exactly_the_last_one(seed: int) -> None:
    rng = random.Random(seed)
    script = {
        key(version, model): Script(
            load_s=rng.choice((0.0, 1.0, 5.0)),
            unload_s=rng.choice((0.0, 1.0)),
            failures=rng.choices((None, LoadFailed("x", permanent=False)), k=5),
        )
        for version in (1, 2, 3)
        for model in "mn"
    }
    async with world(
        script, limits=MemoryLimits(Resources.host(9000), max_loads=2), fetch_s=rng.choice((0.0, 1.0))
    ) as here:
        for _ in range(30):
            wanted = [spec(v, m, content=rng.choice("ab")) for v in (1, 2, 3) for m in "mn" if rng.random() < 0.5]
            here.aspire(*wanted)
            await pass_time(rng.choice((0.0, 0.1, 1.0, 4.0)))
            here.keeper.validate()
            assert here.keeper.lending.held() == {name for name, state in here.states().items() if state is S.AVAILABLE}
            assert here.keeper.lending.held() <= set(here.runtime.held)
            assert here.runtime.most_at_once <= 2
        await here.until_states({one.key: S.AVAILABLE for one in wanted})


async def test_what_the_runtime_loses_is_not_available_and_is_loaded_again() -> None:
    script = Script(load_s=2.0, unload_s=1.0)
    async with world(default=script) as it:
        it.aspire(spec(1))
        await it.until(lambda: it.states() == {key(1): S.AVAILABLE})
        first = it.runtime.held[key(1)]
        with it.keeper.lending.acquire(key(1)):
            first.lose("its process ended")
            assert it.states() == {key(1): S.UNLOADING}
            assert it.reason(1) == "its process ended"
            assert it.keeper.lending.held() == frozenset()
            with pytest.raises(NotHeld):
                it.keeper.lending.acquire(key(1))
            first.lose("its process ended")
            assert await it.until(lambda: it.states() == {key(1): S.LOADING}) == pytest.approx(1.0)
            assert await it.until(lambda: it.states() == {key(1): S.AVAILABLE}) == pytest.approx(2.0)
        assert it.reason(1) == ""
        assert it.runtime.held[key(1)] is not first
        first.lose("late news of the old one")
        assert it.states() == {key(1): S.AVAILABLE}


async def test_what_is_lost_again_and_again_is_loaded_later_and_later() -> None:
    async with world() as it:
        it.aspire(spec(1))

        async def lose_it() -> float:
            """How long it takes to come back."""
            it.runtime.held[key(1)].lose("its process ended")
            return await it.until(lambda: it.states() == {key(1): S.AVAILABLE})

        await it.until(lambda: it.states() == {key(1): S.AVAILABLE})
        pauses = [await lose_it() for _ in range(6)]
        assert pauses[0] < 0.5
        for pause, usual in zip(pauses[1:], (1, 3, 10, 60, 60), strict=True):
            assert 0.75 * usual <= pause <= 1.25 * usual + 0.5
        # It waits, says why, and can be taken away meanwhile.
        it.runtime.held[key(1)].lose("its process ended")
        await it.until(lambda: it.states() == {key(1): S.NEW})
        assert it.reason(1) == "its process ended"
        it.aspire()
        await it.until(lambda: it.states() == {})
        # Asked for anew, it has a clean slate.
        it.aspire(spec(1))
        await it.until(lambda: it.states() == {key(1): S.AVAILABLE})
        assert await lose_it() < 0.5
        # What has served for long has, too; and so has what went with its runtime.
        await asyncio.sleep(301)
        assert await lose_it() < 0.5
        it.runtime.trouble = "it is being started again"
        assert await lose_it() < 0.5


async def test_what_is_lost_while_it_drains_just_goes() -> None:
    async with world() as it:
        it.aspire(spec(1))
        await it.until(lambda: it.states() == {key(1): S.AVAILABLE})
        servable = it.runtime.held[key(1)]
        with it.keeper.lending.acquire(key(1)):
            it.aspire()
            await it.until(lambda: it.states() == {key(1): S.DRAINING})
            servable.lose("its process ended")
            assert it.states() == {key(1): S.DRAINING}
        await it.until(lambda: it.states() == {})


async def test_it_is_settled_once_it_has_tried_everything() -> None:
    scripts = {key(2): Script(load_s=5.0, failures=[LoadFailed("no", permanent=True)])}
    async with world(scripts, default=Script(load_s=2.0)) as it:
        assert not it.keeper.settled, "nobody has said what to hold"
        it.aspire(spec(1, reserved=99_500), spec(2), spec(3))
        assert not it.keeper.settled
        await it.until(lambda: it.states() == {key(1): S.NEW, key(2): S.LOADING, key(3): S.AVAILABLE})
        assert not it.keeper.settled
        await it.until(lambda: it.states() == {key(1): S.NEW, key(2): S.ERROR, key(3): S.AVAILABLE})
        await asyncio.sleep(0.1)
        assert it.keeper.settled
