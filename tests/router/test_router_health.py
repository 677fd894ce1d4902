"""Who is judged unfit, for how long, and how it comes back."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.ids import VersionKey
from berth.model import ReplicaAddress
from router.core.health import FIRST_EJECTION, RAMP, TRIALS, Health
from router.core.latency import Latencies, LatencyLine
from router.core.selection import Cause, CopyOutcome, ReplicaPlace, Selection

V = VersionKey("t", "m", 1)
OLD = 100.0
"""Long after the slow start of those that were there at 0."""


def addresses(count: int, job: str = "job", zones: str = "") -> list[ReplicaAddress]:
    places = zones or " " * count
    return [ReplicaAddress(f"r{n}", job, "local", "1", "", "", "", places[n].strip()) for n in range(count)]


@pytest.fixture
def line() -> LatencyLine:
    """Typically 10 ms."""
    line = Latencies(0.1).line(V, 0, 0.0)
    assert line is not None
    for _ in range(100):
        line.record(0.0, 0.01)
    line.refresh(1.0)
    return line


def known(count: int, **how: str) -> tuple[Selection, list[ReplicaAddress]]:
    """Replicas that have been there for long."""
    selection, candidates = Selection(), addresses(count, **how)
    selection.pick(candidates, 0.0, random.Random(0))
    selection.validate()
    return selection, candidates


def serve(
    selection: Selection, address: ReplicaAddress, line: LatencyLine, now: float, *, times: int, takes: float
) -> None:
    for _ in range(times):
        selection.begin(address, now, line)(CopyOutcome.ANSWERED, now + takes)


def picks(selection: Selection, candidates: list[ReplicaAddress], now: float, count: int = 600) -> Counter[str]:
    dice = random.Random(9)
    return Counter(selection.pick(candidates, now, dice).replica for _ in range(count))


def standing(selection: Selection, address: ReplicaAddress, now: float) -> str:
    [state] = [state for state in selection.states(now) if state.replica == address.replica]
    return state.standing


def test_a_slower_replica_is_picked_less_and_tried_again_later(line: LatencyLine) -> None:
    selection, candidates = known(3)
    serve(selection, candidates[0], line, OLD, times=2, takes=0.06)
    assert picks(selection, candidates, OLD + 0.1)["r0"] == 0
    # Others are busy: it takes part as soon as it is no worse than they are.
    for address in candidates[1:]:
        for _ in range(4):
            selection.begin(address, OLD + 5.0)
    assert picks(selection, candidates, OLD + 5.0)["r0"] > 300


def test_the_heavy_model_does_not_make_its_replica_look_slow(line: LatencyLine) -> None:
    selection, candidates = known(2)
    heavy = Latencies(0.1).line(V, 0, 0.0)
    assert heavy is not None
    for _ in range(100):
        heavy.record(0.0, 1.0)
    heavy.refresh(1.0)
    for _ in range(20):
        serve(selection, candidates[0], heavy, OLD, times=1, takes=1.0)
        serve(selection, candidates[1], line, OLD, times=1, takes=0.01)
    shares = picks(selection, candidates, OLD + 2.0)
    assert abs(shares["r0"] - shares["r1"]) < 200


def test_one_straggler_does_not_empty_a_replica(line: LatencyLine) -> None:
    selection, candidates = known(2)
    serve(selection, candidates[0], line, OLD, times=1, takes=2.0)
    for _ in range(4):
        selection.begin(candidates[1], OLD + 2.0)
    assert picks(selection, candidates, OLD + 2.0)["r0"] == 600
    assert standing(selection, candidates[0], OLD + 2.0) == "fit"


def test_silence_counts_before_anything_is_reported(line: LatencyLine) -> None:
    """A frozen process: one request waits there for ten times the usual, nothing else is known."""
    selection, candidates = known(2)
    selection.begin(candidates[0], OLD, line)
    for _ in range(5):
        selection.begin(candidates[1], OLD)
    assert picks(selection, candidates, OLD + 0.01)["r0"] == 600
    assert picks(selection, candidates, OLD + 0.1)["r0"] == 0


def test_a_newcomer_comes_to_its_share_slowly() -> None:
    selection, candidates = known(3)
    newcomer = ReplicaAddress("r9", "job", "local", "1", "", "", "")
    shares = [picks(selection, [*candidates, newcomer], OLD + age, 4000)["r9"] for age in (0.0, RAMP / 2, RAMP)]
    assert 50 < shares[0] < 200
    assert 400 < shares[1] < 600
    assert 900 < shares[2] < 1100


def test_all_are_new_when_the_router_is_and_share_evenly() -> None:
    assert all(count > 120 for count in picks(Selection(), addresses(3), 0.0).values())


@pytest.mark.parametrize(
    ("failing", "ejected"), [([0], [0]), ([0, 1], [0]), ([0, 1, 2], []), ([], [])], ids=["one", "two", "all", "none"]
)
def test_failing_alone_ejects_failing_together_does_not(failing: list[int], ejected: list[int]) -> None:
    """The others' answers say whose fault it is: a model that is broken fails everywhere."""
    selection, candidates = known(5 if failing == [0, 1] else 3)
    for _ in range(8):
        for index, address in enumerate(candidates):
            selection.begin(address, OLD)(CopyOutcome.FAULTY if index in failing else CopyOutcome.ANSWERED, OLD)
    out = [index for index, address in enumerate(candidates) if standing(selection, address, OLD) == "ejected"]
    if failing == [0, 1]:
        # A median of five is not moved by two.
        assert out == [0, 1]
    else:
        assert out == ejected
    assert selection.ejections.get(Cause.FAILURES, 0) == len(out)
    selection.validate()


def test_requests_lost_in_a_row_eject(line: LatencyLine) -> None:
    selection, candidates = known(3)
    for _ in range(5):
        selection.begin(candidates[0], OLD, line)(CopyOutcome.LOST, OLD + 0.05)
    assert standing(selection, candidates[0], OLD) == "ejected"
    assert "r0" not in picks(selection, candidates, OLD + 0.9)


def slow_one(selection: Selection, candidates: list[ReplicaAddress], line: LatencyLine, now: float) -> None:
    """Eight requests each: the first replica is five times slower."""
    for index, address in enumerate(candidates):
        serve(selection, address, line, now, times=8, takes=0.01 if index else 0.05)
    # The next request finds that a review is due.
    selection.begin(candidates[1], now + 1.0)(CopyOutcome.OTHER, now + 1.0)


def test_a_clearly_slower_replica_is_ejected(line: LatencyLine) -> None:
    selection, candidates = known(3)
    slow_one(selection, candidates, line, OLD)
    assert standing(selection, candidates[0], OLD + 1.0) == "ejected"
    assert selection.ejections == {Cause.SLOW: 1}
    assert selection.fit_for_extra(candidates, candidates[1], OLD + 1.0) == (candidates[2],)


def test_when_all_are_slow_none_is_ejected(line: LatencyLine) -> None:
    selection, candidates = known(3)
    for address in candidates:
        serve(selection, address, line, OLD, times=20, takes=0.1)
    slow_one(selection, candidates, line, OLD + 10.0)
    assert selection.ejections == {}


def test_a_lone_replica_is_never_ejected(line: LatencyLine) -> None:
    selection, candidates = known(1)
    selection.begin(candidates[0], 0.0)(CopyOutcome.ANSWERED, 0.0)
    for _ in range(20):
        selection.begin(candidates[0], OLD)(CopyOutcome.FAULTY, OLD)
    assert standing(selection, candidates[0], OLD) == "fit"


def back(selection: Selection, address: ReplicaAddress, now: float) -> float:
    [state] = [state for state in selection.states(now) if state.replica == address.replica]
    return now + state.returns_in + 1e-6


def test_probation_is_one_request_at_a_time_and_ends_well(line: LatencyLine) -> None:
    selection, candidates = known(3)
    slow_one(selection, candidates, line, OLD)
    now = back(selection, candidates[0], OLD + 1.0)
    for _ in range(TRIALS):
        assert 0 < picks(selection, candidates, now, 1000)["r0"] < 150
        done = selection.begin(candidates[0], now, line)
        assert standing(selection, candidates[0], now) == "probation"
        assert picks(selection, candidates, now)["r0"] == 0
        done(CopyOutcome.ANSWERED, now + 0.01)
        now += 0.1
    assert standing(selection, candidates[0], now) == "fit"
    # Slowly: what made it unfit may have been its load.
    assert 0 < picks(selection, candidates, now, 1000)["r0"] < 150
    assert picks(selection, candidates, now + RAMP, 1000)["r0"] > 250
    selection.validate()


@pytest.mark.parametrize("how", [CopyOutcome.FAULTY, CopyOutcome.LOST, CopyOutcome.UNREACHABLE, CopyOutcome.ANSWERED])
def test_a_failed_trial_doubles_the_ejection(line: LatencyLine, how: CopyOutcome) -> None:
    selection, candidates = known(3)
    slow_one(selection, candidates, line, OLD)
    now, length = back(selection, candidates[0], OLD + 1.0), FIRST_EJECTION
    for _ in range(7):
        for _ in range(TRIALS):
            # A trial that answers is a failure too if it is still as slow.
            selection.begin(candidates[0], now, line)(how, now + 0.1)
            if standing(selection, candidates[0], now + 0.1) == "ejected":
                break
        length = min(2 * length, 30.0)
        assert back(selection, candidates[0], now + 0.1) == pytest.approx(now + 0.1 + length)
        now += 0.1 + length
    assert selection.ejections[Cause.TRIAL] == 7


def test_a_client_that_leaves_decides_no_trial(line: LatencyLine) -> None:
    selection, candidates = known(3)
    slow_one(selection, candidates, line, OLD)
    now = back(selection, candidates[0], OLD + 1.0)
    for _ in range(TRIALS + 1):
        selection.begin(candidates[0], now, line)(CopyOutcome.OTHER, now)
    assert standing(selection, candidates[0], now) == "probation"


def test_when_a_table_takes_the_fit_ones_away_the_rest_comes_back(line: LatencyLine) -> None:
    selection, candidates = known(5)
    for index in (0, 1):
        for _ in range(6):
            selection.begin(candidates[index], OLD)(CopyOutcome.FAULTY, OLD)
    assert sum(standing(selection, address, OLD) == "ejected" for address in candidates) == 2
    selection.retain({ReplicaPlace.of(address) for address in candidates[:3]})
    selection.begin(candidates[2], OLD)
    assert sum(standing(selection, address, OLD) == "ejected" for address in candidates[:3]) == 1
    selection.validate()


@pytest.mark.parametrize(("busy", "near"), [(0, 600), (1, 600), (4, 0)])
def test_the_own_zone_is_preferred_until_it_has_twice_the_load(busy: int, near: int) -> None:
    selection, candidates = Selection("z1"), addresses(3, zones="123")
    candidates = [ReplicaAddress(a.replica, a.job, a.cell, "1", "", "", "", f"z{a.zone}") for a in candidates]
    selection.pick(candidates, 0.0, random.Random(0))
    for _ in range(busy):
        selection.begin(candidates[0], OLD)
    assert picks(selection, candidates, OLD)["r0"] == near


def test_a_zone_without_replicas_is_no_obstacle() -> None:
    selection, candidates = Selection("elsewhere"), addresses(3, zones="123")
    assert all(count > 120 for count in picks(selection, candidates, OLD).values())


def test_what_left_the_table_is_forgotten_and_may_still_end(line: LatencyLine) -> None:
    selection, candidates = known(2)
    done = selection.begin(candidates[0], OLD, line)
    selection.retain({ReplicaPlace.of(candidates[1])})
    done(CopyOutcome.LOST, OLD + 1.0)
    assert [state.replica for state in selection.states(OLD)] == ["r1"]
    selection.validate()


def test_pace_decays_to_normal() -> None:
    health = Health(0.0)
    for _ in range(3):
        health.began(0.0, 0.01)
        health.answered(0.0, 0.1, 0.01)
        health.ended()
    assert health.pace_at(0.0) == pytest.approx(10.0)
    assert health.pace_at(2.0) == pytest.approx(1 + 9 / 2.718, rel=0.01)
    assert health.pace_at(60.0) == pytest.approx(1.0)
    health.validate()


moves = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "retain", "push", *CopyOutcome]),
        st.integers(0, 4),
        st.sampled_from([0.0, 0.001, 0.02, 0.6, 40.0]),
    ),
    max_size=120,
)


@given(moves, st.integers(0, 2**16))
@settings(max_examples=200)
def test_whatever_happens_someone_answers_and_half_stay(script: list[tuple[object, int, float]], seed: int) -> None:
    selection, candidates, dice = Selection(), addresses(5), random.Random(seed)
    line = Latencies(0.1).line(V, 0, 0.0)
    assert line is not None
    for _ in range(100):
        line.record(0.0, 0.01)
    line.refresh(1.0)
    now, open_copies = 1.0, []
    for what, index, passed in script:
        now += passed
        if what == "begin":
            address = selection.pick(candidates, now, dice)
            assert address in candidates
            open_copies.append(selection.begin(address, now, line, twin=bool(index % 2)))
        elif what == "retain":
            selection.retain({ReplicaPlace.of(address) for address in candidates if address is not candidates[index]})
        elif what == "push":
            selection.push_back(candidates[index], now + passed)
        elif open_copies:
            assert isinstance(what, CopyOutcome)
            open_copies.pop(index % len(open_copies))(what, now)
        selection.validate()
        assert set(selection.fit_for_extra(candidates, candidates[0], now)) <= set(candidates[1:])
        assert all(state.load > 0 and state.outstanding >= 0 for state in selection.states(now))
    for done in open_copies:
        done(CopyOutcome.OTHER, now)
    assert all(state.outstanding == 0 for state in selection.states(now))


def test_a_silent_replica_is_suspected_of_versions_without_history_too() -> None:
    """Ten thousand versions, each asked for now and then: what one replica does not answer, others are not sent."""
    selection, candidates = known(3)
    stuck = candidates[0]
    for number in range(60):
        selection.begin(candidates[number % 3], OLD + number)(CopyOutcome.ANSWERED, OLD + number + 0.02)
    now = OLD + 100.0
    for address in candidates:
        for _ in range(2):
            selection.begin(address, now)
    assert picks(selection, candidates, now + 0.01)[stuck.replica] > 100
    for address in candidates[1:]:
        selection.begin(address, now)(CopyOutcome.ANSWERED, now + 0.02)
    # The others go on answering; nothing has come from this one for five times as long as anything took.
    assert picks(selection, candidates, now + 0.1)[stuck.replica] == 0


def test_a_version_that_is_slow_by_nature_is_no_suspicion(line: LatencyLine) -> None:
    selection, candidates = known(2)
    for address in candidates:
        # 3 s now and then is what it is used to.
        selection.begin(address, OLD)(CopyOutcome.ANSWERED, OLD + 3.0)
    now = OLD + 10.0
    selection.begin(candidates[0], now)
    assert [state.pace for state in selection.states(now + 2.0)] == [1.0, 1.0]


def test_a_newcomer_helps_when_the_others_have_more_than_enough(line: LatencyLine) -> None:
    """Slow start spares the newcomer; it does not have the others drown."""
    selection, candidates = known(2)
    candidates = [*candidates, *(ReplicaAddress("new", "job", "local", "1", "", "", "", "") for _ in range(1))]
    assert 5 <= picks(selection, candidates, OLD)["new"] <= 120
    for address in candidates[:2]:
        for _ in range(30):
            selection.begin(address, OLD)
    assert picks(selection, candidates, OLD)["new"] >= 300
    selection.validate()
