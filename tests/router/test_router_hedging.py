"""When a second copy is due, and why it is not sent."""

import random

import pytest

from berth.ids import VersionKey
from berth.model import ReplicaAddress
from router.core.attempts import Attempts, Denial, Rules
from router.core.budget import Budget
from router.core.hedging import ADAPTIVE, HedgeEvent, Hedging, Unarmed
from router.core.latency import Latencies, LatencyLine
from router.core.selection import CopyOutcome, Selection

V1, V2 = VersionKey("t", "m", 1), VersionKey("t", "m", 2)


def at(name: str, zone: str = "", cell: str = "local") -> ReplicaAddress:
    return ReplicaAddress(name, "job", cell, "1", "", "", "", zone)


A, B, C = at("A"), at("B"), at("C")


def learned(seconds: float = 0.01) -> LatencyLine:
    line = Latencies(0.1).line(V1, 0, 0.0)
    assert line is not None
    for _ in range(100):
        line.record(0.0, seconds)
    line.refresh(1.0)
    return line


def new_line() -> LatencyLine:
    line = Latencies(0.1).line(V1, 0, 0.0)
    assert line is not None
    return line


@pytest.mark.parametrize(
    ("delay", "line", "allowed", "replicas", "expected"),
    [
        (ADAPTIVE, learned(), True, 3, 0.01),
        (ADAPTIVE, learned(), True, 1, Unarmed.ALONE),
        (ADAPTIVE, learned(), False, 3, Unarmed.ASKED),
        (ADAPTIVE, new_line(), True, 3, Unarmed.NO_HISTORY),
        (ADAPTIVE, None, True, 3, Unarmed.NO_HISTORY),
        (ADAPTIVE, learned(0.0002), True, 3, 0.001),
        (0.0, learned(), True, 3, Unarmed.OFF),
        (0.05, new_line(), True, 3, 0.05),
        (0.05, None, True, 3, 0.05),
        (0.05, learned(), True, 1, Unarmed.ALONE),
        (0.05, learned(), False, 3, Unarmed.ASKED),
    ],
)
def test_when_a_twin_is_due(
    delay: float | None, line: LatencyLine | None, allowed: bool, replicas: int, expected: float | Unarmed
) -> None:
    hedging = Hedging(Selection(), delay)
    armed = hedging.arm(line, allowed=allowed, replicas=replicas)
    if isinstance(expected, Unarmed):
        assert armed is None
        assert hedging.unarmed == {expected: 1}
    else:
        assert armed == pytest.approx(expected, rel=0.13)


class Rig:
    def __init__(self, candidates: list[ReplicaAddress], reserve: float = 100.0) -> None:
        self.candidates = candidates
        self.selection = Selection()
        self.hedging = Hedging(self.selection)
        budget = Budget(share=0.0, floor=0.0, reserve=reserve)
        self.attempts = Attempts(Rules(), budget, deadline=10.0, idempotent=True, hedge_after=0.1)
        self.attempts.began(candidates[0])

    def twin(self, now: float = 1.0, current: VersionKey = V1, seed: int = 0) -> ReplicaAddress | Denial:
        first = self.candidates[0]
        return self.hedging.twin(
            self.attempts, first, (V1, current), self.candidates, now=now, dice=random.Random(seed)
        )


def test_a_twin_goes_to_another_replica_and_is_counted() -> None:
    rig = Rig([A, B])
    assert rig.twin() == B
    assert rig.hedging.events == {HedgeEvent.SENT: 1}
    assert rig.hedging.denials == {}


@pytest.mark.parametrize("seed", range(20))
def test_a_twin_prefers_another_zone(seed: int) -> None:
    assert Rig([at("A", "z1"), at("B", "z1"), at("C", "z2"), at("D", "z1")]).twin(seed=seed) == at("C", "z2")
    # Where nobody has said what the zones are, cells are.
    assert Rig([at("A"), at("B"), at("C", cell="far")]).twin(seed=seed) == at("C", cell="far")


def test_a_twin_stays_in_the_zone_where_there_is_no_other() -> None:
    assert Rig([at("A", "z1"), at("B", "z1")]).twin() == at("B", "z1")


def denied(rig: Rig, **how: object) -> Denial:
    reason = rig.twin(**how)  # type: ignore[arg-type]
    assert isinstance(reason, Denial)
    assert rig.hedging.denials == {reason: 1}
    assert HedgeEvent.SENT not in rig.hedging.events
    return reason


def test_why_a_twin_is_not_sent() -> None:
    assert denied(Rig([A])) is Denial.NO_REPLICA
    assert denied(Rig([A, B], reserve=1.0)) is Denial.BUDGET
    assert denied(Rig([A, B]), current=V2) is Denial.VERSION
    assert denied(Rig([A, B]), now=10.0) is Denial.SPENT


def test_a_request_has_one_hedge() -> None:
    rig = Rig([A, B, C])
    assert rig.twin() in (B, C)
    assert rig.twin() is Denial.SPENT
    assert rig.hedging.denials == {Denial.SPENT: 1}


def test_a_request_that_was_denied_may_get_its_twin_later() -> None:
    rig = Rig([A, B])
    rig.selection.push_back(B, until=0.0)
    rig.selection.begin(B, 0.0)(CopyOutcome.UNREACHABLE, 1.0)
    # The questions of one request are one denial.
    for now in (1.05, 1.1, 1.15):
        assert rig.twin(now=now) is Denial.NO_REPLICA
    assert rig.hedging.denials == {Denial.NO_REPLICA: 1}
    assert rig.twin(now=1.3) == B
    assert rig.hedging.events == {HedgeEvent.SENT: 1}


@pytest.mark.parametrize(
    ("denial", "waited", "expected"),
    [
        (Denial.BUDGET, 0.001, 0.005),
        (Denial.BUDGET, 0.1, 0.025),
        (Denial.NO_REPLICA, 0.1, 0.025),
        (Denial.OVERLOADED, 4.0, 1.0),
        (Denial.VERSION, 0.1, None),
        (Denial.SPENT, 0.1, None),
    ],
)
def test_when_it_asks_again(denial: Denial, waited: float, expected: float | None) -> None:
    assert Hedging.again(denial, waited) == expected


def test_the_questions_of_a_long_wait_are_few() -> None:
    waited, asked = 0.01, 0
    while waited < 30.0:
        waited += Hedging.again(Denial.BUDGET, waited) or 30.0
        asked += 1
    assert asked <= 40


@pytest.mark.parametrize(("in_hand", "times"), [(1.0, 1.0), (0.8, 1.0), (0.4, 2.0), (0.0, 4.0)])
def test_an_empty_budget_stretches_the_delay(in_hand: float, times: float) -> None:
    line = learned()
    assert line.tail is not None
    hedging = Hedging(Selection())
    assert hedging.arm(line, allowed=True, replicas=3, in_hand=in_hand) == pytest.approx(line.tail * times)
    # A delay that an operator chose is theirs.
    assert Hedging(Selection(), 0.05).arm(line, allowed=True, replicas=3, in_hand=in_hand) == 0.05


def test_no_twin_for_a_replica_that_pushes_back_until_it_no_longer_does() -> None:
    rig = Rig([A, B])
    rig.selection.begin(B, 0.0)(CopyOutcome.ANSWERED, 0.1)
    rig.selection.push_back(B, until=2.0)
    assert denied(rig, now=1.0) is Denial.NO_REPLICA
    assert rig.selection.accepting_retries([A, B], 1.0) == (A,)
    assert rig.twin(now=2.0) == B


def test_no_twin_for_a_replica_that_does_badly() -> None:
    rig = Rig([A, B])
    rig.selection.begin(B, 0.0)(CopyOutcome.UNREACHABLE, 1.0)
    assert denied(rig, now=1.1) is Denial.NO_REPLICA


@pytest.mark.parametrize(
    ("strained", "expected"), [(0, None), (1, None), (2, Denial.OVERLOADED), (3, Denial.OVERLOADED)]
)
def test_no_twin_while_most_replicas_have_more_to_do_than_usual(strained: int, expected: Denial | None) -> None:
    rig = Rig([A, B, C])
    for address in (A, B, C):
        # Known for long, and usually two under way.
        for _ in range(60):
            rig.selection.begin(address, 0.0)(CopyOutcome.ANSWERED, 0.0)
        calls = [rig.selection.begin(address, 0.0) for _ in range(2)]
        rig.selection.begin(address, 100.0)(CopyOutcome.ANSWERED, 100.0)
        for done in calls:
            done(CopyOutcome.ANSWERED, 100.0)
    for address in [C, B, A][:strained]:
        for _ in range(8):
            rig.selection.begin(address, 100.0)
    # Slow but not more loaded than usual would be just what hedging is for.
    rig.attempts = Attempts(Rules(), Budget(), deadline=200.0, idempotent=True, hedge_after=0.1)
    rig.attempts.began(A)
    assert isinstance(rig.twin(now=100.1), Denial) == (expected is not None)
    assert list(rig.hedging.denials) == ([] if expected is None else [expected])


def test_a_slow_replica_gets_a_twin_only_where_there_is_no_other() -> None:
    for candidates, expected in (([A, B, C], C), ([A, B], B)):
        rig, line = Rig(candidates), learned()
        for address in candidates:
            for _ in range(6):
                # Between twice and thrice as slow: marked, not ejected.
                seconds = 0.025 if address is B else 0.01
                rig.selection.begin(address, 1.0, line)(CopyOutcome.ANSWERED, 1.0 + seconds)
        for _ in range(6):
            rig.selection.begin(B, 2.0, line)(CopyOutcome.ANSWERED, 2.025)
        rig.selection.begin(A, 3.0, line)(CopyOutcome.ANSWERED, 3.01)
        assert [state.slow for state in rig.selection.states(3.0)][:2] == [False, True]
        assert rig.twin(now=3.1) == expected


def test_no_twin_while_most_replicas_are_slower_than_usual() -> None:
    rig, line = Rig([A, B, C]), learned()
    for address in (A, B, C):
        for _ in range(5):
            rig.selection.begin(address, 1.0, line)(CopyOutcome.ANSWERED, 1.1)
    assert denied(rig, now=1.2) is Denial.OVERLOADED
