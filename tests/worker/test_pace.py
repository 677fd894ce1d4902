"""Where the runs of a version take place, by what was seen of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.pace import INLINE_LIMIT_S, QUICK_S, SLOW_RUNS, SLOW_S, Pace

Seen = tuple[str, float]

QUICK: Seen = ("apart", QUICK_S / 2)
SLOW_APART: Seen = ("apart", QUICK_S)
TINY: Seen = ("inline", SLOW_S / 2)
SLOW: Seen = ("inline", SLOW_S)
STARVED: Seen = ("overran", INLINE_LIMIT_S / 2 - 1e-6)
COMPUTED: Seen = ("overran", INLINE_LIMIT_S / 2)


def pace_after(history: list[Seen]) -> Pace:
    pace = Pace()
    tell: dict[str, Callable[[float], None]] = {
        "apart": pace.ran_apart,
        "inline": pace.ran_inline,
        "overran": pace.overran,
    }
    for kind, seconds in history:
        tell[kind](seconds)
    return pace


@pytest.mark.parametrize(
    ("history", "inline"),
    [
        pytest.param([], False, id="nothing is known of it"),
        pytest.param([("apart", float("inf"))], False, id="no run of the warm-up succeeded"),
        pytest.param([SLOW_APART], False, id="not quick"),
        pytest.param([QUICK], True, id="quick in the warm-up"),
        pytest.param([SLOW_APART, QUICK], True, id="one quick run in the pool is enough"),
        pytest.param([QUICK, SLOW_APART], True, id="a slow run in the pool proves nothing: its inputs were large"),
        pytest.param([QUICK, SLOW, SLOW], True, id="two slow runs on the loop are forgiven"),
        pytest.param([QUICK, SLOW, SLOW, SLOW], False, id="three are not"),
        pytest.param([QUICK, SLOW, SLOW, TINY, SLOW, SLOW], True, id="unless they are not in a row"),
        pytest.param([QUICK, SLOW, SLOW, SLOW, QUICK], True, id="it may come back"),
        pytest.param([QUICK, SLOW, SLOW, SLOW, QUICK, SLOW, SLOW], True, id="and is counted anew"),
        pytest.param([QUICK, STARVED], False, id="ended on the loop"),
        pytest.param([QUICK, STARVED, QUICK], True, id="the machine was busy: it may come back"),
        pytest.param([QUICK, COMPUTED, QUICK], False, id="it computed all that time: it may not"),
    ],
)
def test_where_the_next_run_takes_place(history: list[Seen], inline: bool) -> None:
    assert pace_after(history).inline is inline


SEEN = st.sampled_from([QUICK, SLOW_APART, TINY, SLOW, STARVED, COMPUTED])


@given(st.lists(SEEN), st.lists(SEEN))
def test_what_computed_for_too_long_on_the_loop_never_comes_back(before: list[Seen], after: list[Seen]) -> None:
    assert not pace_after([*before, COMPUTED, *after]).inline


@given(st.lists(SEEN))
def test_so_many_slow_runs_always_lead_to_the_pool(before: list[Seen]) -> None:
    assert not pace_after([*before, *[SLOW] * SLOW_RUNS]).inline
