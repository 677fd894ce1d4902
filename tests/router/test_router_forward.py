"""Races, repeats and withdrawals, on virtual time: each copy of a request meets a (delay, outcome)."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from berth.auth.keys import digest
from berth.errors import BerthError, DeadlineExceeded, NotFound, RateLimited, Unavailable
from berth.ids import ModelKey, VersionKey
from berth.model import ApiKey, ModelRoute, Order, ReplicaAddress, RouteTable, Serving, TenantLimits, VersionRoute
from berth.states import Role
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.control.wishes import Wishes
from router.core.admission import Admission
from router.core.attempts import Denial, Failure, Rules
from router.core.budget import Budgets, BudgetScale
from router.core.hedging import Hedging
from router.core.latency import Latencies
from router.core.paths import Operation
from router.core.race import Course
from router.core.routes import router_of
from router.core.selection import Dice, Selection
from router.path import meeting
from router.path.answer import Answer, Reply
from router.path.answering.answering import AnswerChoice
from router.path.gate import Gate
from router.path.race.forward import Awaited, Forwarder
from router.path.race.means import Means
from router.path.request import NO_ENVELOPE, Wire
from router.path.upstream.pools import Upstreams
from router.path.watchers.counts import CountsAttempts

pytestmark = pytest.mark.looptime

KEY = digest("key")
M = ModelKey("t", "m")
UNREACHED, NOT_STARTED, BROKEN = Failure.UNREACHED, Failure.NOT_STARTED, Failure.BROKEN
OK, FAULTY = 200, 503

Row = tuple[float, int | Failure]
"""Seconds until the outcome: a status, or the failure to bring one."""


@dataclass
class Copy:
    replica: str
    servable: str
    began: float
    timeout: float
    ended: float | None = None
    withdrawn: bool = False


@dataclass
class World:
    """Replicas that answer by rows, consumed one a copy; the last row of a replica repeats."""

    rows: dict[str, list[Row]]
    copies: list[Copy] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    one_closed: asyncio.Event = field(default_factory=asyncio.Event)
    on_copy: Callable[[Copy], None] = lambda _: None

    def open(self, address: ReplicaAddress) -> "Scripted":
        return Scripted(self, f"{address.replica}-{address.incarnation}", address.replica)


@dataclass
class Scripted:
    world: World
    place: str
    replica: str

    under_way: dict[meeting.Copy, tuple[Copy, asyncio.TimerHandle]] = field(default_factory=dict)

    def send(self, copy: meeting.Copy) -> None:
        loop = asyncio.get_running_loop()
        seen = Copy(self.replica, copy.servable, loop.time(), copy.seconds_left())
        self.world.copies.append(seen)
        self.world.on_copy(seen)
        rows = self.world.rows[self.replica]
        delay, outcome = rows.pop(0) if len(rows) > 1 else rows[0]
        self.under_way[copy] = seen, loop.call_later(delay, self._end, copy, outcome)

    def _end(self, copy: meeting.Copy, outcome: int | Failure) -> None:
        seen, _ = self.under_way.pop(copy)
        seen.ended = now()
        if isinstance(outcome, Failure):
            copy.failed(outcome, "scripted")
            return
        reply = Reply(outcome, (("berth-replica", self.replica),), copy.request.body, faulty=outcome >= 500)
        copy.answered(Answer.of(reply))

    def withdraw(self, copy: meeting.Copy) -> None:
        seen, timer = self.under_way.pop(copy)
        timer.cancel()
        seen.withdrawn = True
        seen.ended = now()

    def tick(self, now: float) -> None:
        """Nothing grows old here."""

    async def close(self) -> None:
        assert all(copy.ended is not None for copy in self.world.copies if copy.replica == self.replica)
        self.world.closed.append(self.place)
        self.world.one_closed.set()


OTHERS = {cell: router_of(cell, "", "") for cell in ("X", "Y")}


def table(
    replicas: Sequence[str],
    *,
    version: int = 1,
    generation: int = 1,
    limits: Sequence[TenantLimits] = (),
    elsewhere: tuple[str, ...] = (),
) -> RouteTable:
    return RouteTable(
        order=Order(1, generation),
        models={
            M: ModelRoute(
                M,
                Serving.only(version),
                (VersionRoute(version, tuple(replicas)),),
                elsewhere={version: elsewhere},
            )
        },
        replicas={name: ReplicaAddress(name, "job", "local", "1", "", "", "") for name in replicas},
        keys={KEY: ApiKey(KEY, "t", Role.DEVELOPER)},
        limits={entry.tenant: entry for entry in limits},
    )


class First:
    """Dice that always pick the first of the candidates."""

    def random(self) -> float:
        return 0.0


@asynccontextmanager
async def forwarding(
    world: World,
    routes: RouteTable,
    *,
    hedge: float | None = 0.0,
    budgets: Budgets | None = None,
    dice: Dice | None = None,
) -> AsyncIterator[Forwarder]:
    board, selection = RouteBoard(OTHERS), Selection()
    upstreams = Upstreams({Wire.REST: world.open})
    board.watch(selection.retain)
    board.watch(upstreams.retain)
    board.swap(routes)
    metrics = RouterMetrics(CollectorRegistry())
    gate = Gate(board, Admission(100), Wishes(), metrics)
    budget = budgets or Budgets(now=asyncio.get_running_loop().time())
    forwarder = Forwarder(
        Means(
            board,
            gate,
            upstreams,
            Course(selection, Hedging(selection, hedge), budget, Latencies(0.015), Rules(), dice or First()),
            AnswerChoice(board, metrics, asyncio.get_running_loop().time),
            [CountsAttempts(metrics)],
        )
    )
    closer = asyncio.create_task(upstreams.run())
    try:
        yield forwarder
    finally:
        assert all(copy.ended is not None for copy in world.copies), "a copy was left behind"
        assert (gate.admission.under_way, gate.admission.queued, gate.admission.held) == (0, 0, 0)
        places = (*board.table.replicas.values(), *OTHERS.values())
        assert all(selection.outstanding(address) == 0 for address in places)
        selection.validate()
        gate.admission.validate()
        closer.cancel()
        await asyncio.wait([closer])


def call(*, timeout: float = 10.0, idempotent: bool = True, version: str = "") -> Awaited:
    deadline = asyncio.get_running_loop().time() + timeout
    asked = Awaited(Wire.REST, Operation.INFER, NO_ENVELOPE)
    asked.api_key, asked.model, asked.version, asked.body, asked.request_id = KEY, "m", version, b"body", b"id"
    asked.deadline, asked.idempotent = deadline, idempotent
    return asked


def now() -> float:
    return asyncio.get_running_loop().time()


ANSWERS = [
    # rows of A (always the first pick) and B, hedge delay -> who answers, status, when, copies sent, withdrawn
    ("plain", [(0.5, OK)], [(0.5, OK)], 0.0, "A", OK, 0.5, "A", ""),
    ("no hedge before its time", [(0.09, OK)], [(0.0, OK)], 0.1, "A", OK, 0.09, "A", ""),
    ("the hedge wins", [(5.0, OK)], [(0.2, OK)], 0.1, "B", OK, 0.3, "AB", "A"),
    ("the first wins after all", [(0.25, OK)], [(0.2, OK)], 0.1, "A", OK, 0.25, "AB", "B"),
    ("the first fails, its twin answers", [(0.15, BROKEN)], [(0.2, OK)], 0.1, "B", OK, 0.3, "AB", ""),
    ("the twin fails, the first answers", [(0.5, OK)], [(0.1, BROKEN)], 0.1, "A", OK, 0.5, "AB", ""),
    ("a twin that knows no better does not win", [(0.5, OK)], [(0.1, FAULTY)], 0.1, "A", OK, 0.5, "AB", ""),
    ("a bad answer is better than none", [(0.5, BROKEN)], [(0.1, FAULTY)], 0.1, "B", FAULTY, 0.5, "AB", ""),
    ("two bad answers: the later stands", [(0.5, FAULTY)], [(0.1, FAULTY)], 0.1, "A", FAULTY, 0.5, "AB", ""),
    ("a bad answer alone is passed on", [(0.05, FAULTY)], [(0.1, OK)], 0.1, "A", FAULTY, 0.05, "A", ""),
    ("unreached is repeated elsewhere", [(0.1, UNREACHED)], [(0.2, OK)], 0.0, "B", OK, 0.3, "AB", ""),
    ("not started is repeated elsewhere", [(0.1, NOT_STARTED)], [(0.2, OK)], 0.0, "B", OK, 0.3, "AB", ""),
    ("broken is repeated elsewhere", [(0.1, BROKEN)], [(0.2, OK)], 0.0, "B", OK, 0.3, "AB", ""),
    ("all refuse, then one is back", [(0.0, UNREACHED), (0.1, OK)], [(0.0, UNREACHED)], 0.0, "A", OK, 0.12, "ABA", ""),
]


@pytest.mark.parametrize(
    ("a", "b", "hedge", "winner", "status", "when", "sent", "withdrawn"),
    [row[1:] for row in ANSWERS],
    ids=[row[0] for row in ANSWERS],
)
async def test_who_answers_and_when(
    *, a: list[Row], b: list[Row], hedge: float, winner: str, status: int, when: float, sent: str, withdrawn: str
) -> None:
    world = World({"A": list(a), "B": list(b)})
    async with forwarding(world, table("AB"), hedge=hedge) as forwarder:
        started = now()
        reply = await forwarder.forward(call())
        assert (reply.status, dict(reply.headers)["berth-replica"], reply.body) == (status, winner, b"body")
        assert now() - started == pytest.approx(when, abs=1e-3)
        assert "".join(copy.replica for copy in world.copies) == sent
        assert "".join(copy.replica for copy in world.copies if copy.withdrawn) == withdrawn
        assert {copy.servable for copy in world.copies} == {"t~m~1"}


@pytest.mark.parametrize(
    ("rows", "timeout", "idempotent", "error", "when"),
    [
        ([(30.0, OK)], 2.0, True, DeadlineExceeded, 2.0),
        ([(0.0, UNREACHED)], 10.0, True, Unavailable, 1.0),
        ([(0.0, UNREACHED)], 0.5, True, DeadlineExceeded, 0.5),
        ([(0.1, BROKEN)], 10.0, True, Unavailable, 0.2),
        ([(0.1, BROKEN)], 10.0, False, Unavailable, 0.1),
        ([(0.0, NOT_STARTED)], 10.0, False, Unavailable, 1.0),
    ],
)
async def test_when_nobody_answers(
    rows: list[Row], timeout: float, idempotent: bool, error: type[BerthError], when: float
) -> None:
    world = World({"A": list(rows), "B": list(rows)})
    async with forwarding(world, table("AB")) as forwarder:
        started = now()
        with pytest.raises(error) as refused:
            await forwarder.forward(call(timeout=timeout, idempotent=idempotent))
        assert now() - started == pytest.approx(when, abs=0.05)
        assert all(name not in refused.value.detail for name in ("A ", "B ", "'A'", "t~m"))


async def test_a_loser_has_ended_before_the_answer_is_given() -> None:
    world = World({"A": [(5.0, OK)], "B": [(0.1, OK)]})
    async with forwarding(world, table("AB"), hedge=0.1) as forwarder:
        await forwarder.forward(call())
        assert all(copy.ended is not None for copy in world.copies)


@pytest.mark.parametrize("at", [0.0, 0.05, 0.1, 0.15, 0.31, 0.33, 0.36, 0.5])
async def test_a_client_that_leaves_takes_its_copies_along(at: float) -> None:
    """Cancelled before the first copy, during it, in the race, in the pause, in the repeat."""
    world = World({"A": [(0.3, UNREACHED), (9.0, OK)], "B": [(0.2, UNREACHED), (9.0, OK)]})
    async with forwarding(world, table("AB"), hedge=0.1) as forwarder:
        request = asyncio.create_task(forwarder.forward(call()))
        await asyncio.wait([request], timeout=at)
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()


async def test_the_deadline_is_passed_on_less_what_was_used() -> None:
    world = World({"A": [(0.4, UNREACHED)], "B": [(0.1, OK)]})
    async with forwarding(world, table("AB")) as forwarder:
        await forwarder.forward(call(timeout=2.0))
        assert [round(copy.timeout, 2) for copy in world.copies] == [2.0, 1.6]


async def test_a_repeat_goes_by_the_newest_table() -> None:
    world = World({"A": [(0.1, NOT_STARTED)], "C": [(0.1, OK)]})
    async with forwarding(world, table("A")) as forwarder:
        world.on_copy = lambda _: forwarder.means.board.swap(table("C", version=2, generation=2))
        reply = await forwarder.forward(call())
        assert reply.status == OK
        assert [(copy.replica, copy.servable) for copy in world.copies] == [("A", "t~m~1"), ("C", "t~m~2")]


async def test_a_new_table_ends_the_wait() -> None:
    world = World({"A": [(0.0, UNREACHED)], "B": [(0.0, OK)]})
    async with forwarding(world, table("A")) as forwarder:
        started = now()
        asyncio.get_running_loop().call_later(0.35, forwarder.means.board.swap, table("", generation=2))
        asyncio.get_running_loop().call_later(0.43, forwarder.means.board.swap, table("B", generation=3))
        await forwarder.forward(call())
        assert now() - started == pytest.approx(0.43, abs=1e-3)


async def test_a_model_that_goes_away_while_waiting_is_not_found() -> None:
    world = World({"A": [(0.0, UNREACHED)]})
    async with forwarding(world, table("A")) as forwarder:
        gone = RouteTable(order=Order(1, 2), keys=forwarder.means.board.table.keys)
        asyncio.get_running_loop().call_later(0.3, forwarder.means.board.swap, gone)
        with pytest.raises(NotFound):
            await forwarder.forward(call())


async def test_no_hedge_to_another_version() -> None:
    world = World({"A": [(0.5, OK)], "B": [(0.1, OK)]})
    async with forwarding(world, table("AB"), hedge=0.1) as forwarder:
        world.on_copy = lambda _: forwarder.means.board.swap(table("AB", version=2, generation=2))
        await forwarder.forward(call())
        assert [copy.replica for copy in world.copies] == ["A"]


@pytest.mark.parametrize("slow", [0.05, 5.0])
async def test_hedges_stay_in_budget_when_everything_is_slow(slow: float) -> None:
    names = "ABC"
    world = World({name: [(slow, OK)] for name in names})
    scale = BudgetScale(share=0.1, hedge_share=0.1, floor=0.0, reserve=20.0, hedge_floor=0.0, hedge_reserve=20.0)
    budgets = Budgets(scale, now=now())
    async with forwarding(world, table(names), hedge=0.01, budgets=budgets, dice=random.Random(1)) as forwarder:
        for _ in range(30):
            await asyncio.gather(*(forwarder.forward(call()) for _ in range(10)))
        extra = len(world.copies) - 300
        assert 10 <= extra <= 300 * 0.1 + 20


async def test_a_twin_that_was_denied_is_sent_when_there_are_tokens_again() -> None:
    world = World({"A": [(5.0, OK)], "B": [(0.2, OK)]})
    # One token at once, and the next one two seconds after that was taken.
    budgets = Budgets(BudgetScale(share=0.5, hedge_share=0.0, floor=0.0, hedge_floor=0.5, hedge_reserve=1.0), now=now())
    assert budgets.account(VersionKey("t", "m", 1)).take_hedge(now())
    async with forwarding(world, table("AB"), hedge=0.1, budgets=budgets) as forwarder:
        assert (await forwarder.forward(call())).status == OK
        first, twin = world.copies
        assert (first.replica, first.withdrawn, twin.replica) == ("A", True, "B")
        assert 2.0 <= twin.began - first.began <= 2.5
        assert forwarder.means.course.hedging.denials == {Denial.BUDGET: 1}


async def test_a_client_that_leaves_asks_for_no_twin_any_more() -> None:
    world = World({"A": [(5.0, OK)], "B": [(0.2, OK)]})
    budgets = Budgets(BudgetScale(share=0.5, hedge_share=0.0, floor=0.0, hedge_floor=0.5, hedge_reserve=1.0), now=now())
    assert budgets.account(VersionKey("t", "m", 1)).take_hedge(now())
    async with forwarding(world, table("AB"), hedge=0.1, budgets=budgets) as forwarder:
        asking = asyncio.create_task(forwarder.forward(call()))
        await asyncio.wait([asking], timeout=0.5)
        asking.cancel()
        await asyncio.wait([asking])
        # Two seconds would have brought the token that it waited for.
        long_after = asyncio.Event()
        asyncio.get_running_loop().call_later(4.0, long_after.set)
        await long_after.wait()
        assert [(copy.replica, copy.withdrawn) for copy in world.copies] == [("A", True)]
        assert repr(forwarder.means.clocks.hedges) == "<Wheel items=0 buckets=0>"


async def test_a_killed_replica_costs_no_request() -> None:
    """All under way on A break at once, and A refuses from then on: B answers them all."""
    breaking: list[Row] = [(0.5, BROKEN)] * 15
    world = World({"A": [*breaking, (0.0, UNREACHED)], "B": [(0.1, OK)]})
    async with forwarding(world, table("AB"), dice=random.Random(3)) as forwarder:
        for _ in range(10):
            replies = await asyncio.gather(*(forwarder.forward(call()) for _ in range(20)))
            assert {reply.status for reply in replies} == {OK}


async def test_a_tenant_over_its_limit_waits() -> None:
    world = World({"A": [(1.0, OK)]})
    async with forwarding(world, table("A", limits=[TenantLimits("t", max_concurrent=2)])) as forwarder:
        results = await asyncio.gather(*(forwarder.forward(call()) for _ in range(4)), return_exceptions=True)
        assert [type(result) for result in results] == [Reply, Reply, RateLimited, RateLimited]


async def test_pools_close_when_table_and_requests_have_let_go() -> None:
    world = World({"A": [(1.0, OK)], "B": [(0.1, OK)]})
    async with forwarding(world, table("AB")) as forwarder:
        slow = asyncio.create_task(forwarder.forward(call()))
        await asyncio.wait([slow], timeout=0.1)
        forwarder.means.board.swap(table("B", generation=2))
        await forwarder.forward(call())
        assert world.closed == []
        await slow
        async with asyncio.timeout(1.0):
            await world.one_closed.wait()
        assert world.closed == ["A-1"]
    assert world.closed == ["A-1", "B-1"]


async def test_without_a_table_nobody_is_told_anything() -> None:
    world = World({})
    async with forwarding(world, table("")) as forwarder:
        forwarder.means.board = RouteBoard()
        forwarder.means.gate = Gate(forwarder.means.board, Admission(1), Wishes(), RouterMetrics(CollectorRegistry()))
        with pytest.raises(Unavailable, match="no routes yet"):
            await forwarder.forward(call())


# Other cells


async def passes(seconds: float) -> None:
    """So much virtual time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


PASSED_ON = [
    # rows of A, of the cells X and Y (in order of preference), hedge delay -> who answers, status, when, copies sent
    ("the own cell first", [(0.1, OK)], [], [], 0.0, "A", OK, 0.1, "A"),
    ("the own cell is slow: no second copy there", [(0.5, OK)], [(0.0, OK)], [], 0.1, "A", OK, 0.5, "A"),
    ("unreached goes on without a pause", [(0.1, UNREACHED)], [(0.2, OK)], [], 0.0, "X", OK, 0.3, "AX"),
    ("so does what was not started", [(0.1, NOT_STARTED)], [(0.2, OK)], [], 0.0, "X", OK, 0.3, "AX"),
    ("so does what broke", [(0.1, BROKEN)], [(0.2, OK)], [], 0.0, "X", OK, 0.3, "AX"),
    ("what was passed on is not hedged", [(0.0, UNREACHED)], [(0.5, OK)], [(0.0, OK)], 0.1, "X", OK, 0.5, "AX"),
    ("the next cell", [(0.1, UNREACHED)], [(0.2, UNREACHED)], [(0.1, OK)], 0.0, "Y", OK, 0.4, "AXY"),
    ("a cell that knows no better", [(0.1, UNREACHED)], [(0.2, NOT_STARTED)], [(0.1, OK)], 0.0, "Y", OK, 0.4, "AXY"),
    ("a bad answer is one", [(0.1, UNREACHED)], [(0.2, FAULTY)], [(0.1, OK)], 0.0, "X", FAULTY, 0.3, "AX"),
    ("a cell that breaks costs a retry", [(0.1, UNREACHED)], [(0.2, BROKEN)], [(0.1, OK)], 0.0, "Y", OK, 0.4, "AXY"),
    (
        "nobody, and then the own one again",
        [(0.1, UNREACHED), (0.1, OK)], [(0.1, UNREACHED)], [(0.1, UNREACHED)], 0.0, "A", OK, 0.42, "AXYA",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "hedge", "winner", "status", "when", "sent"),
    [((a, x, y), *rest) for _, a, x, y, *rest in PASSED_ON],
    ids=[row[0] for row in PASSED_ON],
)
async def test_who_answers_when_another_cell_may(
    rows: tuple[list[Row], list[Row], list[Row]], hedge: float, winner: str, status: int, when: float, sent: str
) -> None:
    own, *others = ([*row] for row in rows)
    world = World({"A": own, **{f"cell:{cell}": row for cell, row in zip("XY", others, strict=True)}})
    elsewhere = tuple(cell for cell, row in zip("XY", others, strict=True) if row)
    async with forwarding(world, table(["A"], elsewhere=elsewhere), hedge=hedge) as forwarder:
        began = now()
        reply = await forwarder.forward(call())
        assert reply.status == status
        assert now() - began == pytest.approx(when, abs=0.002)
        assert str(dict(reply.headers)["berth-replica"]).removeprefix("cell:") == winner
        assert "".join(copy.replica.removeprefix("cell:") for copy in world.copies) == sent
        assert all(bool(copy.servable) is (copy.replica == "A") for copy in world.copies)


async def test_a_cell_that_rests_is_asked_last() -> None:
    world = World({"cell:X": [(0.1, UNREACHED)], "cell:Y": [(0.1, OK)]})
    async with forwarding(world, table([], elsewhere=("X", "Y"))) as forwarder:
        for _ in range(3):
            assert (await forwarder.forward(call())).status == OK
        assert [copy.replica[-1] for copy in world.copies] == list("XYYY"[:4])
        await passes(1.0)
        assert (await forwarder.forward(call())).status == OK
        assert [copy.replica[-1] for copy in world.copies] == list("XYYYXY")


async def test_a_version_that_comes_meanwhile_is_answered_here_again() -> None:
    world = World({"A": [(0.1, OK)], "cell:X": [(0.1, OK)]})
    async with forwarding(world, table([], elsewhere=("X",))) as forwarder:
        assert dict((await forwarder.forward(call())).headers)["berth-replica"] == "cell:X"
        forwarder.means.board.swap(table(["A"], elsewhere=("X",), generation=2))
        assert dict((await forwarder.forward(call())).headers)["berth-replica"] == "A"


async def test_latencies_of_another_cell_teach_nothing() -> None:
    world = World({"cell:X": [(0.1, OK)]})
    async with forwarding(world, table([], elsewhere=("X",)), hedge=None) as forwarder:
        for _ in range(50):
            await forwarder.forward(call())
        line = forwarder.means.course.latencies.line(VersionKey("t", "m", 1), len(b"body"), now())
        assert line is not None
        assert (line.typical, line.tail) == (None, None)
        assert not any(forwarder.means.course.hedging.events.values())


async def test_what_must_not_be_repeated_is_not_when_a_cell_breaks() -> None:
    world = World({"cell:X": [(0.1, BROKEN)], "cell:Y": [(0.1, OK)]})
    async with forwarding(world, table([], elsewhere=("X", "Y"))) as forwarder:
        with pytest.raises(Unavailable, match="lost before it answered"):
            await forwarder.forward(call(idempotent=False))


async def test_a_client_that_leaves_withdraws_what_was_passed_on() -> None:
    world = World({"cell:X": [(5.0, OK)]})
    async with forwarding(world, table([], elsewhere=("X",))) as forwarder:
        asked = asyncio.ensure_future(forwarder.forward(call()))
        await passes(0.1)
        asked.cancel()
        await asyncio.wait([asked])
        assert [copy.withdrawn for copy in world.copies] == [True]
