"""The state of one cell and its only mutator, `step`: events in, instructions out.

Within a step, facts are taken in first; then each touched replica's aspired set follows from them and from what the
routers acknowledged; then the route table follows from what replicas say of versions that they were also sent.

No table is published before the cell has *settled*: it leads, it has a desired state, and every registered replica
has failed once, or reported and accepted a set of this epoch (or had `settle` seconds to). Until then routers keep the
table they have, and nothing is left out of a set, so a restarted synchronizer breaks nothing by not knowing yet.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable
from dataclasses import dataclass, replace

from berth.ids import VersionKey
from berth.model import (
    AspiredSet,
    DesiredState,
    ObservedCell,
    ObservedReplica,
    Order,
    RouteDelta,
    RouteTable,
    ServableStatus,
)
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
from synchronizer.core.replica import TrackedReplica, says_more
from synchronizer.core.routes import RouteTableBuilder
from synchronizer.core.withdrawal import Route, RouteLedger

_RESERVE_BELOW = 10_000  # generations left; a step takes at most one, so this is minutes of constant change


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
        self._registered: frozenset[str] | None = None
        self._leaving: frozenset[str] = frozenset()
        self._generation = 0
        self._reserved_upto = 0
        self._epoch = 0
        self._ledger = self._new_ledger(0.0)
        self._forget(0.0)

    def _forget(self, now: float) -> None:
        """Drop what was seen of replicas: it belongs to streams that are closed while this one does not lead."""
        self._replicas: dict[str, TrackedReplica] = {}
        self._heard: set[str] = set()
        self._settled = False
        self._settle_at = now + self.timings.settle
        self._board = RouteTableBuilder()
        if self._assigned.state is not None:
            self._board.set_desired(self._assigned.state)
        # Replicas to look at in this step, and those whose aspired set holds more than is desired.
        self._touched: set[str] = set()
        self._lingering: set[str] = set()
        self._republish = False
        self._changed = False
        self._routed_floor = 0

    def __repr__(self) -> str:
        return (
            f"<Cell {self.name} epoch={self._epoch} settled={self._settled} desired={self.desired_generation} "
            f"given={self._generation}/{self._reserved_upto} replicas={len(self._replicas)} {self._ledger!r}>"
        )

    @property
    def leading(self) -> bool:
        return self._epoch > 0

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
        return self._generation

    @property
    def routers(self) -> int:
        """How many routers are connected."""
        return len(self._ledger.routers())

    @property
    def withdrawals_timed_out(self) -> int:
        return self._ledger.timed_out

    def table(self) -> RouteTable:
        """The route table last published; of order `NEVER` if none was."""
        return self._board.table()

    def step(self, events: Iterable[CellEvent], now: float) -> Instructions:
        """Take in what happened, and say what is to be done."""
        fenced = max((self._take(event, now) for event in events), default=0)
        if not self.leading:
            return Instructions()
        if fenced:
            return Instructions(fenced=fenced)
        if self._ledger.settle(now) or any(at <= now for at in self._to_believe()):
            self._touched |= self._lingering
        publish, pushes = self._decide(now) if self._may_act() else (None, ())
        # A withdrawal that needs no router's answer is over at once: look again at what it held up.
        over = publish is not None and self._ledger.settle(now)
        if over:
            self._touched |= self._lingering
        floor = self._ledger.routed_floor()
        changed = self._changed or publish is not None or floor != self._routed_floor
        self._routed_floor, self._changed = floor, False
        return Instructions(
            publish=publish,
            pushes=pushes,
            changed=changed,
            reserve_after=self._generation if self._reserved_upto - self._generation < _RESERVE_BELOW else None,
            wake_at=now if over and self._touched else self._wake_at(now),
        )

    def observed(self, wall_offset: float) -> ObservedCell:
        """The report to the controller. `wall_offset` plus the cell's clock gives seconds since the Unix epoch."""
        replicas = tuple(
            ObservedReplica(
                status=replace(replica.status, draining=True) if name in self._leaving else replica.status,
                connected=replica.connected,
                routed=self._ledger.routed(name),
                seen_at=wall_offset + replica.seen_at,
            )
            for name, replica in sorted(self._replicas.items())
        )
        return ObservedCell(self.name, self._epoch, self.desired_generation or 0, replicas, self._ledger.routers())

    def wanting(self, wanted: Iterable[VersionKey]) -> tuple[str, ...]:
        """The jobs that are to hold any of these versions."""
        return tuple(sorted(self._assigned.jobs_of(wanted)))

    def is_staffed(self, job: str) -> bool:
        """Whether a replica of `job` is there, to load what it is to hold or loading it."""
        return any(
            replica.connected and not self._drains(replica)
            for replica in self._replicas.values()
            if replica.status.address.job == job
        )

    def validate(self) -> None:
        """Raise AssertionError where the pieces contradict each other."""
        self._board.validate()
        self._ledger.validate()
        assert self.leading or not self._replicas, "a synchronizer that does not lead has no streams"
        for name, replica in self._replicas.items():
            assert replica.status.address.replica == name
            assert replica.sent is None or replica.specs.keys() == {spec.key for spec in replica.sent.versions}

    # --- facts ---------------------------------------------------------------------------------------------------

    def _take(self, event: CellEvent, now: float) -> int:
        """Update what is known. Returns the later epoch that the event shows, or 0."""
        match event:
            case Led():
                self._lead(event.epoch, now)
            case SteppedDown():
                self._epoch = 0
                self._forget(now)
            case Reserved():
                self._generation = max(self._generation, event.after)
                self._reserved_upto = max(self._reserved_upto, event.upto)
            case DesiredArrived():
                self._desire(event.state, now)
            case Discovered():
                self._discover(event, now)
            case RouterSeen():
                self._ledger.router_seen(event.session, event.router, event.applied)
                self._republish = self._republish or self._is_ahead(event.applied)
                return self._beyond(event.applied)
            case RouterGone():
                self._ledger.router_gone(event.session, now)
            case Reported() if self.leading:
                self._report(event, now)
                return self._beyond(event.status.accepted)
            case Lost() if self.leading:
                self._lose(event.replica)
        return 0

    def _lead(self, epoch: int, now: float) -> None:
        # Epochs are given out one by one, so nobody led between this process's last epoch and the one after it.
        unbroken = self.leading and epoch == self._epoch + 1
        ledger, self._epoch = self._ledger, epoch
        self._ledger = self._new_ledger(now)
        self._ledger.inherit(ledger, all_met=unbroken)
        if not unbroken:
            self._forget(now)
            return
        # Its streams go on, and all that it gave out is given out again.
        for name, replica in self._replicas.items():
            replica.resend = True
            self._touched.add(name)

    def _desire(self, state: DesiredState, now: float) -> None:
        known = self._assigned.generation
        if known is None:
            self._settle_at = now + self.timings.settle
            self._touched |= self._replicas.keys()
        elif state.generation <= known:
            return
        changed = self._assigned.replace(state)
        self._touched |= {name for name, replica in self._replicas.items() if replica.status.address.job in changed}
        self._board.set_desired(state)
        self._changed = True

    def _discover(self, event: Discovered, now: float) -> None:
        if self._registered is None:
            self._settle_at = now + self.timings.settle
        names = self._registered = frozenset(event.addresses)
        turned, self._leaving = self._leaving ^ event.leaving, event.leaving
        if turned & self._replicas.keys():
            self._touched |= turned & self._replicas.keys()
            self._changed = True
        for name in [name for name, replica in self._replicas.items() if not replica.connected]:
            if name not in names:
                del self._replicas[name]
                self._changed = True

    def _report(self, event: Reported, now: float) -> None:
        status = event.status
        name = status.address.replica
        self._heard.add(name)
        replica = self._replicas.get(name)
        if replica is None or replica.status.address.incarnation != status.address.incarnation:
            self._replicas[name] = TrackedReplica(status, now)
            self._touched.add(name)
            self._changed = True
            return
        old, replica.status, replica.seen_at = replica.status, status, now
        if not replica.connected or event.refused or event.opened:
            replica.connected = replica.resend = True
            self._touched.add(name)
            self._changed = True
        elif says_more(old, status):
            self._touched.add(name)
            self._changed = True
        if not replica.confirmed and status.accepted.epoch == self._epoch:
            replica.confirmed = True
            self._touched.add(name)
        arrived = [key for key, order in replica.added.items() if status.accepted >= order]
        for key in arrived:
            del replica.added[key]
            self._touched.add(name)

    def _lose(self, name: str) -> None:
        self._heard.add(name)
        replica = self._replicas.get(name)
        if replica is None or not replica.connected:
            return
        replica.connected = False
        self._touched.add(name)
        self._changed = True
        if self._registered is not None and name not in self._registered:
            del self._replicas[name]

    def _is_ahead(self, order: Order) -> bool:
        return self.leading and order.epoch == self._epoch and order.generation > self._generation

    def _beyond(self, order: Order) -> int:
        """Whether `order` is later than ours. Of another epoch it is returned: that one leads.

        Of our own epoch it is something that we gave out and the disk forgot: we go on after it.
        """
        if self._is_ahead(order):
            self._generation = order.generation
        return order.epoch if self.leading and order.epoch > self._epoch else 0

    # --- decisions -----------------------------------------------------------------------------------------------

    def _has_settled(self, now: float) -> bool:
        if self._registered is None or self._assigned.state is None:
            return False
        if now >= self._settle_at:
            return True
        unconfirmed = any(replica.connected and not replica.confirmed for replica in self._replicas.values())
        return self._registered <= self._heard and not unconfirmed

    def _may_act(self) -> bool:
        return self._assigned.state is not None and self._generation < self._reserved_upto

    def _decide(self, now: float) -> tuple[RouteDelta | None, tuple[Push, ...]]:
        touched, self._touched = sorted(self._touched), set()
        order = Order(self._epoch, self._generation + 1)
        pushes = tuple(push for name in touched if (push := self._push(name, order, now)) is not None)
        for name in touched:
            self._project(name)
        self._settled = self._settled or self._has_settled(now)
        publication = None
        if self._settled:
            self._board.set_routers(self._ledger.counted)
            publication = self._board.publish(order, anew=self._republish)
            self._republish = False
        if publication is not None:
            self._ledger.published(order.generation, publication.on, publication.off, now)
        if publication is not None or pushes:
            self._generation = order.generation
        return (publication.delta if publication is not None else None), pushes

    def _project(self, name: str) -> None:
        """Tell the board what can be queried on a replica now."""
        replica = self._replicas.get(name)
        if replica is None or not replica.connected:
            self._board.drop_replica(name)
            return
        status = replica.status
        named = self._assigned.named(status.address.job)
        routes: set[VersionKey] = set()
        others: dict[VersionKey, ServableStatus] = {}
        for servable in () if self._drains(replica) else status.servables:
            if servable.key not in named:
                continue
            if servable.state is not ServableState.AVAILABLE:
                others[servable.key] = servable
            elif replica.confirmed and (
                replica.sent is None or (servable.key in replica.specs and servable.key not in replica.added)
            ):
                routes.add(servable.key)
        self._board.set_replica(status.address, frozenset(routes), others)

    def _push(self, name: str, order: Order, now: float) -> Push | None:
        """The set that a replica is to be sent, if it differs from the last."""
        replica = self._replicas.get(name)
        self._lingering.discard(name)
        if replica is None or not replica.connected:
            return None
        status = replica.status
        desired = {} if self._drains(replica) else self._assigned.specs(status.address.job)
        versions = aspire(
            desired,
            # What was left out once stays out: reports are older than the sets under way, and to follow each of
            # them would put a version in and out of the set for ever.
            (key for key in held(status.servables) if replica.sent is None or key in replica.specs),
            lambda key: self._ledger.may_be_routed(Route(name, key), now),
            ChainMap(replica.specs, self._assigned.dropped),  # type: ignore[arg-type]  # read only
        )
        if versions is None or len(versions) > len(desired):
            self._lingering.add(name)
        if versions is None and not replica.confirmed:
            if replica.believe_at is None:
                replica.believe_at = now + self.timings.settle if self._settled else self._settle_at
            replica.confirmed = now >= replica.believe_at
        if versions is None or (replica.sent is not None and replica.sent.versions == versions and not replica.resend):
            return None
        specs = {spec.key: spec for spec in versions}
        if replica.sent is not None:
            replica.added |= dict.fromkeys(specs.keys() - replica.specs.keys(), order)
        for key in replica.added.keys() - specs.keys():
            del replica.added[key]
        replica.sent, replica.specs, replica.resend = AspiredSet(order, versions), specs, False
        return Push(name, replica.sent)

    def _drains(self, replica: TrackedReplica) -> bool:
        """It says so, or will hear it any moment: either way, what it holds is on its way out."""
        return replica.status.draining or replica.status.address.replica in self._leaving

    def _wake_at(self, now: float) -> float | None:
        deadlines = [self._ledger.next_deadline(now), None if self._settled else self._settle_at]
        deadlines += self._to_believe()
        return min((deadline for deadline in deadlines if deadline is not None and deadline > now), default=None)

    def _to_believe(self) -> list[float]:
        waiting = [self._replicas[name] for name in self._lingering if name in self._replicas]
        return [replica.believe_at for replica in waiting if replica.believe_at is not None and not replica.confirmed]

    def _new_ledger(self, now: float) -> RouteLedger:
        return RouteLedger(self._epoch, now, grace=self.timings.router_grace, timeout=self.timings.withdraw_timeout)
