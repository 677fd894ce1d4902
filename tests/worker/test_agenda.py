"""Which models are looked at next, on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from berth.ids import ModelKey
from worker.keeping.agenda import Agenda, LookAgain

pytestmark = pytest.mark.looptime


def model(name: str) -> ModelKey:
    return ModelKey("acme", name)


class Looker:
    """Looks, and says what `again` says of the model once; after that, nothing."""

    def __init__(self, **again: LookAgain) -> None:
        self.agenda = Agenda()
        self.room = 1000
        self.looked: list[tuple[float, str]] = []
        self._again = again
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    def look(self, key: ModelKey) -> LookAgain:
        self.looked.append((round(self._loop.time() - self._began, 2), key.model))
        return self._again.pop(key.model, LookAgain())

    def has_room(self) -> bool:
        self.room -= 1
        return self.room >= 0

    async def work(self, *models: str) -> None:
        self.agenda.add(map(model, models))
        await self.agenda.wait()
        await self.agenda.work_off(self.look, self.has_room)


async def test_a_model_is_looked_at_once_however_often_it_was_added() -> None:
    looker = Looker()
    looker.agenda.add([model("b")])
    await looker.work("a", "b", "a")
    assert looker.looked == [(0, "b"), (0, "a")]
    assert looker.agenda.empty


async def test_its_time_comes() -> None:
    looker = Looker(a=LookAgain(at=asyncio.get_running_loop().time() + 5))
    await looker.work("a")
    assert looker.agenda.empty, "what waits for a time is not due"
    await looker.agenda.wait()
    await looker.agenda.work_off(looker.look, looker.has_room)
    assert looker.looked == [(0, "a"), (5, "a")]


async def test_a_look_in_between_takes_the_place_of_the_one_that_was_due() -> None:
    looker = Looker(a=LookAgain(at=asyncio.get_running_loop().time() + 5))
    await looker.work("a")
    await looker.work("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await looker.agenda.wait()
    assert looker.looked == [(0, "a"), (0, "a")]


async def test_what_wants_memory_is_looked_at_after_all_others_while_there_may_be_some() -> None:
    looker = Looker(a=LookAgain(with_memory=True), b=LookAgain(with_memory=True))
    looker.room = 0
    await looker.work("a", "b")
    looker.room = 1
    looker.looked.clear()
    await looker.work("c")
    assert looker.looked == [(0, "c"), (0, "a")], "the one that has waited longest comes first"
    looker.room = 1000
    looker.looked.clear()
    await looker.work()
    assert looker.looked == [(0, "b")], "a no longer wants any"


async def test_others_get_their_turn_between_many_looks() -> None:
    looker = Looker()
    seen: list[int] = []

    async def other() -> None:
        for _ in range(5):
            seen.append(len(looker.looked))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other())
        await looker.work(*(f"m{number}" for number in range(1000)))
    assert seen == sorted(set(seen)), "each time some looks further"
    assert seen[-1] < 1000


async def test_after_the_end_no_timer_fires() -> None:
    looker = Looker(a=LookAgain(at=asyncio.get_running_loop().time() + 5))
    await looker.work("a")
    looker.agenda.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await looker.agenda.wait()
