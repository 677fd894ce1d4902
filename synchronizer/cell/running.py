"""Everything a synchronizer runs, put together over ports that tests can replace: controllers, workers, discovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from berth.ids import VersionKey
from berth.model import DesiredState
from synchronizer.cell.lease import LeaseKeeper
from synchronizer.cell.loop import CellLoop
from synchronizer.controllers.client import Controllers
from synchronizer.controllers.desired import DesiredClient
from synchronizer.controllers.reports import Reporter
from synchronizer.core.cell import Cell, Timings
from synchronizer.core.leadership import Leadership
from synchronizer.metrics import Metrics
from synchronizer.replay.recording import HistoryRecorder, Write
from synchronizer.routers.publisher import RoutePublisher
from synchronizer.routers.wishes import OnWanted, WantedVersions
from synchronizer.settings import SynchronizerSettings
from synchronizer.state_dir import KeptState
from synchronizer.surroundings.ports import Surroundings
from synchronizer.workers.links import WorkerLinks, Workers


@asynccontextmanager
async def running(
    settings: SynchronizerSettings,
    state: KeptState,
    controllers: Controllers,
    *,
    workers: Workers,
    around: Surroundings,
    registry: CollectorRegistry,
    on_wanted: OnWanted | None = None,
    record: Write | None = None,
) -> AsyncIterator[CellLoop]:
    """Run a synchronizer while the context is open; the lease is given up at its end. `on_wanted` hears which versions
    routers want to be loaded, while this synchronizer leads. `record` takes the lines of the cell's history."""
    clock = asyncio.get_running_loop().time
    epoch, reserved = await state.read_leadership()
    cell = Cell(settings.cell, Timings(settings.settle_s, settings.router_grace_s, settings.withdraw_timeout_s))
    leadership = Leadership(epoch)
    metrics = Metrics(registry)
    step = None if record is None else HistoryRecorder(cell, record).step
    loop = CellLoop(cell, leadership, state, metrics, step=step)
    keeper = LeaseKeeper(
        settings.cell,
        settings.instance,
        settings.lease_ttl_s,
        controllers if around.leases is None else around.leases(leadership),
        leadership=leadership,
        obey=loop.obey,
    )
    links = WorkerLinks(workers, loop.post, silence=settings.worker_silence_s)

    def hear_wanted(versions: tuple[VersionKey, ...]) -> None:
        # Someone has to start a replica: that takes long enough. What is loading only stays awake for it.
        if not all(map(cell.is_staffed, cell.wanting(versions))):
            reporter.wake()
        if on_wanted is not None:
            on_wanted(versions)

    demand = WantedVersions(lambda: cell.leading, clock, metrics, hear_wanted)
    metrics.wanted_now.set_function(lambda: len(demand.wanted()))
    publisher = RoutePublisher(loop.post, cell.table, metrics, demand.hear)
    reporter = Reporter(controllers, loop.observed, keeper.fenced)
    pools = around.pools
    desired = DesiredClient(
        settings.cell, controllers, state, loop.post, metrics, heard=_ignore if pools is None else pools.hear
    )
    loop.wire(links, publisher, reporter, keeper, demand, (lambda: ()) if pools is None else pools.observe)
    parts = {
        "cell": loop.run(reserved),
        "desired": desired.run(),
        "discovery": loop.discover(around.discovery),
        "workers": links.run(),
        "reporter": reporter.run(),
        "lease": keeper.run(),
    }
    if pools is not None:
        parts["pools"] = pools.run(lambda: leadership.lease_left(clock()), reporter.wake)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part, name=name) for name, part in parts.items()]
        try:
            yield loop
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            await loop.resign()


def _ignore(_: DesiredState) -> None:
    pass
