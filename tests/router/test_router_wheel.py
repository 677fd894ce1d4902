"""Deadlines of many: each is told once, not before its time and at most a step after it."""

import asyncio
import random

import pytest

from router.path.wheel import Wheel

pytestmark = pytest.mark.looptime


async def test_each_is_told_in_its_step() -> None:
    loop = asyncio.get_running_loop()
    told: dict[int, float] = {}
    done = asyncio.Event()

    def due(number: int) -> None:
        assert number not in told
        told[number] = loop.time()
        if len(told) == 1000:
            done.set()

    wheel = Wheel(loop, 0.001, due)
    dice = random.Random(7)
    times = {number: dice.uniform(0.0, 3.0) for number in range(1000)}
    for number, when in times.items():
        wheel.add(number, when)
    await asyncio.wait_for(done.wait(), 10.0)
    for number, when in times.items():
        assert when - 1e-5 <= told[number] <= when + 0.001 + 1e-5
    wheel.close()


async def test_what_is_discarded_is_not_told() -> None:
    loop = asyncio.get_running_loop()
    told: list[str] = []
    wheel = Wheel(loop, 0.01, told.append)
    slot = wheel.add("gone", 1.0)
    wheel.add("stays", 2.0)
    wheel.discard("gone", slot)
    wheel.discard("gone", slot)
    ended = asyncio.Event()
    loop.call_later(2.5, ended.set)
    await ended.wait()
    assert told == ["stays"]
    assert "items=0 buckets=0" in repr(wheel)


async def test_an_earlier_one_is_not_kept_waiting_by_a_later_one() -> None:
    loop = asyncio.get_running_loop()
    told: list[tuple[str, float]] = []
    ended = asyncio.Event()

    def due(name: str) -> None:
        told.append((name, loop.time()))
        if name == "first":
            # Added while the wheel turns, for now.
            wheel.add("at once", loop.time())
        if name == "last":
            ended.set()

    wheel = Wheel(loop, 0.01, due)
    for name, when in (("last", 5.0), ("middle", 1.0), ("first", 0.5)):
        wheel.add(name, when)
    await ended.wait()
    assert [name for name, _ in told] == ["first", "at once", "middle", "last"]
    assert [round(when, 2) for _, when in told] == [0.5, 0.5, 1.0, 5.0]


async def test_it_keeps_nothing_of_those_that_were_discarded() -> None:
    """As requests with a deadline in half a minute, of which none comes true: a million must not add up."""
    wheel: Wheel[int] = Wheel(asyncio.get_running_loop(), 0.005, lambda _: None)
    under_way: list[tuple[int, int]] = []
    for number in range(20_000):
        under_way.append((number, wheel.add(number, 30.0 + number * 0.001)))
        if len(under_way) > 10:
            wheel.discard(*under_way.pop(0))
    for one in under_way:
        wheel.discard(*one)
    assert repr(wheel) == "<Wheel items=0 buckets=1>"
    wheel.close()
