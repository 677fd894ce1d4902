"""Which replica gets a request."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.model import ReplicaAddress
from router.core.selection import FIRST_REST, LONGEST_REST, CopyOutcome, ReplicaPlace, Selection


def addresses(count: int) -> list[ReplicaAddress]:
    return [ReplicaAddress(f"r{n}", "job", "local", "1", "", "", "") for n in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_idle_replicas_share_evenly(count: int) -> None:
    selection, dice, candidates = Selection(), random.Random(7), addresses(count)
    picks = Counter(selection.pick(candidates, 0.0, dice).replica for _ in range(2000 * count))
    assert len(picks) == count
    assert all(1700 < n < 2300 for n in picks.values()), picks


def test_the_busiest_is_never_picked_and_load_evens_out() -> None:
    selection, dice, candidates = Selection(), random.Random(7), addresses(4)
    for _ in range(10):
        selection.begin(candidates[0], 0.0)
    for _ in range(200):
        assert selection.pick(candidates, 0.0, dice) is not candidates[0]
    for _ in range(190):
        selection.begin(selection.pick(candidates, 0.0, dice), 0.0)
    loads = [selection.outstanding(address) for address in candidates]
    assert sum(loads) == 200
    assert max(loads) - min(loads) <= 6, loads


def test_a_failed_replica_rests_longer_each_time_and_is_forgiven_at_once() -> None:
    selection, dice, candidates = Selection(), random.Random(1), addresses(3)
    failing = candidates[0]
    now, rest = 0.0, FIRST_REST
    for _ in range(8):
        selection.begin(failing, now)(CopyOutcome.UNREACHABLE, now)
        # The rest of the same burst does not count again.
        selection.begin(failing, now)(CopyOutcome.UNREACHABLE, now)
        assert failing not in {selection.pick(candidates, now + rest * 0.99, dice) for _ in range(50)}
        now += rest
        assert failing in {selection.pick(candidates, now, dice) for _ in range(50)}
        rest = min(LONGEST_REST, rest * 2)
    selection.begin(failing, now)(CopyOutcome.ANSWERED, now)
    selection.begin(failing, now)(CopyOutcome.UNREACHABLE, now)
    assert failing in {selection.pick(candidates, now + FIRST_REST, dice) for _ in range(50)}
    selection.validate()


def test_when_all_rest_someone_is_picked() -> None:
    selection, dice, candidates = Selection(), random.Random(1), addresses(3)
    for address in candidates:
        selection.begin(address, 0.0)(CopyOutcome.UNREACHABLE, 0.0)
    assert {selection.pick(candidates, 0.1, dice).replica for _ in range(100)} == {"r0", "r1", "r2"}


def test_a_restarted_replica_has_no_history() -> None:
    selection = Selection()
    old = ReplicaAddress("r", "job", "local", "1", "", "", "")
    new = ReplicaAddress("r", "job", "local", "2", "", "", "")
    selection.begin(old, 0.0)(CopyOutcome.UNREACHABLE, 0.0)
    selection.begin(old, 0.0)
    assert selection.outstanding(new) == 0
    assert selection.pick([new, *addresses(1)], 0.1, random.Random(3)) is not None


events = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([*CopyOutcome, None, "forget"]), st.floats(0.0, 1.0)), max_size=60
)


@given(events, st.integers(0, 2**32))
def test_the_counts_are_those_under_way(steps: list[tuple[int, CopyOutcome | str | None, float]], seed: int) -> None:
    selection, dice, candidates = Selection(), random.Random(seed), addresses(4)
    open_calls = []
    now = 0.0
    for index, event, passed in steps:
        now += passed
        if event is None:
            open_calls.append((candidates[index], selection.begin(candidates[index], now)))
        elif event == "forget":
            selection.retain(
                {ReplicaPlace.of(address) for position, address in enumerate(candidates) if position != index}
            )
            open_calls = [(address, done) for address, done in open_calls if address is not candidates[index]]
        elif open_calls:
            assert isinstance(event, CopyOutcome)
            open_calls.pop(index % len(open_calls))[1](event, now)
        selection.validate()
        assert selection.pick(candidates, now, dice) in candidates
        under_way = Counter(address.replica for address, _ in open_calls)
        assert {a.replica: selection.outstanding(a) for a in candidates} == {
            a.replica: under_way[a.replica] for a in candidates
        }
