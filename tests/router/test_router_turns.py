"""Who takes the next connection: somebody always may, and what they take stays even."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.turns import SILENT_AFTER, Standing, may_take, pause

NOW = 1000.0


def of(connections: int, *, ready: bool = True, silent: float = 0.0) -> Standing:
    return Standing(ready, NOW - silent, connections)


@pytest.mark.parametrize(
    ("own", "others", "taken"),
    [
        (of(0), [], True),
        (of(700), [], True),
        (of(3), [of(3)], True),
        (of(3), [of(4)], True),
        (of(4), [of(3)], False),
        (of(4), [of(5), of(3)], False),
        # Nobody waits for who is frozen or dead, …
        (of(4), [of(3, silent=SILENT_AFTER + 0.01)], True),
        (of(4), [of(3, silent=SILENT_AFTER - 0.01)], False),
        # … or for who cannot serve; and who cannot leaves it to who can, however full.
        (of(4), [of(0, ready=False)], True),
        (of(0, ready=False), [of(4)], False),
        (of(0, ready=False), [of(4, silent=1.0)], True),
        (of(0, ready=False), [of(0, ready=False)], True),
        (of(1, ready=False), [of(0, ready=False)], False),
        # Of many, a few more do not matter.
        (of(32), [of(31)], False),
        (of(33), [of(32)], True),
        (of(34), [of(32)], False),
        (of(1032), [of(1001)], True),
    ],
)
def test_whose_turn_it_is(own: Standing, others: list[Standing], taken: bool) -> None:
    assert may_take(own, others, NOW) is taken


standings = st.builds(
    of, st.integers(0, 200), ready=st.booleans(), silent=st.sampled_from([0.0, SILENT_AFTER / 2, 5.0])
)


@given(st.lists(standings, min_size=1, max_size=8))
def test_of_those_that_are_alive_somebody_may_always_take(seated: list[Standing]) -> None:
    alive = [index for index, standing in enumerate(seated) if standing.seen > NOW - SILENT_AFTER]
    takers = {i for i in alive if may_take(seated[i], [*seated[:i], *seated[i + 1 :]], NOW)}
    assert takers or not alive
    assert all(seated[i].ready for i in takers) or not any(seated[i].ready for i in alive)


@given(st.integers(2, 8), st.integers(0, 31), st.integers(0, 2**32))
def test_what_comes_is_spread_evenly_whoever_looks_first(processes: int, each: int, seed: int) -> None:
    dice = Random(seed)
    has = [0] * processes
    for _ in range(processes * each):
        takers = [i for i in range(processes) if may_take(of(has[i]), [of(n) for k, n in enumerate(has) if k != i], NOW)]
        has[dice.choice(takers)] += 1
    assert has == [each] * processes


def test_looks_in_vain_are_few_and_never_far_apart() -> None:
    pauses = [pause(looks) for looks in range(1, 200)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.0
    assert 0 < pauses[19] == pauses[-1] <= 0.005
    assert sum(1 for seconds in pauses if not seconds) < 10
