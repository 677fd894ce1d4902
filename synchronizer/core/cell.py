"""The state of one cell and its only mutator, `step`: events in, instructions out.

Within a step, facts are taken in first. Each touched replica's aspired set follows from them, and from what the routers
acknowledged. The route table comes last: it follows from what replicas say of versions that they were also sent.

No table is published before the cell has *settled*: it leads, it has a desired state, and every registered replica
has failed once, or reported and accepted a set of this epoch (or had `settle` seconds to). Until then routers keep the
table they have, and nothing is left out of a set. So a restarted synchronizer breaks nothing while it does not know
yet.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable
from dataclasses import dataclass

from berth.ids import VersionKey
from berth.model import DesiredState, ObservedCell, Order, RouteDelta, RouteTable, ServableStatus
from berth.states import ServableState
from synchronizer.core.aspire import aspire, held
from synchronizer.core.assigned import AssignedVersions
from synchronizer.core.events import (
    CellEvent,
    DesiredArrived,
    Discovered,
    Instructions,
    Led,
    Lost,
    Push,
    Reported,
    Reserved,
    RouterGone,
    RouterSeen,
    SteppedDown,
)
from synchronizer.core.fleet import CellFleet
from synchronizer.core.generations import Generations
from synchronizer.core.observation import observe
from synchronizer.core.replica import TrackedReplica
from synchronizer.core.routes import RouteTableBuilder
from synchronizer.core.withdrawal import Route, RouteLedger


@dataclass(frozen=True, slots=True)
class Timings:
    """Patience of the cell, in seconds."""

    settle: float = 2.0
    router_grace: float = 5.0
    withdraw_timeout: float = 10.0


class Cell:
    """Mutated by `step` alone. `now` is in seconds of one monotonic clock throughout."""

    def __init__(self, name: str, timings: Timings = Timings()) -> None:
        self.name = name
        self.timings = timings
        self._assigned = AssignedVersions()
        self._fleet = CellFleet()
        self._numbers = Generations()
        self._ledger = self._new_ledger(0.0)
        self._forget(0.0)

    def _forget(self, now: float) -> None:
        """Drop what belongs to streams that are closed while this process does not lead."""
        self._fleet.forget()
        self._settled = False
        self._settle_at = now + self.timings.settle
        self._table = RouteTableBuilder()
        if self._assigned.state is not None:
            self._table.set_desired(self._assigned.state)
        self._republish = False
        self._routed_floor = 0

    def __repr__(self) -> str:
        return (
            f"<Cell {self.name} settled={self._settled} desired={self.desired_generation} {self._numbers!r} "
            f"{self._fleet!r} {self._ledger!r}>"
        )

    @property
    def leading(self) -> bool:
        return self._numbers.epoch > 0

    @property
    def settled(self) -> bool:
        return self._settled

    @property
    def desired_generation(self) -> int | None:
        """The generation of the desired state acted on; None before there is one."""
        return self._assigned.generation

    @property
    def generation(self) -> int:
        """The last generation given out."""
        return self._numbers.given

    @property
    def routers(self) -> int:
        """How many routers are connected."""
        return len(self._ledger.routers())

    @property
    def withdrawals_timed_out(self) -> int:
        return self._ledger.timed_out

    def table(self) -> RouteTable:
        """The route table last published; of order `NEVER` if none was."""
        return self._table.table()

    def step(self, events: Iterable[CellEvent], now: float) -> Instructions:
        """Take in what happened, and say what is to be done."""
        fenced = max((self._learn(event, now) for event in events), default=0)
        if not self.leading:
            return Instructions()
        if fenced:
            return Instructions(fenced=fenced)
        fleet = self._fleet
        if self._ledger.settle(now) or any(at <= now for at in fleet.believed_at()):
            fleet.touch_lingering()
        may_act = self._assigned.state is not None and self._numbers.are_left
        publish, pushes = self._decide(now) if may_act else (None, ())
        # A withdrawal that needs no router's answer is over at once: look again at what it held up.
        over = publish is not None and self._ledger.settle(now)
        if over:
            fleet.touch_lingering()
        floor = self._ledger.routed_floor()
        changed = fleet.changed or publish is not None or floor != self._routed_floor
        self._routed_floor, fleet.changed = floor, False
        return Instructions(
            publish=publish,
            pushes=pushes,
            changed=changed,
            reserve_after=self._numbers.reserve_after,
            wake_at=now if over and fleet.touched else self._wake_at(now),
        )

    def observed(self, wall_offset: float) -> ObservedCell:
        """The report to the controller. `wall_offset` plus the cell's clock gives seconds since the Unix epoch."""
        replicas = observe(self._fleet, self._ledger, wall_offset)
        epoch, generation = self._numbers.epoch, self.desired_generation or 0
        return ObservedCell(self.name, epoch, generation, replicas, self._ledger.routers())

    def wanting(self, wanted: Iterable[VersionKey]) -> tuple[str, ...]:
        """The jobs that are to hold any of these versions."""
        return tuple(sorted(self._assigned.jobs_of(wanted)))

    def is_staffed(self, job: str) -> bool:
        """Whether `job` has a replica that loads, or can load, what the job is to hold."""
        return self._fleet.is_staffed(job)

    def validate(self) -> None:
        """Raise AssertionError where the pieces contradict each other."""
        self._table.validate()
        self._ledger.validate()
        self._fleet.validate()
        assert self.leading or not self._fleet.replicas, "a synchronizer that does not lead has no streams"

    # --- facts ---------------------------------------------------------------------------------------------------

    def _learn(self, event: CellEvent, now: float) -> int:
        """Update what is known. Returns the later epoch that the event shows, or 0."""
        match event:
            case Led():
                self._lead(event.epoch, now)
            case SteppedDown():
                self._numbers.epoch = 0
                self._forget(now)
            case Reserved():
                self._numbers.reserve(event.after, event.upto)
            case DesiredArrived():
                self._desire(event.state, now)
            case Discovered():
                if self._fleet.registered is None:
                    self._settle_at = now + self.timings.settle
                self._fleet.discover(event)
            case RouterSeen():
                self._ledger.router_seen(event.session, event.router, event.applied)
                self._republish = self._republish or self._numbers.is_ahead(event.applied)
                return self._numbers.see(event.applied)
            case RouterGone():
                self._ledger.router_gone(event.session, now)
            case Reported() if self.leading:
                self._fleet.report(event, self._numbers.epoch, now)
                return self._numbers.see(event.status.accepted)
            case Lost() if self.leading:
                self._fleet.lose(event.replica)
        return 0

    def _lead(self, epoch: int, now: float) -> None:
        # Epochs are given out one by one, so nobody led between this process's last epoch and the one after it.
        unbroken = self.leading and epoch == self._numbers.epoch + 1
        ledger, self._numbers.epoch = self._ledger, epoch
        self._ledger = self._new_ledger(now)
        self._ledger.inherit(ledger, all_met=unbroken)
        if unbroken:
            # Its streams go on, and all that it gave out is given out again.
            self._fleet.send_all_anew()
        else:
            self._forget(now)

    def _desire(self, state: DesiredState, now: float) -> None:
        known = self._assigned.generation
        if known is None:
            self._settle_at = now + self.timings.settle
            self._fleet.touch_all()
        elif state.generation <= known:
            return
        self._fleet.touch_jobs(self._assigned.adopt(state))
        self._table.set_desired(state)
        self._fleet.changed = True

    # --- decisions -----------------------------------------------------------------------------------------------

    def _has_settled(self, now: float) -> bool:
        if self._fleet.registered is None or self._assigned.state is None:
            return False
        return now >= self._settle_at or self._fleet.all_have_spoken

    def _decide(self, now: float) -> tuple[RouteDelta | None, tuple[Push, ...]]:
        touched, self._fleet.touched = sorted(self._fleet.touched), set()
        order = self._numbers.next
        pushes = tuple(push for name in touched if (push := self._push(name, order, now)) is not None)
        for name in touched:
            self._project(name)
        self._settled = self._settled or self._has_settled(now)
        publication = None
        if self._settled:
            self._table.set_routers(self._ledger.counted)
            publication = self._table.publish(order, anew=self._republish)
            self._republish = False
        if publication is not None:
            self._ledger.published(order.generation, publication.on, publication.off, now)
        if publication is not None or pushes:
            self._numbers.given = order.generation
        return (publication.delta if publication is not None else None), pushes

    def _project(self, name: str) -> None:
        """Tell the table what can be queried on a replica now."""
        replica = self._fleet.replicas.get(name)
        if replica is None or not replica.connected:
            self._table.drop_replica(name)
            return
        status = replica.status
        named = self._assigned.named(status.address.job)
        routes: set[VersionKey] = set()
        others: dict[VersionKey, ServableStatus] = {}
        for servable in () if self._fleet.drains(replica) else status.servables:
            if servable.key not in named:
                continue
            if servable.state is not ServableState.AVAILABLE:
                others[servable.key] = servable
            elif replica.can_be_asked(servable.key):
                routes.add(servable.key)
        self._table.set_replica(status.address, frozenset(routes), others)

    def _push(self, name: str, order: Order, now: float) -> Push | None:
        """The set that a replica is to be sent, if it differs from the last."""
        replica = self._fleet.replicas.get(name)
        self._fleet.lingering.discard(name)
        if replica is None or not replica.connected:
            return None
        status = replica.status
        desired = {} if self._fleet.drains(replica) else self._assigned.specs(status.address.job)
        versions = aspire(
            desired,
            # What was left out once stays out. Reports are older than the sets under way: to follow each of them would
            # put a version in and out of the set for ever.
            (key for key in held(status.servables) if replica.sent is None or key in replica.specs),
            lambda key: self._ledger.may_be_routed(Route(name, key), now),
            ChainMap(replica.specs, self._assigned.dropped),  # type: ignore[arg-type]  # read only
        )
        if versions is None or len(versions) > len(desired):
            self._fleet.lingering.add(name)
        if versions is None:
            self._believe_later(replica, now)
            return None
        aspired = replica.next_set(order, versions)
        return None if aspired is None else Push(name, aspired)

    def _believe_later(self, replica: TrackedReplica, now: float) -> None:
        """It cannot be sent a set yet, so it cannot accept one: after a while it is believed without."""
        if replica.confirmed:
            return
        if replica.believe_at is None:
            replica.believe_at = now + self.timings.settle if self._settled else self._settle_at
        replica.confirmed = now >= replica.believe_at

    def _wake_at(self, now: float) -> float | None:
        deadlines = [self._ledger.next_deadline(now), None if self._settled else self._settle_at]
        deadlines += self._fleet.believed_at()
        return min((deadline for deadline in deadlines if deadline is not None and deadline > now), default=None)

    def _new_ledger(self, now: float) -> RouteLedger:
        epoch = self._numbers.epoch
        return RouteLedger(epoch, now, grace=self.timings.router_grace, timeout=self.timings.withdraw_timeout)
