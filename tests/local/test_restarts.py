import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.local.restarts import BACKOFF, Death, History, StartAgain, StopTrying, after_death

RNG = random.Random(7)
KILLED = -9

deaths = st.builds(
    Death,
    code=st.none() | st.integers(-64, 255),
    lived_s=st.floats(0, 1e6),
    was_ready=st.booleans(),
)


@pytest.mark.parametrize(
    ("history", "death", "failures", "gives_up"),
    [
        (History(), Death(KILLED, 60.0, was_ready=True), 1, False),
        (History(restarts=9, failures=9, was_ready=True), Death(KILLED, 60.0, was_ready=True), 1, False),
        (History(was_ready=True), Death(64, 0.1, was_ready=False), 1, False),
        (History(), Death(64, 0.1, was_ready=False), 1, True),
        (History(failures=3), Death(1, 0.1, was_ready=False), 4, False),
        (History(failures=4), Death(1, 0.1, was_ready=False), 5, True),
        (History(failures=4), Death(1, 60.0, was_ready=False), 1, False),
        (History(failures=4), Death(None, 0.0, was_ready=False), 5, True),
        (History(failures=40, was_ready=True), Death(1, 0.1, was_ready=False), 41, False),
    ],
)
def test_what_follows_a_death(history: History, death: Death, failures: int, gives_up: bool) -> None:
    after, decision = after_death(history, death, RNG)
    assert (after.failures, isinstance(decision, StopTrying)) == (failures, gives_up)


@given(st.lists(deaths, min_size=1, max_size=30), st.integers())
def test_delays_are_bounded_and_a_proven_program_is_never_given_up(lives: list[Death], seed: int) -> None:
    rng = random.Random(seed)
    history = History()
    for count, death in enumerate(lives, 1):
        history, decision = after_death(history, death, rng)
        assert history.restarts == count
        if history.was_ready:
            assert isinstance(decision, StartAgain)
        if isinstance(decision, StartAgain):
            assert 0 < decision.after_s <= BACKOFF.most
            if history.failures == 1:
                assert decision.after_s <= BACKOFF.first
