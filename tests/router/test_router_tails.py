"""What hedging and choosing do to the tail: the real forwarder and cores over scripted replicas, on virtual time.

Requests come as a Poisson stream; each replica has eight slots and a queue, and takes a lognormal time of 3 ms median.
Everything is seeded: a scenario gives the same figures every time. The targets are the project's own: p99.9 with 1 % of
stragglers at most a tenth of what it is without hedging, for at most 2 % more requests, and so on.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry

from berth.auth.keys import digest
from berth.errors import DeadlineExceeded
from berth.ids import ModelKey
from berth.model import ApiKey, ModelRoute, Order, ReplicaAddress, RouteTable, Serving, VersionRoute
from berth.states import Role
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.control.wishes import Wishes
from router.core.admission import Admission
from router.core.attempts import Denial, Rules
from router.core.budget import Budgets, BudgetScale
from router.core.hedging import ADAPTIVE, HedgeEvent, Hedging
from router.core.latency import Latencies
from router.core.paths import Operation
from router.core.race import Course
from router.core.selection import Selection
from router.path.answer import Answer, Reply
from router.path.answering.answering import AnswerChoice
from router.path.gate import Gate
from router.path.meeting import Copy
from router.path.race.forward import Awaited, Forwarder
from router.path.race.means import Means
from router.path.request import NO_ENVELOPE, Wire
from router.path.upstream.pools import Upstreams
from router.path.watchers.counts import CountsAttempts

pytestmark = pytest.mark.looptime

KEY = digest("key")
M = ModelKey("t", "m")
SHARE = 0.015
RATE = 300.0
WARM_UP = 3.0

Service = Callable[[str, float, random.Random], float]
"""How long a request takes at a replica, by the time at which it starts there."""


def usual(dice: random.Random) -> float:
    return dice.lognormvariate(-5.8, 0.3)


@dataclass
class Machine:
    """One replica: eight slots, a queue, and times of freezing in which nothing at all happens."""

    name: str
    service: Service
    dice: random.Random
    frozen: tuple[float, float] = (0.0, 0.0)
    received: int = 0
    free: int = 8
    waiting: dict[Copy, None] = field(default_factory=dict)
    served: dict[Copy, asyncio.TimerHandle] = field(default_factory=dict)

    def send(self, copy: Copy) -> None:
        self.received += 1
        if self.free:
            self._serve(copy)
        else:
            self.waiting[copy] = None

    def withdraw(self, copy: Copy) -> None:
        if copy in self.served:
            self.served.pop(copy).cancel()
            self._next()
        else:
            del self.waiting[copy]

    def _serve(self, copy: Copy) -> None:
        self.free -= 1
        loop = asyncio.get_running_loop()
        start, end = self.frozen
        until = loop.time() + self.service(self.name, loop.time(), self.dice)
        if until > start and loop.time() < end:
            until = end + max(0.0, until - max(start, loop.time()))
        self.served[copy] = loop.call_at(until, self._answer, copy)

    def _answer(self, copy: Copy) -> None:
        del self.served[copy]
        self._next()
        copy.answered(Answer.of(Reply(200, (), b"")))

    def _next(self) -> None:
        self.free += 1
        if self.waiting:
            copy = next(iter(self.waiting))
            del self.waiting[copy]
            self._serve(copy)

    def tick(self, now: float) -> None:
        """Nothing grows old here."""

    async def close(self) -> None:
        """Nothing is open."""


class Figures(NamedTuple):
    p50: float
    p99: float
    p999: float
    worst: float
    extra: float
    good: int
    sent: int
    events: dict[HedgeEvent, int]
    denials: dict[Denial, int]
    ejections: int


async def simulate(
    service: Service,
    *,
    hedge: float | None,
    frozen: tuple[float, float] = (0.0, 0.0),
    seconds: float = 20.0,
    rate: float = RATE,
    timeout: float = 10.0,
    seed: int = 11,
    warm_up: float = WARM_UP,
) -> Figures:
    loop = asyncio.get_running_loop()
    started = loop.time()
    dice = random.Random(seed)
    board, selection, metrics = RouteBoard(), Selection(), RouterMetrics(CollectorRegistry())
    frozen_at = (started + frozen[0], started + frozen[1])
    machines = {
        name: Machine(
            name,
            lambda name, now, dice: service(name, now - started, dice),
            random.Random(f"{name}{seed}"),
            frozen_at if name == "A" else (0.0, 0.0),
        )
        for name in "ABC"
    }
    upstreams = Upstreams({Wire.REST: lambda address: machines[address.replica]})
    board.watch(selection.retain)
    board.watch(upstreams.retain)
    board.swap(
        RouteTable(
            order=Order(1, 1),
            models={M: ModelRoute(M, Serving.only(1), (VersionRoute(1, tuple(machines)),))},
            replicas={name: ReplicaAddress(name, "job", "local", "1", "", "", "") for name in machines},
            keys={KEY: ApiKey(KEY, "t", Role.DEVELOPER)},
        )
    )
    budgets = Budgets(BudgetScale(hedge_share=SHARE), now=started)
    hedging = Hedging(selection, hedge)
    forwarder = Forwarder(
        Means(
            board,
            Gate(board, Admission(10_000), Wishes(), metrics),
            upstreams,
            Course(selection, hedging, budgets, Latencies(SHARE), Rules(), random.Random(seed + 1)),
            AnswerChoice(board, metrics, asyncio.get_running_loop().time),
            [CountsAttempts(metrics)],
        )
    )
    took: list[float] = []
    missed = 0

    async def request(came: float) -> None:
        nonlocal missed
        asked = Awaited(Wire.REST, Operation.INFER, NO_ENVELOPE)
        asked.api_key, asked.model, asked.request_id, asked.deadline = KEY, "m", b"id", came + timeout
        try:
            await forwarder.forward(asked)
        except DeadlineExceeded:
            missed += 1
        if came - started >= warm_up:
            took.append(loop.time() - came)

    count = 0
    async with asyncio.TaskGroup() as requests:
        while loop.time() - started < seconds:
            requests.create_task(request(loop.time()))
            count += 1
            await asyncio.sleep(dice.expovariate(rate))
    selection.validate()
    budgets.validate()
    took.sort()
    return Figures(
        p50=_at(took, 0.5),
        p99=_at(took, 0.99),
        p999=_at(took, 0.999),
        worst=took[-1],
        extra=sum(machine.received for machine in machines.values()) / count - 1.0,
        good=count - missed,
        sent=count,
        events=dict(hedging.events),
        denials=dict(hedging.denials),
        ejections=sum(selection.ejections.values()),
    )


def _at(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def healthy(_: str, __: float, dice: random.Random) -> float:
    return usual(dice)


def stragglers(_: str, __: float, dice: random.Random) -> float:
    return 0.2 if dice.random() < 0.01 else usual(dice)


def one_slow(name: str, _: float, dice: random.Random) -> float:
    return usual(dice) + (0.05 if name == "A" else 0.0)


def all_slow(_: str, now: float, dice: random.Random) -> float:
    return usual(dice) * (10.0 if now >= 4.0 else 1.0)


async def test_one_percent_of_stragglers() -> None:
    without = await simulate(stragglers, hedge=0.0, seconds=7.0)
    with_hedges = await simulate(stragglers, hedge=ADAPTIVE, seconds=15.0)
    assert without.p999 >= 0.2
    assert with_hedges.p999 <= without.p999 / 10
    assert with_hedges.p50 <= without.p50 * 1.02
    assert 0.0 < with_hedges.extra <= 0.02
    # What is withdrawn is the straggler: the twin has won about as often as there was one.
    assert with_hedges.events[HedgeEvent.WON] >= 0.005 * with_hedges.sent


async def test_one_of_three_is_slower_by_fifty_milliseconds() -> None:
    """Choosing does it; hedges catch the trials that find out whether it is well again."""
    normal = await simulate(healthy, hedge=ADAPTIVE, seconds=7.0)
    hurt = await simulate(one_slow, hedge=ADAPTIVE, seconds=12.0)
    assert hurt.p99 <= 2.0 * normal.p99
    assert hurt.p999 <= 0.03
    assert hurt.extra <= SHARE + 10 / hurt.sent
    assert hurt.ejections > 0


async def test_all_replicas_become_ten_times_slower() -> None:
    """At 90 % of what they can still do, more copies would only lengthen the queues."""
    without = await simulate(all_slow, hedge=0.0, rate=700.0, seconds=6.0, timeout=0.15)
    with_hedges = await simulate(all_slow, hedge=ADAPTIVE, rate=700.0, seconds=6.0, timeout=0.15)
    assert with_hedges.sent == without.sent
    assert with_hedges.good >= without.good
    assert with_hedges.extra <= SHARE + 10 / with_hedges.sent
    assert with_hedges.p99 <= 1.1 * without.p99
    assert with_hedges.denials[Denial.OVERLOADED] > 10 * with_hedges.events[HedgeEvent.SENT]


async def test_one_of_three_freezes_for_two_seconds() -> None:
    without = await simulate(healthy, hedge=0.0, frozen=(4.0, 6.0), seconds=7.0)
    with_hedges = await simulate(healthy, hedge=ADAPTIVE, frozen=(4.0, 6.0), seconds=9.0)
    # Without hedges those it had are stuck, and no more: nobody is sent to a replica that has stopped answering.
    assert without.worst >= 1.9
    assert without.p99 <= 0.01
    assert with_hedges.worst <= 0.05
    assert with_hedges.p999 <= 0.02
    assert with_hedges.extra <= SHARE + 20 / with_hedges.sent


async def test_the_delay_is_not_lowered_by_its_own_hedges() -> None:
    """A tenth of the requests is slow, far more than the budget: the tail's beginning stays with the slow ones."""

    def often(_: str, __: float, dice: random.Random) -> float:
        return 0.05 if dice.random() < 0.1 else usual(dice)

    hurt = await simulate(often, hedge=ADAPTIVE, seconds=7.0)
    assert hurt.extra <= SHARE + 10 / hurt.sent
    assert hurt.p99 >= 0.05


async def test_a_bad_spell_does_not_keep_hedges_away() -> None:
    """Everything takes ten times as long for a while. Seconds later stragglers are overtaken as if it had not been."""

    def spell(_: str, now: float, dice: random.Random) -> float:
        if now < 5.0:
            return usual(dice) * 10.0
        return 0.2 if now > 10.0 and dice.random() < 0.01 else usual(dice)

    hurt = await simulate(spell, hedge=ADAPTIVE, seconds=20.0, warm_up=10.0)
    assert hurt.p999 <= 0.03
    assert hurt.extra <= 0.02
