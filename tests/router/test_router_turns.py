"""Who takes the next connection: somebody always may, and what they take stays even."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.turns import SILENT_AFTER, ProcessState, allowance, has_waited_enough, pause

NOW = 1000.0


def of(connections: int, *, ready: bool = True, silent: float = 0.0) -> ProcessState:
    return ProcessState(ready, NOW - silent, connections)


@pytest.mark.parametrize(
    ("own", "others", "taken"),
    [
        (of(0), [], 64),
        (of(700), [], 64),
        (of(3), [of(3)], 1),
        (of(3), [of(4)], 2),
        (of(0), [of(16)], 17),
        (of(4), [of(3)], 0),
        (of(4), [of(5), of(3)], 0),
        # Nobody waits for who is frozen or dead, …
        (of(4), [of(3, silent=SILENT_AFTER + 0.01)], 64),
        (of(4), [of(3, silent=SILENT_AFTER - 0.01)], 0),
        # … or for who cannot serve; and who cannot leaves it to who can, however full.
        (of(4), [of(0, ready=False)], 64),
        (of(0, ready=False), [of(4)], 0),
        (of(0, ready=False), [of(4, silent=2.0)], 64),
        (of(0, ready=False), [of(0, ready=False)], 1),
        (of(1, ready=False), [of(0, ready=False)], 0),
        # Of many, a few more do not matter.
        (of(32), [of(31)], 0),
        (of(33), [of(32)], 1),
        (of(34), [of(32)], 0),
        (of(1032), [of(1001)], 1),
        (of(0), [of(1000)], 64),
    ],
)
def test_how_many_may_be_taken(own: ProcessState, others: list[ProcessState], taken: int) -> None:
    assert allowance(own, others, NOW) == taken


standings = st.builds(
    of, st.integers(0, 200), ready=st.booleans(), silent=st.sampled_from([0.0, SILENT_AFTER / 2, 5.0])
)


@given(st.lists(standings, min_size=1, max_size=8))
def test_of_those_that_are_alive_somebody_may_always_take(seated: list[ProcessState]) -> None:
    alive = [index for index, standing in enumerate(seated) if standing.seen > NOW - SILENT_AFTER]
    takers = {i for i in alive if allowance(seated[i], [*seated[:i], *seated[i + 1 :]], NOW)}
    assert takers or not alive
    assert all(seated[i].ready for i in takers) or not any(seated[i].ready for i in alive)


@given(st.integers(2, 8), st.integers(0, 200), st.integers(0, 2**32))
def test_what_comes_is_spread_evenly_whoever_looks_first(processes: int, coming: int, seed: int) -> None:
    dice = Random(seed)
    has = [0] * processes
    while coming:
        looking = dice.randrange(processes)
        others = [of(count) for number, count in enumerate(has) if number != looking]
        taken = min(coming, allowance(of(has[looking]), others, NOW))
        has[looking] += taken
        coming -= taken
        assert max(has) - min(has) <= 1 + min(has) // 32


def test_looks_in_vain_come_to_an_end_soon() -> None:
    waited, looks = 0.0, 1
    while not has_waited_enough(looks):
        waited += pause(looks)
        looks += 1
    assert 0.01 < waited < 0.05
    # From then on one at a time, until it is somebody's turn.
    assert 0 < pause(looks) == pause(1000) < 0.01
    assert sum(1 for look in range(1, 1000) if not pause(look)) < 10
