"""Which models to look at next: those that something happened to, those whose time has come, those that want memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

from berth.ids import ModelKey
from berth.wake import Wake

# Models looked at before other work gets its turn: about a millisecond.
_LOOKS_PER_TURN = 100
# Timers may fire a tick of the clock early; a look that comes too early would have to be repeated.
_TICK_S = 0.001


class LookAgain(NamedTuple):
    """When to look at a model again if nothing happens to it: at a time of the loop's clock, or when memory is free."""

    at: float = float("inf")
    with_memory: bool = False


class Agenda:
    """All of it is in order of arrival. A model is on it once, however often it is added."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[ModelKey, None] = {}
        self._blocked: dict[ModelKey, None] = {}
        self._timers: dict[ModelKey, asyncio.TimerHandle] = {}
        self._wake = Wake()
        self._waiter = self._wake.waiter()

    def __repr__(self) -> str:
        return f"<Agenda due={len(self._due)} blocked={len(self._blocked)}>"

    @property
    def empty(self) -> bool:
        """Whether nothing is due now. What waits for a time or for memory does not count."""
        return not self._due

    def add(self, models: Iterable[ModelKey]) -> None:
        """Look at these models, and at those that want memory."""
        self._due.update(dict.fromkeys(models))
        self._wake.up()

    async def wait(self) -> None:
        """Until something was added since the last wait."""
        await self._waiter.wait()

    async def work_off(self, look: Callable[[ModelKey], LookAgain], has_room: Callable[[], bool]) -> None:
        """Look at the models that are due. Then look at those that want memory, as long as there may be some."""
        while self._due:
            for model in list(self._due)[:_LOOKS_PER_TURN]:
                del self._due[model]
                self._visit(model, look)
            await asyncio.sleep(0)
        for turn, model in enumerate(list(self._blocked), start=1):
            if not has_room():
                break
            self._visit(model, look)
            if turn % _LOOKS_PER_TURN == 0:
                await asyncio.sleep(0)

    def close(self) -> None:
        """No timer fires any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _visit(self, model: ModelKey, look: Callable[[ModelKey], LookAgain]) -> None:
        timer = self._timers.pop(model, None)
        if timer is not None:
            timer.cancel()
        again = look(model)
        if again.with_memory:
            self._blocked.setdefault(model)
        else:
            self._blocked.pop(model, None)
        if again.at != float("inf"):
            self._timers[model] = self._loop.call_at(again.at + _TICK_S, self.add, [model])
