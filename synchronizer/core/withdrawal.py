"""Which routes the routers may still use: what was published when, and what each router has acknowledged.

Route generations only grow, so one number decides both questions of this module: the lowest generation that every
router has applied. A route published at or below it is known everywhere; a withdrawal at or below it is done.

A router that vanished may go on with its last table for a while, so it keeps counting for a grace. So do the routers
that a new leader has not met yet: for a grace after it began to lead, "no router is connected" proves nothing.
Every withdrawal ends after a time limit, whatever a router does: a stuck router must not keep memory occupied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from berth.ids import VersionKey
from berth.model import NEVER, Order


class Route(NamedTuple):
    """Requests for `key` may be sent to `replica`."""

    replica: str
    key: VersionKey


class _Withdrawal(NamedTuple):
    generation: int
    deadline: float
    route: Route


@dataclass(slots=True)
class _Router:
    name: str
    applied: Order
    gone_at: float | None = None


class RouteLedger:
    """The routes of one epoch. `grace` and `timeout` are seconds; every `now` is of one monotonic clock."""

    def __init__(self, epoch: int, now: float, *, grace: float, timeout: float) -> None:
        self._epoch = epoch
        self._grace = grace
        self._timeout = timeout
        self._all_met_at = now + grace
        self._old_tables_end = now + timeout
        self._first: int | None = None
        self._latest = 0
        # A route is in `_on` (with the generation that published it), in `_off`, or unknown to this epoch.
        self._on: dict[str, dict[VersionKey, int]] = {}
        self._off: dict[Route, int] = {}
        self._waiting: deque[_Withdrawal] = deque()
        self._routers: dict[int, _Router] = {}
        self._reached = (0.0, 0, False)
        self.timed_out = 0

    def __repr__(self) -> str:
        routers = {router.name: tuple(router.applied) for router in self._routers.values()}
        return f"<RouteLedger epoch={self._epoch} latest={self._latest} withdrawing={len(self._off)} {routers}>"

    def inherit(self, other: RouteLedger, *, all_met: bool) -> None:
        """Take over the routers of an earlier ledger of this process; `all_met`: it had led, and knows them all."""
        self._routers = dict(other._routers)
        self.timed_out = other.timed_out
        if all_met:
            self._all_met_at = other._all_met_at

    def published(self, generation: int, on: Iterable[Route], off: Iterable[Route], now: float) -> None:
        """A table of `generation` went out that adds the routes `on` and lacks the routes `off`."""
        if self._first is None:
            self._first = generation
        self._latest = generation
        for route in off:
            self._on.get(route.replica, {}).pop(route.key, None)
            self._off[route] = generation
            self._waiting.append(_Withdrawal(generation, now + self._timeout, route))
        for route in on:
            self._off.pop(route, None)
            self._on.setdefault(route.replica, {})[route.key] = generation

    def router_seen(self, session: int, name: str, applied: Order) -> None:
        """A router connected on stream `session`, or acknowledged on it. Sessions grow; older ones are over."""
        for other in [other for other, router in self._routers.items() if router.name == name]:
            if other > session:
                return
            del self._routers[other]
        self._routers[session] = _Router(name, applied)

    def router_gone(self, session: int, now: float) -> None:
        router = self._routers.get(session)
        if router is not None:
            router.gone_at = now

    def settle(self, now: float) -> bool:
        """End the withdrawals that are acknowledged or overdue. True if less may be routed than at the last call."""
        for session, router in list(self._routers.items()):
            if router.gone_at is not None and now >= router.gone_at + self._grace:
                del self._routers[session]
        floor = self._withdrawn_floor(now)
        # Generations and deadlines both grow along the queue.
        while self._waiting and (self._waiting[0].generation <= floor or now >= self._waiting[0].deadline):
            generation, _, route = self._waiting.popleft()
            if self._off.get(route) == generation:  # else it was published again meanwhile
                del self._off[route]
                self.timed_out += generation > floor
        reached = (floor, len(self._off), now >= self._old_tables_end)
        fewer = reached != self._reached
        self._reached = reached
        return fewer

    def may_be_routed(self, route: Route, now: float) -> bool:
        """Whether some router may still send requests along `route`. Call `settle(now)` first."""
        if route in self._off or route.key in self._on.get(route.replica, ()):
            return True
        # Not of this epoch: tables of an earlier leader may have it, until each router applied one of ours.
        if now >= self._old_tables_end:
            return False
        return self._first is None or self._first > self._withdrawn_floor(now)

    def routed(self, replica: str) -> frozenset[VersionKey]:
        """The versions that every connected router sends to `replica`; none if no router is connected."""
        floor = self.routed_floor()
        return frozenset(key for key, generation in self._on.get(replica, {}).items() if generation <= floor)

    def routed_floor(self) -> int:
        """The newest table that every router which answers requests has applied; 0 if there is no such router.

        A router that just started has no table and answers nothing, so it does not make what is routed untrue.
        """
        serving = [
            router.applied for router in self._routers.values() if router.gone_at is None and router.applied != NEVER
        ]
        return min(map(self._generation, serving), default=0)

    def routers(self) -> tuple[str, ...]:
        """The names of the connected routers."""
        return tuple(sorted(router.name for router in self._routers.values() if router.gone_at is None))

    @property
    def counted(self) -> int:
        """How many routers may be answering requests: the connected ones, and those that vanished within the grace,
        which go on with their last table."""
        return len(self._routers)

    def next_deadline(self, now: float) -> float | None:
        """When `settle` may have something to do though no event came; None if never."""
        deadlines = [router.gone_at + self._grace for router in self._routers.values() if router.gone_at is not None]
        deadlines += [self._all_met_at, self._old_tables_end]
        if self._waiting:
            deadlines.append(self._waiting[0].deadline)
        return min((deadline for deadline in deadlines if deadline > now), default=None)

    def validate(self) -> None:
        """Raise AssertionError where the pieces contradict each other."""
        on = {Route(replica, key) for replica, keys in self._on.items() for key in keys}
        assert not on & self._off.keys(), "a route is both on and being withdrawn"
        assert all(generation <= self._latest for keys in self._on.values() for generation in keys.values())
        order = [(entry.generation, entry.deadline) for entry in self._waiting]
        assert order == sorted(order), "withdrawals are out of order"
        waiting = {(entry.route, entry.generation) for entry in self._waiting}
        assert waiting >= set(self._off.items()), "a withdrawal would never end"
        names = [router.name for router in self._routers.values()]
        assert len(names) == len(set(names)), "a router counts twice"

    def _generation(self, applied: Order) -> int:
        return applied.generation if applied.epoch == self._epoch else 0

    def _withdrawn_floor(self, now: float) -> float:
        """The newest generation of which every older table is out of use."""
        unmet = [0.0] if now < self._all_met_at else []
        known = [float(self._generation(router.applied)) for router in self._routers.values()]
        return min(unmet + known, default=float("inf"))
