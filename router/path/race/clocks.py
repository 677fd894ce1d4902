"""What wakes requests under way: wheels for hedges, pauses and deadlines; and a new table."""

from __future__ import annotations

import asyncio
from typing import Final

from router.path.meeting import UnderWay
from router.path.wheel import Wheel

# Steps of the wheels, s. The delay of a hedge starts at a millisecond; a deadline a little late harms nobody.
_HEDGE_STEP: Final = 0.001
_PAUSE_STEP: Final = 0.001
_DEADLINE_STEP: Final = 0.005


class Clocks:
    """One per process. `paused`: requests that wait for a new table, each with its place in `pauses`."""

    __slots__ = ("deadlines", "hedges", "paused", "pauses")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.hedges: Wheel[UnderWay] = Wheel(loop, _HEDGE_STEP, lambda waiting: waiting.hedge_due())
        self.pauses: Wheel[UnderWay] = Wheel(loop, _PAUSE_STEP, lambda waiting: waiting.pause_over())
        self.deadlines: Wheel[UnderWay] = Wheel(loop, _DEADLINE_STEP, lambda waiting: waiting.deadline_passed())
        self.paused: set[UnderWay] = set()

    def table_came(self) -> None:
        """What waits for a new table looks again."""
        for waiting in list(self.paused):
            waiting.pause_over()

    def close(self) -> None:
        """Stop; nothing is under way."""
        for wheel in (self.hedges, self.pauses, self.deadlines):
            wheel.close()
