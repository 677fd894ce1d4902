"""The race of one request, without a clock or a connection: facts in, steps out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.errors import DeadlineExceeded, Unavailable
from berth.ids import VersionKey
from berth.model import ReplicaAddress
from router.core import race as steps
from router.core.attempts import Failure, Rules
from router.core.budget import Budgets
from router.core.hedging import HedgeEvent, Hedging
from router.core.latency import Latencies
from router.core.race import Course, Race, Runner
from router.core.routes import Resolved, router_of
from router.core.selection import CopyOutcome, Selection

KEY = VersionKey("t", "m", 1)
DEADLINE = 10.0
REPLICAS = {name: ReplicaAddress(name, "job", "local", "1", "", "", "") for name in "ABC"}
BEYOND = router_of("X", "", "")


class First:
    """Dice that always pick the first of the candidates."""

    def random(self) -> float:
        return 0.0


def resolved(replicas: Sequence[str], *, beyond: bool = False) -> Resolved:
    return Resolved(KEY, tuple(REPLICAS[name] for name in replicas), None, beyond=(BEYOND,) if beyond else ())


@dataclass
class World:
    """A race and who carries out what it says. `now` is told, never read."""

    replicas: str = "AB"
    hedge: float = 0.1
    idempotent: bool = True
    tied: bool = False
    beyond: bool = False
    now: float = 0.0
    race: Race = field(init=False)
    hedge_at: float = steps.NO_TWIN
    sent: list[Runner] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.selection = Selection()
        self.hedging = Hedging(self.selection, self.hedge)
        self.course = Course(
            self.selection, self.hedging, Budgets(now=0.0), Latencies(0.015), Rules(), First(), tied=self.tied
        )
        self.table = resolved(self.replicas, beyond=self.beyond)
        self.race = Race(
            self.course,
            self.table,
            0.0,
            size=10,
            deadline=DEADLINE,
            idempotent=self.idempotent,
            infer=True,
            hedge=True,
        )

    def start(self) -> int:
        return self.carry_out(self.race.start(self.now))

    def carry_out(self, step: int) -> int:
        """Withdraw the losers, send what is to be sent, and look again if that is wanted."""
        self.race.losers = None
        if step == steps.SEND:
            runner = Runner(self.race.to, self.race.servable, self.race.twin)
            self.hedge_at = self.race.enters(runner, self.now) or self.hedge_at
            self.sent.append(runner)
        elif step == steps.LOOK_AGAIN:
            return self.carry_out(self.race.again(self.table, self.now))
        self.race.validate()
        under_way = [self.selection.outstanding(address) for address in (*REPLICAS.values(), BEYOND)]
        assert sum(under_way) == len(self.race.runners), "the end of every copy is told once"
        return step

    def answered(self, runner: Runner, answer: object = "answer", *, faulty: bool = False) -> int:
        return self.carry_out(self.race.answered(runner, answer, self.now, faulty=faulty, pushback=None))

    def failed(self, runner: Runner, failure: Failure, *, repeatable: bool = True) -> int:
        return self.carry_out(self.race.failed(runner, failure, self.now, pushback=None, repeatable=repeatable))

    def with_twin(self) -> tuple[Runner, Runner]:
        self.start()
        self.now = 0.1
        assert self.race.may_want_twin
        assert self.carry_out(self.race.hedge_due(self.table, self.now)) == steps.SEND
        first, twin = self.sent
        return first, twin

    def counted(self, event: HedgeEvent) -> int:
        return self.hedging.events.get(event, 0)


def names(runners: Sequence[Runner]) -> str:
    return "".join(runner.address.replica for runner in runners)


def test_the_usual_request() -> None:
    world = World()
    assert world.start() == steps.SEND
    [runner] = world.sent
    assert (runner.servable, runner.twin) == ("t~m~1", False)
    assert world.hedge_at == pytest.approx(0.1)
    assert world.answered(runner) == steps.ANSWER
    assert (world.race.answer, world.race.by, runner.outcome) == ("answer", "A", CopyOutcome.ANSWERED)


@pytest.mark.parametrize(
    ("who", "faulty", "step", "won", "other"),
    [
        ("A", False, steps.ANSWER, 0, CopyOutcome.LOST),
        ("B", False, steps.ANSWER, 1, CopyOutcome.LOST),
        ("A", True, steps.WAIT, 0, None),
        ("B", True, steps.WAIT, 0, None),
    ],
)
def test_the_first_good_answer_wins(who: str, faulty: bool, step: int, won: int, other: CopyOutcome | None) -> None:
    world = World()
    first, twin = world.with_twin()
    one, two = (first, twin) if who == "A" else (twin, first)
    assert world.answered(one, faulty=faulty) == step
    assert (two.outcome, world.counted(HedgeEvent.WON), world.counted(HedgeEvent.RECALLED)) == (
        other,
        won,
        int(step != steps.WAIT),
    )


@pytest.mark.parametrize("later", ["good", "bad", "broken"])
def test_a_bad_answer_counts_when_the_other_does_no_better(later: str) -> None:
    world = World()
    first, twin = world.with_twin()
    assert world.answered(twin, "bad", faulty=True) == steps.WAIT
    if later == "broken":
        assert world.failed(first, Failure.BROKEN) == steps.ANSWER
        assert (world.race.answer, world.race.by) == ("bad", "B")
    else:
        assert world.answered(first, later, faulty=later == "bad") == steps.ANSWER
        assert (world.race.answer, world.race.by) == (later, "A")
        assert world.counted(HedgeEvent.WASTED) == 1


def test_an_answer_that_begins_has_won() -> None:
    world = World()
    first, twin = world.with_twin()
    assert world.race.begins(twin, world.now, faulty=False) == steps.PASS_THROUGH
    assert world.race.losers == [first]
    world.carry_out(steps.WAIT)
    assert (first.outcome, twin.outcome, names(world.race.runners)) == (CopyOutcome.LOST, None, "B")
    assert world.answered(twin) == steps.END


def test_a_bad_answer_does_not_win_by_beginning() -> None:
    world = World()
    first, twin = world.with_twin()
    assert world.race.begins(twin, world.now, faulty=True) == steps.WAIT
    assert (first.outcome, twin.begun) == (None, False)
    world.failed(first, Failure.BROKEN)
    assert world.race.begins(twin, world.now, faulty=True) == steps.PASS_THROUGH


def test_what_has_begun_is_not_repeated() -> None:
    world = World()
    world.start()
    world.race.begins(world.sent[0], world.now, faulty=False)
    assert world.failed(world.sent[0], Failure.BROKEN) == steps.BREAK
    assert (world.race.by, len(world.sent)) == ("A", 1)


@pytest.mark.parametrize(
    ("starts", "withdrawn", "outcome"), [("A", "B", CopyOutcome.OTHER), ("B", "A", CopyOutcome.LOST)]
)
def test_of_tied_copies_the_one_that_starts_stays(starts: str, withdrawn: str, outcome: CopyOutcome) -> None:
    world = World(tied=True)
    first, twin = world.with_twin()
    assert world.race.tied
    world.carry_out(world.race.begins_to_run(first if starts == "A" else twin, world.now))
    loser = twin if withdrawn == "B" else first
    assert (names(world.race.runners), loser.outcome) == (starts, outcome)


def test_one_that_started_is_not_withdrawn_for_the_other() -> None:
    world = World(tied=True)
    world.start()
    world.carry_out(world.race.begins_to_run(world.sent[0], world.now))
    world.now = 0.1
    world.carry_out(world.race.hedge_due(world.table, world.now))
    world.carry_out(world.race.begins_to_run(world.sent[1], world.now))
    assert names(world.race.runners) == "AB"


def test_a_version_that_has_changed_gets_no_twin() -> None:
    world = World()
    world.start()
    newer = Resolved(VersionKey("t", "m", 2), world.table.replicas, None)
    assert world.race.hedge_due(newer, 0.1) == steps.WAIT


def test_what_was_not_reached_goes_elsewhere_then_beyond() -> None:
    world = World(beyond=True)
    world.start()
    for _ in "ABX":
        assert world.failed(world.sent[-1], Failure.UNREACHED) in (steps.SEND, steps.PAUSE)
    assert [(runner.address.replica, runner.servable) for runner in world.sent] == [
        ("A", "t~m~1"),
        ("B", "t~m~1"),
        ("cell:X", ""),
    ]
    assert world.race.until > world.now


def test_a_stream_that_cannot_be_sent_again_is_given_up() -> None:
    world = World(idempotent=False)
    world.start()
    assert world.failed(world.sent[0], Failure.UNREACHED, repeatable=False) == steps.GIVE_UP
    assert isinstance(world.race.error, Unavailable)


@pytest.mark.parametrize("begun", [False, True])
def test_the_deadline(begun: bool) -> None:
    world = World()
    first, twin = world.with_twin()
    if begun:
        world.race.begins(first, world.now, faulty=False)
        world.carry_out(steps.WAIT)
    step = world.race.expire(DEADLINE)
    assert step == (steps.BREAK if begun else steps.GIVE_UP)
    assert world.race.by == "A"
    assert {runner.outcome for runner in (first, twin)} == {CopyOutcome.LOST}
    assert begun or isinstance(world.race.error, DeadlineExceeded)


FACTS = st.sampled_from(
    ["good", "bad", "unreached", "not_started", "broken", "begins", "begins_bad", "starts", "hedge", "pause"]
)


@settings(max_examples=300)
@given(
    facts=st.lists(st.tuples(FACTS, st.integers(0, 1)), max_size=25),
    replicas=st.sampled_from(["", "A", "AB", "ABC"]),
    idempotent=st.booleans(),
    tied=st.booleans(),
    last=st.sampled_from(["expire", "abandon"]),
)
def test_whatever_happens(facts: list[tuple[str, int]], replicas: str, idempotent: bool, tied: bool, last: str) -> None:
    """The parts never contradict each other, and no copy is left behind."""
    world = World(replicas, idempotent=idempotent, tied=tied, beyond=not replicas)
    step = world.start()
    over = {steps.ANSWER, steps.END, steps.BREAK, steps.GIVE_UP}
    for fact, which in facts:
        if step in over:
            break
        world.now += 0.05
        runners = world.race.runners
        if not runners:
            assert step == steps.PAUSE
            step = world.carry_out(world.race.again(world.table, world.now))
            continue
        runner = runners[which % len(runners)]
        if fact in ("good", "bad"):
            step = world.answered(runner, fact, faulty=fact == "bad")
        elif fact in ("unreached", "not_started", "broken"):
            step = world.failed(runner, Failure(fact))
        elif fact in ("begins", "begins_bad") and not runner.begun:
            step = world.race.begins(runner, world.now, faulty=fact == "begins_bad")
            world.carry_out(steps.WAIT)
        elif fact == "starts":
            step = world.carry_out(world.race.begins_to_run(runner, world.now))
        elif fact == "hedge" and world.race.may_want_twin and not runner.begun:
            step = world.carry_out(world.race.hedge_due(world.table, world.now))
    if step not in over:
        if last == "expire":
            world.carry_out(world.race.expire(world.now))
        else:
            world.race.abandon(world.now)
            world.carry_out(steps.WAIT)
    assert not world.race.runners
    assert all(runner.outcome is not None for runner in world.sent)
    assert sum(runner.twin for runner in world.sent) <= 1
    world.selection.validate()
