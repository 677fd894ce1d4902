"""How long a worker that is asked to stop goes on serving, on virtual time."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from berth.ids import VersionKey
from berth.model import Artifact, AspiredSet, Order, VersionSpec
from berth.resources import Resources
from doubles.scripted_runtime import ScriptedArtifacts, ScriptedRuntime
from worker.control.channel import WorkerControl
from worker.control.draining import until_routes_are_gone
from worker.core.capacity import MemoryLimits
from worker.core.loads import Loads
from worker.keeping.keeper import Keeper
from worker.metrics import WorkerMetrics

pytestmark = pytest.mark.looptime

GRACE_S = 10.0
SPEC = VersionSpec(VersionKey("acme", "m", 1), Artifact("a" * 64, 10), Resources.host(100))


class Stopping:
    """A worker that aspires to one version, and how long it goes on when it is asked to stop."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.control = WorkerControl(keeper, lambda: 0, Loads())
        keeper.aspire(AspiredSet(Order(1, 1), (SPEC,)))

    def withdraw(self) -> None:
        self.keeper.aspire(AspiredSet(Order(1, 2), ()))

    def lose_synchronizers(self) -> None:
        self.control.synchronizers = 0

    async def seconds(self) -> float:
        clock = asyncio.get_running_loop().time
        started = clock()
        await until_routes_are_gone(self.keeper, self.control, GRACE_S)
        return clock() - started


@pytest.fixture
async def stopping() -> Stopping:
    limits, metrics = MemoryLimits(Resources.host(1000)), WorkerMetrics(CollectorRegistry())
    return Stopping(Keeper(ScriptedRuntime(), ScriptedArtifacts(), limits, metrics=metrics))


async def test_who_holds_nothing_goes_at_once(stopping: Stopping) -> None:
    stopping.withdraw()
    assert await stopping.seconds() == 0


async def test_it_serves_until_the_routes_are_gone(stopping: Stopping) -> None:
    stopping.control.synchronizers = 1
    asyncio.get_running_loop().call_later(2.0, stopping.withdraw)
    assert await stopping.seconds() == pytest.approx(2.0)


async def test_it_does_not_wait_for_ever(stopping: Stopping) -> None:
    stopping.control.synchronizers = 1
    assert await stopping.seconds() == pytest.approx(GRACE_S, abs=0.2)


async def test_without_a_synchronizer_nobody_withdraws_routes(stopping: Stopping) -> None:
    assert await stopping.seconds() == pytest.approx(1.0, abs=0.2)


async def test_one_that_leaves_meanwhile_may_come_back_for_a_moment(stopping: Stopping) -> None:
    stopping.control.synchronizers = 1
    asyncio.get_running_loop().call_later(3.0, stopping.lose_synchronizers)
    assert await stopping.seconds() == pytest.approx(4.0, abs=0.2)
