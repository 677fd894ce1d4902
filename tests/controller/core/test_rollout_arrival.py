"""Which versions a job is woken for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.states import VersionState
from controller.core.rollout.arrival import Arrival, is_awaited

AVAILABLE, FAILED, RETIRED = VersionState.AVAILABLE, VersionState.FAILED, VersionState.RETIRED
NEVER = ""


@pytest.mark.parametrize(
    ("arrival", "target", "wanted", "awaited"),
    [
        # Never loaded anywhere: the first version, the next one, one that a label points at.
        (Arrival(1, NEVER), 1, {1}, True),
        (Arrival(2, NEVER, answering=frozenset({1})), 2, {2}, True),
        (Arrival(2, NEVER, answering=frozenset({1})), 1, {1, 2}, True),
        # Assigned once more after it had gone: it may be too large by now, or its job another.
        (Arrival(1, RETIRED), 1, {1}, True),
        # Nobody wants it but by number.
        (Arrival(2, NEVER), 1, {1}, False),
        # It has arrived, for better or worse.
        (Arrival(1, NEVER, routed=True), 1, {1}, False),
        (Arrival(1, NEVER, failed=True), 1, {1}, False),
        (Arrival(1, FAILED), 1, {1}, False),
        (Arrival(2, FAILED, answering=frozenset({1})), 2, {2}, False),
        # It was loaded: asleep.
        (Arrival(1, AVAILABLE), 1, {1}, False),
        # Loaded in another cell; here an older one still stands in for it.
        (Arrival(2, AVAILABLE, answering=frozenset({1})), 2, {2}, True),
        # The older one has a label of its own, and stays in any case.
        (Arrival(2, AVAILABLE, answering=frozenset({1})), 2, {1, 2}, False),
        # One with a label stands in for nobody.
        (Arrival(1, AVAILABLE, answering=frozenset({2, 3})), 3, {1, 3}, False),
    ],
)
def test_what_is_awaited(arrival: Arrival, target: int, wanted: set[int], awaited: bool) -> None:
    assert is_awaited(arrival, target, wanted) is awaited


@given(
    st.builds(
        Arrival,
        st.integers(1, 3),
        st.sampled_from([NEVER, AVAILABLE, FAILED, RETIRED]),
        st.booleans(),
        st.booleans(),
        st.frozensets(st.integers(1, 3)),
    ),
    st.integers(0, 3),
    st.frozensets(st.integers(1, 3)),
)
def test_nothing_is_awaited_for_ever(arrival: Arrival, target: int, labelled: frozenset[int]) -> None:
    """Each ends of itself: routed and then announced, with what stood in for it let go, or announced as failed."""
    wanted = labelled | ({target} if target else set())
    if is_awaited(arrival, target, wanted):
        assert arrival.version in wanted
        settled = arrival._replace(announced=AVAILABLE, answering=arrival.answering & wanted)
        assert not is_awaited(settled, target, wanted)
        assert not is_awaited(arrival._replace(announced=FAILED), target, wanted)
        assert not is_awaited(arrival._replace(routed=True), target, wanted)
