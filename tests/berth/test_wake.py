"""Nobody who waits misses a change: tables, a walk, and a cancellation wherever one can land. On virtual time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.wake import Waiter, Wake

pytestmark = pytest.mark.looptime


async def test_a_wake_before_the_wait_ends_it_at_once() -> None:
    wake = Wake()
    waiter = wake.waiter()
    wake.up()
    wake.up()

    assert await waiter.wait(1.0)
    assert asyncio.get_running_loop().time() == 0
    assert not waiter.is_due, "several wakes are one look"


async def test_what_was_before_the_waiter_does_not_wake_it() -> None:
    wake = Wake()
    wake.up()

    assert not await wake.waiter().wait(1.0)
    assert asyncio.get_running_loop().time() == 1.0


async def test_a_wake_while_the_waiter_works_is_not_lost() -> None:
    wake = Wake()
    waiter = wake.waiter()
    asyncio.get_running_loop().call_later(1.0, wake.up)
    asyncio.get_running_loop().call_later(1.5, wake.up)
    assert await waiter.wait(10.0)

    await asyncio.sleep(1.0)  # at work, from 1.0 to 2.0

    assert await waiter.wait(10.0)
    assert asyncio.get_running_loop().time() == 2.0
    assert not await waiter.wait(1.0)


async def test_all_waiters_wake_each_in_its_own_time() -> None:
    wake = Wake()
    woken: list[tuple[str, float]] = []

    async def look(name: str, works: float) -> None:
        waiter = wake.waiter()
        while await waiter.wait(5.0):
            woken.append((name, asyncio.get_running_loop().time()))
            await asyncio.sleep(works)

    for at in (1.0, 2.0):
        asyncio.get_running_loop().call_later(at, wake.up)
    await asyncio.gather(look("quick", 0.1), look("slow", 3.0))

    assert sorted(woken) == [("quick", 1.0), ("quick", 2.0), ("slow", 1.0), ("slow", 4.0)]


async def test_a_wake_in_the_moment_in_which_time_is_up_is_not_lost() -> None:
    wake = Wake()
    waiter = wake.waiter()
    asyncio.get_running_loop().call_later(1.0, wake.up)

    first = await waiter.wait(1.0)
    second = await waiter.wait(0.0)

    assert first != second, "one of the two has it"


async def test_no_patience_still_takes_what_is_there() -> None:
    wake = Wake()
    waiter = wake.waiter()
    assert not await waiter.wait(0.0)
    wake.up()
    assert await waiter.wait(0.0)


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancelled_wait_takes_nothing(turns: int) -> None:
    """The cancellation lands before the wait begins, in it, when it was woken, and after its end."""
    wake = Wake()
    waiter = wake.waiter()
    waiting = asyncio.create_task(waiter.wait())
    for turn in range(turns):
        if turn == 1:
            wake.up()
        await asyncio.sleep(0)
    waiting.cancel()
    outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
    if turns < 2:
        wake.up()

    took = outcome is True
    assert took or isinstance(outcome, asyncio.CancelledError)
    assert await waiter.wait(0.0) != took
    assert await wake.waiter().wait(0.0) is False


async def test_one_cancelled_waiter_leaves_the_others_waiting() -> None:
    wake = Wake()
    waiters = [wake.waiter() for _ in range(3)]
    tasks = [asyncio.create_task(waiter.wait()) for waiter in waiters]
    await asyncio.sleep(0.1)
    tasks[1].cancel()
    await asyncio.sleep(0.1)
    wake.up()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [outcome is True for outcome in outcomes] == [True, False, True]


@settings(max_examples=50, deadline=None)
@given(
    told=st.lists(st.integers(0, 40), max_size=12),
    works=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
async def test_the_last_change_is_always_looked_at(told: list[int], works: list[int]) -> None:
    """Whenever changes come and however long looks take: each waiter looks after the last change."""
    wake, loop = Wake(), asyncio.get_running_loop()
    state = 0
    seen = dict.fromkeys(range(len(works)), 0)

    def change() -> None:
        nonlocal state
        state += 1
        wake.up()

    async def look(name: int, waiter: Waiter) -> None:
        while await waiter.wait(100.0):
            seen[name] = state
            await asyncio.sleep(works[name])

    for at in told:
        loop.call_later(at, change)
    await asyncio.gather(*(look(name, wake.waiter()) for name in seen))

    assert set(seen.values()) == {len(told)}
