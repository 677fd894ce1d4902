"""The keyed loop, on virtual time: what a look finds decides when the next one comes."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.reconcile import Again, Backoff, Done, Outcome, Reconciler, Repeater, Retry

elapse = asyncio.sleep  # on looptime's virtual clock: no test here waits for real

Look = Callable[[str], Awaitable[Outcome]]


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def running(look: Look, **options: int) -> AsyncIterator[Reconciler[str]]:
    loop = Reconciler("test", look, backoff=Backoff(1, 2, 8), rng=random.Random(1), **options)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.looptime
async def test_additions_while_a_look_runs_collapse_into_one_more() -> None:
    started: list[float] = []

    async def look(_: str) -> Outcome:
        started.append(now())
        await elapse(10)
        return Done()

    async with running(look) as loop:
        loop.add("a")
        await elapse(5)
        for _ in range(100):
            loop.add("a")
        await elapse(100)
    assert started == [0, 10]


@pytest.mark.looptime
async def test_the_same_key_is_never_looked_at_twice_at_once_and_others_are() -> None:
    running_now: dict[str, int] = {}
    most: dict[str, int] = {}
    together = 0

    async def look(key: str) -> Outcome:
        nonlocal together
        running_now[key] = running_now.get(key, 0) + 1
        most[key] = max(most.get(key, 0), running_now[key])
        together = max(together, sum(running_now.values()))
        await elapse(1)
        running_now[key] -= 1
        return Again(0)

    async with running(look, concurrency=2) as loop:
        for key in "abc":
            loop.add(key)
        await elapse(30)
    assert most == {"a": 1, "b": 1, "c": 1}
    assert together == 2


@pytest.mark.looptime
async def test_failures_in_a_row_are_further_and_further_apart_and_success_forgets_them() -> None:
    outcomes: list[Outcome] = [Retry("x"), Retry("x"), Retry("x"), Done(), Retry("x"), Done()]
    looks: list[float] = []

    async def look(_: str) -> Outcome:
        looks.append(now())
        return outcomes[len(looks) - 1]

    async with running(look) as loop:
        loop.add("a")
        await elapse(50)
        loop.add("a")
        await elapse(50)
    first, second, third = (later - sooner for sooner, later in itertools.pairwise(looks[:4]))
    assert 0.5 <= first <= 1 <= second <= 2 <= third <= 4
    assert looks[4] == 50
    assert 0.5 <= looks[5] - looks[4] <= 1


@pytest.mark.looptime
async def test_an_exception_in_a_look_is_a_retry_and_harms_no_other_key() -> None:
    seen: list[str] = []

    async def look(key: str) -> Outcome:
        seen.append(key)
        if key == "bad" and seen.count("bad") < 3:
            raise RuntimeError("boom")
        return Done()

    async with running(look) as loop:
        loop.add("bad")
        loop.add("good")
        await elapse(20)
    assert (seen.count("bad"), seen.count("good")) == (3, 1)


@pytest.mark.looptime
async def test_adding_a_waiting_key_looks_at_once_and_drops_the_timer() -> None:
    looks: list[float] = []

    async def look(_: str) -> Outcome:
        looks.append(now())
        return Again(100) if len(looks) == 1 else Done()

    async with running(look) as loop:
        loop.add("a")
        await elapse(10)
        loop.add("a")
        await elapse(200)
    assert looks == [0, 10]


@pytest.mark.looptime
async def test_a_forgotten_key_is_not_looked_at_again() -> None:
    looks: list[float] = []

    async def look(_: str) -> Outcome:
        looks.append(now())
        return Again(5)

    async with running(look) as loop:
        loop.add("a")
        await elapse(1)
        loop.forget("a")
        await elapse(50)
    assert looks == [0]


@pytest.mark.looptime
async def test_cancelling_the_loop_ends_the_looks_under_way() -> None:
    ended = asyncio.Event()

    async def look(_: str) -> Outcome:
        try:
            await elapse(1000)
        finally:
            ended.set()
        return Done()

    async with running(look) as loop:
        loop.add("a")
        await elapse(1)
    assert ended.is_set()


@given(failures=st.integers(1, 10_000), seed=st.integers())
def test_a_delay_is_at_least_half_and_at_most_the_whole_of_its_step(failures: int, seed: int) -> None:
    backoff = Backoff(first=0.1, factor=2, most=30)
    step = min(30, 0.1 * 2 ** min(failures - 1, 64))
    assert step / 2 <= backoff.delay(failures, random.Random(seed)) <= step


@asynccontextmanager
async def repeating(look: Callable[[], Awaitable[Outcome]]) -> AsyncIterator[Repeater]:
    loop = Repeater(look, backoff=Backoff(1, 2, 8), rng=random.Random(1))
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.looptime
async def test_a_repeater_looks_at_once_after_a_time_and_when_something_changes() -> None:
    looks: list[float] = []
    outcomes: list[Outcome] = [Again(5), Done(), Done(), Again(0)]

    async def look() -> Outcome:
        looks.append(now())
        return outcomes[len(looks) - 1] if len(looks) <= len(outcomes) else Done()

    async with repeating(look) as loop:
        await elapse(20)
        loop.look_again()
        await elapse(20)
        loop.look_again()
        await elapse(20)
    assert looks == [0, 5, 20, 40, 40]


@pytest.mark.looptime
async def test_what_changes_during_a_look_is_one_more_look() -> None:
    looks: list[float] = []

    async def look() -> Outcome:
        looks.append(now())
        await elapse(10)
        return Done()

    async with repeating(look) as loop:
        for _ in range(5):
            await elapse(1)
            loop.look_again()
        await elapse(100)
    assert looks == [0, 10]


@pytest.mark.looptime
async def test_a_change_does_not_cut_the_delay_after_a_failure_short_and_is_not_lost() -> None:
    looks: list[float] = []

    async def look() -> Outcome:
        looks.append(now())
        return Retry("away") if len(looks) < 3 else Done()

    async with repeating(look) as loop:
        for _ in range(40):
            await elapse(0.1)
            loop.look_again()
        await elapse(100)
    first, second = (later - sooner for sooner, later in itertools.pairwise(looks[:3]))
    assert 0.5 <= first <= 1 <= second <= 2
    assert looks[3] >= looks[2], "the last change was looked at"


@pytest.mark.looptime
async def test_a_failure_that_is_the_first_again_has_the_first_delay() -> None:
    looks: list[float] = []

    async def look() -> Outcome:
        looks.append(now())
        return Retry("away", anew=len(looks) == 4) if len(looks) < 6 else Done()

    async with repeating(look):
        await elapse(100)
    delays = [later - sooner for sooner, later in itertools.pairwise(looks)]
    for delay, most in zip(delays, (1, 2, 4, 1, 2), strict=True):
        assert most / 2 <= delay <= most


@pytest.mark.looptime
async def test_a_look_that_raises_ends_the_repeater() -> None:
    async def look() -> Outcome:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        await Repeater(look).run()


@pytest.mark.looptime
@pytest.mark.parametrize("at", [0.25, 1.0, 2.25, 4.0])
async def test_a_repeater_that_is_cancelled_ends_wherever_it_is(at: float) -> None:
    """In the first look, while it waits for a time, in a look again, and in the delay after a failure."""
    looks = 0

    async def look() -> Outcome:
        nonlocal looks
        looks += 1
        await elapse(0.5)
        return Again(1.5) if looks == 1 else Retry("away")

    task = asyncio.create_task(Repeater(look, backoff=Backoff(10, 2, 10)).run())
    await elapse(at)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert looks == (1 if at < 2.0 else 2)
