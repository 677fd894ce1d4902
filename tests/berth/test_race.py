"""Halves of a conversation: the first that ends, ends both; a cancellation is never lost."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator

import pytest

from berth.race import first_of


class Broken(Exception):
    pass


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let the event loop go round once."""
    yield


async def end_at_once() -> None:
    await turn()


async def wait_for_ever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("other")


async def test_how_the_first_ends_is_how_it_ends() -> None:
    ended: list[str] = []

    async def fail() -> None:
        await turn()
        raise Broken

    with pytest.raises(Broken):
        await first_of(asyncio.create_task(wait_for_ever(ended)), asyncio.create_task(fail()))
    assert ended == ["other"]
    await first_of(asyncio.create_task(wait_for_ever(ended)), asyncio.create_task(end_at_once()))
    assert ended == ["other", "other"]


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancellation_that_comes_as_one_fails_is_kept(turns: int) -> None:
    """In whichever turn of the loop: what was told to end, ends by that."""
    ended: list[str] = []
    now = asyncio.Event()

    async def fail() -> None:
        await now.wait()
        raise Broken

    racing = asyncio.create_task(
        first_of(asyncio.create_task(wait_for_ever(ended)), asyncio.create_task(fail())), name="racing"
    )
    for _ in range(3):
        await turn()
    now.set()
    for _ in range(turns):
        await turn()
    told = racing.cancel()
    with pytest.raises(asyncio.CancelledError if told else Broken):
        await racing
    assert ended == ["other"]
