"""The attempts of one request, and the budget they share."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import DeadlineExceeded, Unavailable
from berth.ids import VersionKey
from berth.model import ReplicaAddress
from router.core.attempts import Attempts, Denial, Failure, GiveUp, PassOn, Pause, Rules, Send
from router.core.budget import Budget
from router.core.routes import router_of
from router.core.selection import ReplicaPlace

V1, V2 = VersionKey("t", "m", 1), VersionKey("t", "m", 2)
A, B, C = (ReplicaAddress(name, "job", "local", "1", "", "", "") for name in "ABC")
UNREACHED, NOT_STARTED, BROKEN = Failure.UNREACHED, Failure.NOT_STARTED, Failure.BROKEN


def attempts(
    *, hedge: float | None = None, idempotent: bool = True, reserve: float = 100.0, deadline: float = 10.0
) -> Attempts:
    budget = Budget(share=0.0, floor=0.0, reserve=reserve)
    return Attempts(Rules(), budget, deadline=deadline, idempotent=idempotent, hedge_after=hedge)


@pytest.mark.parametrize(
    ("failures", "idempotent", "reserve", "expected"),
    [
        ([], True, 0.0, Send((A, B, C))),
        # What never began is sent again whatever the budget and the request.
        ([UNREACHED], False, 0.0, Send((B, C))),
        ([UNREACHED, UNREACHED], False, 0.0, Send((C,))),
        ([NOT_STARTED], False, 0.0, Send((B, C))),
        ([NOT_STARTED, UNREACHED], False, 0.0, Send((C,))),
        # What may have begun needs a request that bears it, budget, and is done once.
        ([BROKEN], True, 1.0, Send((B, C))),
        ([BROKEN], True, 0.5, Unavailable),
        ([BROKEN], False, 100.0, Unavailable),
        ([UNREACHED, BROKEN], True, 1.0, Send((C,))),
        ([BROKEN, UNREACHED], True, 1.0, Send((C,))),
        ([BROKEN, BROKEN], True, 100.0, Unavailable),
        # All tried: a breath, then again.
        ([UNREACHED, UNREACHED, UNREACHED], True, 0.0, Pause(0.02)),
    ],
)
def test_what_follows_failures(
    failures: list[Failure], idempotent: bool, reserve: float, expected: Send | Pause | type[Exception]
) -> None:
    plan = attempts(idempotent=idempotent, reserve=reserve)
    for failure, address in zip(failures, (A, B, C), strict=False):
        assert isinstance(plan.next_step(0.0, (A, B, C)), Send)
        plan.began(address)
        plan.failed(failure)
    step = plan.next_step(0.0, (A, B, C))
    if isinstance(expected, type):
        assert isinstance(step, GiveUp)
        assert isinstance(step.error, expected)
    else:
        assert step == expected


EAST, WEST = router_of("east", "e:1", "e:2"), router_of("west", "w:1", "w:2")


@pytest.mark.parametrize(
    ("failures", "candidates", "expected"),
    [
        ([], (A,), Send((A,))),
        ([UNREACHED], (A, B), Send((B,))),
        # All of this cell have been tried, or there are none.
        ([UNREACHED], (A,), PassOn((EAST, WEST))),
        ([NOT_STARTED], (A,), PassOn((EAST, WEST))),
        ([BROKEN], (A,), PassOn((EAST, WEST))),
        ([], (), PassOn((EAST, WEST))),
        ([UNREACHED], (), PassOn((WEST,))),
        ([UNREACHED, UNREACHED], (A,), PassOn((WEST,))),
        # Nobody is left: a breath, then all again.
        ([UNREACHED, UNREACHED, UNREACHED], (A,), Pause(0.02)),
        ([UNREACHED, NOT_STARTED], (), Pause(0.02)),
        ([BROKEN, BROKEN], (), Unavailable),
    ],
)
def test_what_is_passed_on(
    failures: list[Failure], candidates: tuple[ReplicaAddress, ...], expected: Send | Pause | type[Exception]
) -> None:
    plan = attempts()
    for failure in failures:
        step = plan.next_step(0.0, candidates, (EAST, WEST))
        assert isinstance(step, Send | PassOn)
        plan.began(step.among[0])
        plan.failed(failure)
    step = plan.next_step(0.0, candidates, (EAST, WEST))
    if isinstance(expected, type):
        assert isinstance(step, GiveUp)
        assert isinstance(step.error, expected)
    else:
        assert step == expected


def test_after_a_pause_the_own_cell_comes_first_again() -> None:
    plan = attempts()
    for address in (A, EAST):
        plan.began(address)
        plan.failed(UNREACHED)
    assert plan.next_step(0.0, (A,), (EAST,)) == Pause(0.02)
    assert plan.next_step(0.02, (A,), (EAST,)) == Send((A,))


def test_pauses_grow_and_patience_ends() -> None:
    plan = attempts()
    now, pauses = 0.0, []
    while isinstance(step := plan.next_step(now, (A,)), Send | Pause):
        if isinstance(step, Pause):
            pauses.append(step.until - now)
            now = step.until
        else:
            plan.began(A)
            plan.failed(UNREACHED)
    assert isinstance(step, GiveUp)
    assert isinstance(step.error, Unavailable)
    assert now == pytest.approx(1.0)
    assert pauses[:4] == pytest.approx([0.02, 0.04, 0.08, 0.16])
    assert max(pauses) <= 0.2 + 1e-9


def test_a_pause_is_not_paid_twice() -> None:
    plan = attempts(reserve=1.0)
    plan.began(A)
    plan.failed(BROKEN)
    assert isinstance(plan.next_step(0.0, (A,)), Pause)
    assert isinstance(plan.next_step(0.02, (A,)), Send)


def test_a_replica_that_came_back_counts_as_another() -> None:
    plan = attempts()
    plan.began(A)
    plan.failed(UNREACHED)
    reborn = ReplicaAddress("A", "job", "local", "2", "", "", "")
    assert plan.next_step(0.0, (reborn,)) == Send((reborn,))


def test_nothing_is_sent_after_the_deadline() -> None:
    plan = attempts(deadline=1.0, hedge=0.1)
    plan.began(A)
    assert plan.hedge(1.0, V1, V1, (A, B)) is Denial.SPENT
    plan.failed(UNREACHED)
    step = plan.next_step(1.0, (A, B))
    assert isinstance(step, GiveUp)
    assert isinstance(step.error, DeadlineExceeded)


@pytest.mark.parametrize(
    ("hedge", "idempotent", "candidates", "expected"),
    [(None, True, (A, B), None), (0.1, False, (A, B), None), (0.1, True, (A,), None), (0.1, True, (A, B), 0.1)],
)
def test_when_a_hedge_is_armed(
    hedge: float | None, idempotent: bool, candidates: tuple[ReplicaAddress, ...], expected: float | None
) -> None:
    assert attempts(hedge=hedge, idempotent=idempotent).hedge_delay(candidates) == expected


def test_a_hedge_goes_elsewhere_with_the_same_version_and_only_once() -> None:
    plan = attempts(hedge=0.1)
    plan.began(A)
    assert plan.hedge(0.1, V1, V2, (A, B)) is Denial.VERSION
    assert plan.hedge(0.1, V1, V1, (A,)) is Denial.NO_REPLICA
    assert plan.hedge(0.1, V1, V1, (A, B)) == Send((B,))
    plan.began(B)
    assert plan.hedge(0.2, V1, V1, (A, B, C)) is Denial.SPENT
    assert plan.hedge_delay((A, B, C)) is None


def test_what_may_not_be_repeated_or_paid_for_is_not_hedged() -> None:
    unsafe = attempts(hedge=0.1, idempotent=False)
    unsafe.began(A)
    assert unsafe.hedge(0.1, V1, V1, (A, B)) is Denial.SPENT
    poor = attempts(hedge=0.1, reserve=1.0)
    poor.began(A)
    assert poor.hedge(0.1, V1, V1, (A, B)) is Denial.BUDGET


def test_hedges_leave_half_of_the_reserve_to_retries() -> None:
    budget = Budget(share=0.0, floor=0.0, reserve=10.0)
    assert sum(budget.take_hedge(0.0) for _ in range(20)) == 5
    assert sum(budget.take_retry(0.0) for _ in range(20)) == 5


@given(
    st.lists(st.tuples(st.sampled_from(["request", "hedge", "retry"]), st.floats(0.0, 2.0)), max_size=300),
    st.floats(0.0, 1.0),
    st.floats(0.0, 20.0),
    st.floats(1.0, 50.0),
)
def test_extra_copies_stay_in_budget(
    steps: list[tuple[str, float]], share: float, floor: float, reserve: float
) -> None:
    budget = Budget(share=share, floor=floor, reserve=reserve)
    now, requests, extra = 0.0, 0, 0
    for what, passed in steps:
        now += passed
        if what == "request":
            requests += 1
            budget.deposit(now)
        else:
            extra += budget.take_hedge(now) if what == "hedge" else budget.take_retry(now)
        assert extra <= share * requests + floor * now + reserve + 1e-6
        assert 0 <= budget.tokens <= reserve


@given(
    st.integers(0, 2**32),
    st.booleans(),
    st.floats(0.0, 3.0),
    st.lists(st.sampled_from([(), (A,), (A, B), (A, B, C)]), min_size=1),
    st.sampled_from([(), (EAST,), (EAST, WEST)]),
)
def test_every_request_ends_and_breaks_at_most_two_copies(
    seed: int,
    idempotent: bool,
    reserve: float,
    tables: list[tuple[ReplicaAddress, ...]],
    beyond: tuple[ReplicaAddress, ...],
) -> None:
    """Whatever fails however, with whatever tables: bounded attempts, no replica twice in a round, and an end."""
    rng = random.Random(seed)
    plan = attempts(idempotent=idempotent, reserve=reserve, hedge=0.01, deadline=5.0)
    now, broken, round_, sent = 0.0, 0, set[ReplicaPlace](), 0
    for turn in range(500):
        candidates = tables[turn % len(tables)]
        step = plan.next_step(now, candidates, beyond)
        if isinstance(step, GiveUp):
            break
        if isinstance(step, Pause):
            assert now < step.until <= 5.0
            now = step.until if rng.random() < 0.8 else now
            round_.clear()
            continue
        if isinstance(step, PassOn):
            assert set(map(ReplicaPlace.of, candidates)) <= round_
        twins = [rng.choice(step.among)]
        plan.began(twins[0])
        if (
            isinstance(step, Send)
            and plan.hedge_delay(candidates) is not None
            and isinstance(more := plan.hedge(now, V1, V1, candidates), Send)
        ):
            twins.append(rng.choice(more.among))
            plan.began(twins[1])
        for address in twins:
            assert ReplicaPlace.of(address) not in round_
            round_.add(ReplicaPlace.of(address))
            failure = rng.choice(list(Failure))
            broken += failure is BROKEN
            plan.failed(failure)
            sent += 1
    else:
        pytest.fail("the request never ended")
    assert now <= 1.0 + 1e-9
    assert plan.sent == sent
    # A hedge may be under way while the first copy breaks, and be lost as well.
    assert broken <= (3 if idempotent else 1)
