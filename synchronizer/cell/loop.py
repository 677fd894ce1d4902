"""The one owner of the cell's state: events are queued, taken in by `Cell.step`, and its instructions carried out.

State changes first and in one piece; what must be awaited (disk, network) comes after, elsewhere. The queue of events
needs no bound of its own. Everything runs on one thread, a step empties the queue, and every source reads one message,
posts one event, and yields. So the queue holds only what the streams delivered since the last step.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable

import structlog

from berth.model import ObservedCell, ObservedPool
from berth.reconcile import Again, Done, Outcome, Repeater
from synchronizer.cell.lease import LeaseKeeper
from synchronizer.controllers.reports import Reporter
from synchronizer.core.cell import Cell
from synchronizer.core.events import CellEvent, Instructions, Led, Reserved, SteppedDown
from synchronizer.core.leadership import Denied, Lead, Leadership, Phase, RoleChange
from synchronizer.metrics import Metrics
from synchronizer.routers.publisher import RoutePublisher
from synchronizer.routers.wishes import WantedVersions
from synchronizer.state_dir import KeptState
from synchronizer.surroundings.ports import Discovery
from synchronizer.workers.links import WorkerLinks

log = structlog.get_logger(__name__)

_BLOCK = 100_000
"""Generations reserved at a time: one write to disk for each, and so many skipped after a restart."""
_STEP_S = 0.01
"""Least time between steps: what arrives meanwhile becomes one table and one set per replica."""


class CellLoop:
    """Wires the cell to its shells. `wire` completes it, since shells and loop know each other."""

    links: WorkerLinks
    publisher: RoutePublisher
    reporter: Reporter
    keeper: LeaseKeeper
    demand: WantedVersions
    pools: Callable[[], tuple[ObservedPool, ...]]

    def __init__(
        self,
        cell: Cell,
        leadership: Leadership,
        state: KeptState,
        metrics: Metrics,
        *,
        step: Callable[[list[CellEvent], float], Instructions] | None = None,
    ) -> None:
        """`step` steps `cell`, which steps itself without one."""
        self._cell = cell
        self._step_cell = step or cell.step
        self._leadership = leadership
        self._state = state
        self._metrics = metrics
        self._inbox: deque[CellEvent] = deque()
        self._steps = Repeater(self._look)
        self._reserved = 0
        self._disk = asyncio.Lock()
        self._timeouts_counted = 0

    def wire(
        self,
        links: WorkerLinks,
        publisher: RoutePublisher,
        reporter: Reporter,
        keeper: LeaseKeeper,
        demand: WantedVersions,
        pools: Callable[[], tuple[ObservedPool, ...]],
    ) -> None:
        self.links, self.publisher, self.reporter, self.keeper = links, publisher, reporter, keeper
        self.demand, self.pools = demand, pools

    def post(self, event: CellEvent) -> None:
        """Have `event` taken in with the next step."""
        self._inbox.append(event)
        self._steps.look_again()

    def observed(self) -> ObservedCell | None:
        """The report of now, or None while there is nothing to say: not leading, or not settled yet."""
        if not self._cell.leading or not self._cell.settled:
            return None
        seen = self._cell.observed(time.time() - asyncio.get_running_loop().time())
        return dataclasses.replace(seen, pools=self.pools(), wanted=self._cell.wanting(self.demand.wanted()))

    def not_ready(self) -> str | None:
        """Why this process could not do its part now, or None."""
        if self._cell.desired_generation is None:
            return "no desired state yet"
        if self._cell.leading:
            return None if self._cell.settled else "waiting to hear from the replicas"
        reached = self.keeper.reached(asyncio.get_running_loop().time())
        return None if reached else "standing by, and no controller answers"

    async def discover(self, discovery: Discovery) -> None:
        """Follow the discovery until cancelled."""
        async for found in discovery.watch():
            self.post(found)
            self.links.set_addresses(found.addresses)

    async def obey(self, instruction: RoleChange) -> None:
        """Carry out what leadership demands."""
        if isinstance(instruction, Lead):
            # On disk first: after a restart without controllers this process must know that the epoch is its own.
            await self._keep()
            if self._leadership.epoch == instruction.epoch:
                self._step([Led(instruction.epoch)])
                self.links.lead()
                self._steps.look_again()
        else:
            self._step([SteppedDown()])
            self.links.stand_by()
            self.publisher.stand_by()
            await self._keep()

    async def resign(self) -> None:
        """Give the lease up at the end. Without a controller to take it, a restart resumes the same epoch."""
        if self._leadership.phase is Phase.LEADING and await self.keeper.release():
            instruction = self._leadership.on(Denied(self._leadership.epoch), asyncio.get_running_loop().time())
            if instruction is not None:
                await self.obey(instruction)

    async def run(self, reserved: int) -> None:
        """Step until cancelled. `reserved` bounds the generations that predecessors gave out."""
        await self._reserve(reserved)
        await self._steps.run()

    async def _look(self) -> Outcome:
        todo = self._step(self._drain())
        if todo.fenced:
            await self.keeper.fenced(todo.fenced)
        elif todo.reserve_after is not None:
            await self._reserve(todo.reserve_after)
        await asyncio.sleep(_STEP_S)
        return Done() if todo.wake_at is None else Again(todo.wake_at - asyncio.get_running_loop().time())

    def _drain(self) -> list[CellEvent]:
        events = list(self._inbox)
        self._inbox.clear()
        return events

    def _step(self, events: list[CellEvent]) -> Instructions:
        now = asyncio.get_running_loop().time()
        todo = self._step_cell(events, now)
        if todo.publish is not None:
            self.publisher.publish(todo.publish)
        for push in todo.pushes:
            self.links.send(push)
        self._metrics.pushes.inc(len(todo.pushes))
        if todo.changed:
            self.reporter.wake()
        self._measure(now)
        return todo

    async def _reserve(self, after: int) -> None:
        self._reserved = max(self._reserved, after) + _BLOCK
        await self._keep()
        self.post(Reserved(after, self._reserved))

    async def _keep(self) -> None:
        """Wait for the disk, then write what is true by then: if two writers overtake each other, both write the
        newest."""
        async with self._disk:
            try:
                await self._state.write_leadership(self._leadership.resumable, self._reserved)
            except OSError as error:
                # It goes on: a successor that resumes with a number too low is refused by workers and waits.
                self._metrics.disk_errors.inc()
                log.error("leadership could not be written", error=str(error))

    def _measure(self, now: float) -> None:
        cell, metrics = self._cell, self._metrics
        metrics.leading.set(cell.leading)
        metrics.lease_held.set(self._leadership.holds_lease(now))
        metrics.epoch.set(self._leadership.epoch)
        metrics.generation.set(cell.generation)
        metrics.desired_generation.set(cell.desired_generation or 0)
        metrics.replicas.set(self.links.live)
        metrics.routers.set(cell.routers)
        metrics.withdraw_timeouts.inc(max(0, cell.withdrawals_timed_out - self._timeouts_counted))
        self._timeouts_counted = cell.withdrawals_timed_out
