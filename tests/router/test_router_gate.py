"""Waiting at the gate, on virtual time: for a slot, for a model, in vain, and no more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from berth.auth.keys import digest
from berth.errors import BerthError, DeadlineExceeded, NotFound, RateLimited, Unauthenticated, Unavailable
from berth.ids import ModelKey, VersionKey
from berth.model import ApiKey, ModelRoute, Order, ReplicaAddress, RouteTable, Serving, TenantLimits, VersionRoute
from berth.states import Role
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.control.wishes import Wishes
from router.core.accounts import Admitted, Bounds
from router.core.admission import Admission
from router.core.paths import Operation
from router.path.gate import Gate
from router.path.request import NO_ENVELOPE, Request, Wire

pytestmark = pytest.mark.looptime

KEYS = {tenant: digest(f"{tenant}-key") for tenant in "abc"}
GENERATIONS = iter(range(1, 10_000))


def table(*cold: str, reason: str = "loading on 1 replica", failed: bool = False) -> RouteTable:
    """Each tenant has a model m; those in `cold` are not loaded."""
    routes = {}
    for tenant in KEYS:
        key = ModelKey(tenant, "m")
        entry = VersionRoute(1, (), reason, failed) if tenant in cold else VersionRoute(1, ("w",))
        routes[key] = ModelRoute(key, Serving.only(0 if tenant in cold else 1), (entry,))
    return RouteTable(
        order=Order(1, next(GENERATIONS)),
        models=routes,
        replicas={"w": ReplicaAddress("w", "job", "local", "1", "", "", "")},
        keys={key: ApiKey(key, tenant, Role.DEVELOPER) for tenant, key in KEYS.items()},
    )


def call(
    tenant: str = "a", *, timeout: float = 60.0, operation: Operation = Operation.INFER, size: int = 10
) -> Request:
    deadline = now() + timeout
    request = Request(Wire.REST, operation, NO_ENVELOPE)
    request.api_key, request.model, request.body, request.deadline = KEYS[tenant], "m", b"x" * size, deadline
    return request


def now() -> float:
    return asyncio.get_running_loop().time()


async def passes(seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


class World:
    def __init__(self, slots: int = 1, *, queue_s: float = 5.0, hold_s: float = 5.0) -> None:
        self.registry = CollectorRegistry()
        self.board = RouteBoard()
        self.board.swap(table())
        self.wishes = Wishes()
        self.admission = Admission(slots, queue=Bounds(64, 10_000, queue_s), hold=Bounds(16, 1000, hold_s))
        self.gate = Gate(self.board, self.admission, self.wishes, RouterMetrics(self.registry))

    async def use(self, seconds: float, asked: Request) -> float:
        """Hold a slot for so long; returns when it was had."""
        slot = await self.gate.admit(asked)
        had = now()
        try:
            await passes(seconds)
        finally:
            self.gate.leave(slot)
        return had

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"berth_router_{name}", labels)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.gate.close()
    made.admission.validate()
    assert (made.admission.under_way, made.admission.queued, made.admission.held) == (0, 0, 0)


async def refusal(world: World, asked: Request) -> BerthError:
    with pytest.raises(BerthError) as caught:
        await world.use(0.0, asked)
    return caught.value


async def test_turns(world: World) -> None:
    waits = await asyncio.gather(*(world.use(0.5, call()) for _ in range(4)))
    assert waits == pytest.approx([0.0, 0.5, 1.0, 1.5], abs=1e-3)
    assert world.sample("waiting", what="slot") == 0.0


async def test_no_tenant_can_shut_another_out(world: World) -> None:
    hog = [asyncio.ensure_future(world.use(0.1, call("a", timeout=4.0))) for _ in range(30)]
    await asyncio.wait(hog, timeout=0.05)
    guest = await world.use(0.1, call("b"))
    assert guest <= 0.3
    results = await asyncio.gather(*hog, return_exceptions=True)
    assert sum(isinstance(result, float) for result in results) >= 29


@pytest.mark.parametrize(
    ("timeout", "queue_s", "error", "when"),
    [(2.0, 5.0, DeadlineExceeded, 2.0), (9.0, 3.0, Unavailable, 3.0), (9.0, 0.0, Unavailable, 0.0)],
)
async def test_time_is_up_in_the_queue(timeout: float, queue_s: float, error: type[BerthError], when: float) -> None:
    world = World(queue_s=queue_s)
    holder = await world.gate.admit(call())
    caught = await refusal(world, call("b", timeout=timeout))
    assert type(caught) is error
    assert now() == pytest.approx(when, abs=0.01)
    why = "timed_out" if when else "full"
    assert world.sample("refused_total", why=why) == 1.0
    world.gate.leave(holder)


@pytest.mark.parametrize("at", [0.0, 0.4, 0.5, 0.6])
async def test_a_client_that_leaves_takes_nothing_with_it(world: World, at: float) -> None:
    """Before its turn, in the very moment of it, and after."""
    holder = asyncio.ensure_future(world.use(0.5, call()))
    await asyncio.wait([holder], timeout=0.0)
    leaver = asyncio.ensure_future(world.use(9.0, call()))
    heir = asyncio.ensure_future(world.use(0.1, call()))
    await asyncio.wait([leaver], timeout=at)
    leaver.cancel()
    await asyncio.wait([leaver])
    assert leaver.cancelled()
    await holder
    assert await heir == pytest.approx(max(0.5, at), abs=0.01)


async def test_a_slot_given_to_a_client_that_leaves_in_the_same_moment_is_passed_on(world: World) -> None:
    holder = await world.gate.admit(call())
    leavers = [asyncio.ensure_future(world.gate.admit(call())) for _ in range(20)]
    heir = asyncio.ensure_future(world.gate.admit(call()))
    await asyncio.wait([heir], timeout=0.1)
    # The first has its slot before it learns that it is cancelled, the others are cancelled before they are offered.
    world.gate.leave(holder)
    for leaver in leavers:
        leaver.cancel()
    world.gate.leave(await heir)
    assert all(leaver.cancelled() for leaver in leavers)


async def test_a_thousand_that_left_cost_no_recursion() -> None:
    world = World()
    world.admission = Admission(1, queue=Bounds(10_000, 10**9, 60.0))
    world.gate = Gate(world.board, world.admission, world.wishes, RouterMetrics(CollectorRegistry()))
    holder = await world.gate.admit(call())
    for _ in range(3000):
        world.gate.enter(call(), lambda _: False)
    world.gate.leave(holder)
    assert (world.admission.under_way, world.admission.queued) == (0, 0)
    world.admission.validate()


async def test_a_cold_model_is_held_until_it_is_there(world: World) -> None:
    world.board.swap(table("a"))
    held = asyncio.ensure_future(world.use(0.1, call()))
    await asyncio.wait([held], timeout=1.0)
    assert world.sample("waiting", what="model") == 1.0
    # Other models go on meanwhile: a held request has no slot.
    assert await world.use(0.5, call("b")) == pytest.approx(1.0, abs=0.01)
    world.board.swap(table("a", reason="loading on 2 replicas"))
    await asyncio.wait([held], timeout=0.5)
    assert not held.done()
    world.board.swap(table())
    assert await held == pytest.approx(2.0, abs=0.01)
    assert world.sample("waiting", what="model") == 0.0


async def test_held_requests_take_turns_when_their_model_is_there(world: World) -> None:
    world.board.swap(table("a"))
    held = [asyncio.ensure_future(world.use(0.1, call())) for _ in range(5)]
    await asyncio.wait(held, timeout=1.0)
    world.board.swap(table())
    assert await asyncio.gather(*held) == pytest.approx([1.0, 1.1, 1.2, 1.3, 1.4], abs=0.01)


async def test_a_model_that_does_not_come_is_refused_with_its_progress(world: World) -> None:
    world.board.swap(table("a", reason="not loaded on any replica yet"))
    held = asyncio.ensure_future(refusal(world, call()))
    short = asyncio.ensure_future(refusal(world, call(timeout=2.0)))
    await asyncio.wait([held], timeout=1.0)
    world.board.swap(table("a", reason="loading on 1 replica"))
    deadline = await short
    assert isinstance(deadline, DeadlineExceeded)
    assert now() == pytest.approx(2.0, abs=0.01)
    assert "model 'm' version 1 is not loaded yet: loading on 1 replica" in deadline.detail
    error = await held
    assert now() == pytest.approx(5.0, abs=0.01)
    assert isinstance(error, Unavailable)
    assert error.retry_after >= 1.0
    assert error.detail == "model 'm' version 1 is not loaded yet: loading on 1 replica"
    assert world.sample("refused_total", why="cold") == 2.0


@pytest.mark.parametrize(
    ("new", "error"),
    [
        (table("a", reason="failed: bad graph", failed=True), Unavailable),
        (replace(table(), models={}), NotFound),
        (replace(table(), keys={}), Unauthenticated),
    ],
)
async def test_what_can_never_come_is_not_waited_for(world: World, new: RouteTable, error: type[BerthError]) -> None:
    world.board.swap(table("a"))
    held = asyncio.ensure_future(refusal(world, call()))
    await asyncio.wait([held], timeout=1.0)
    world.board.swap(replace(new, order=Order(1, next(GENERATIONS))))
    assert isinstance(await held, error)
    assert now() == pytest.approx(1.0, abs=0.01)
    # Nor is it from the start.
    assert isinstance(await refusal(world, call()), error)
    assert now() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("operation", [Operation.METADATA, Operation.READY])
async def test_questions_about_a_cold_model_are_answered_at_once(world: World, operation: Operation) -> None:
    world.board.swap(table("a"))
    assert isinstance(await refusal(world, call(operation=operation)), Unavailable)
    with pytest.raises(Unavailable):
        world.gate.check(operation, KEYS["a"], "m", "")
    world.gate.check(Operation.INFER, KEYS["a"], "m", "")
    assert now() == pytest.approx(0.0, abs=0.01)
    assert world.wishes.notices().take(now()) == (), "a question is no reason to load"


async def test_a_tenant_holds_no_more_than_its_share(world: World) -> None:
    world.board.swap(table("a", "b"))
    crowd = [asyncio.ensure_future(refusal(world, call("a"))) for _ in range(12)]
    await asyncio.wait(crowd, timeout=0.1)
    assert [request.done() for request in crowd].count(True) == 4, "eight of sixteen"
    large = await refusal(world, call("b", size=950))
    assert "is not loaded yet" in large.detail
    guest = asyncio.ensure_future(world.use(0.0, call("b", size=400)))
    await asyncio.wait([guest], timeout=0.1)
    assert world.admission.held == 9
    world.board.swap(table("a"))
    await guest
    await asyncio.gather(*crowd)


async def test_a_tenants_rate_comes_before_the_wait(world: World) -> None:
    limits = {"a": TenantLimits("a", requests_per_second=2.0)}
    world.board.swap(replace(table("a"), limits=limits))
    held = [asyncio.ensure_future(world.use(0.0, call())) for _ in range(2)]
    await asyncio.wait(held, timeout=0.01)
    assert isinstance(await refusal(world, call()), RateLimited)
    with pytest.raises(RateLimited):
        world.gate.check(Operation.INFER, KEYS["a"], "m", "")
    world.board.swap(replace(table(), limits=limits))
    await asyncio.gather(*held)


async def test_routers_share_a_tenants_limits(world: World) -> None:
    limits = {"a": TenantLimits("a", requests_per_second=8.0)}
    world.board.swap(replace(table(), limits=limits, routers=4))
    results = await asyncio.gather(*(world.use(0.0, call()) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, RateLimited) for result in results) == 6
    # One router more, and the part is smaller; alone, it is the whole.
    world.board.swap(replace(table(), limits=limits, routers=1))
    await passes(2.0)
    results = await asyncio.gather(*(world.use(0.0, call()) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, RateLimited) for result in results) == 2


async def test_wishes_follow_the_held(world: World) -> None:
    stream = world.wishes.notices()
    wish = world.wishes.news.waiter()
    world.board.swap(table("a", "b"))
    held = [asyncio.ensure_future(world.use(0.0, call(tenant))) for tenant in "aab"]
    await asyncio.wait(held, timeout=0.01)
    assert wish.is_due
    wanted = {VersionKey(tenant, "m", 1) for tenant in "ab"}
    assert set(stream.take(now())) == wanted
    await asyncio.wait(held, timeout=1.5)
    assert set(stream.take(now())) == wanted
    world.board.swap(table("b"))
    await asyncio.gather(*held[:2])
    await asyncio.wait(held, timeout=1.5)
    assert stream.take(now()) == (VersionKey("b", "m", 1),)
    world.board.swap(table())
    await held[2]
    await passes(1.5)
    assert stream.take(now()) == ()


async def test_without_holding_the_wish_is_told_all_the_same() -> None:
    world = World(hold_s=0.0)
    world.board.swap(table("a"))
    assert isinstance(await refusal(world, call()), Unavailable)
    assert world.wishes.notices().take(now()) == (VersionKey("a", "m", 1),)
    with pytest.raises(Unavailable):
        world.gate.check(Operation.INFER, KEYS["a"], "m", "")


async def test_answers_by_callable(world: World) -> None:
    """The way of an engine without coroutines."""
    first = world.gate.enter(call(), lambda _: False)
    assert isinstance(first, Admitted)
    told: list[Admitted | BerthError] = []

    def on_answer(answer: Admitted | BerthError) -> bool:
        told.append(answer)
        return True

    world.gate.enter(call(), on_answer)
    withdrawn = world.gate.enter(call(), on_answer)
    assert not isinstance(withdrawn, Admitted)
    world.gate.withdraw(withdrawn)
    world.gate.leave(first)
    (second,) = told
    assert isinstance(second, Admitted)
    world.gate.leave(second)
    assert len(told) == 1
