"""Many deadlines, one timer: a timing wheel (Varghese and Lauck, 1987) whose buckets come and go.

Adding and discarding are a set operation each; what is due in the same step is told together. A timer of the event loop
exists only for the earliest bucket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, Generic, TypeVar

T = TypeVar("T")

NEVER: Final = -1


class Wheel(Generic[T]):
    """`due` is called once for each item whose time has come, up to one `step` (seconds) late."""

    def __init__(self, loop: asyncio.AbstractEventLoop, step: float, due: Callable[[T], None]) -> None:
        self._loop = loop
        self._step = step
        self._rate = 1.0 / step
        self._due = due
        self._buckets: dict[int, set[T]] = {}
        # A slot stays here when its bucket has gone, and may be here twice.
        self._slots: list[int] = []
        self._latest = NEVER
        self._armed: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Wheel items={sum(map(len, self._buckets.values()))} buckets={len(self._buckets)}>"

    def add(self, item: T, when: float) -> int:
        """Have `item` told at `when`, a time of the event loop. Returns the slot that `discard` needs."""
        # Rounded up, but for the rounding of the product itself.
        slot = int(when * self._rate + 0.999)
        if slot != self._latest:
            filled = self._buckets.get(self._latest)
            if filled is not None and not filled:
                del self._buckets[self._latest]
            self._latest = slot
        bucket = self._buckets.get(slot)
        if bucket is not None:
            bucket.add(item)
            return slot
        self._buckets[slot] = {item}
        heappush(self._slots, slot)
        if self._armed is None or slot < self._armed:
            self._arm(slot)
        return slot

    def discard(self, item: T, slot: int) -> None:
        """Forget `item`; nothing happens if it was told already."""
        bucket = self._buckets.get(slot)
        if bucket is not None:
            bucket.discard(item)
            # A set keeps the room it once needed. The one that is being filled will need it again.
            if not bucket and slot != self._latest:
                del self._buckets[slot]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()
        self._slots.clear()

    def _arm(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = slot
        self._timer = self._loop.call_at(slot * self._step, self._turn)

    def _turn(self) -> None:
        self._timer = self._armed = None
        slots, buckets = self._slots, self._buckets
        # A timer may be early by the clock's resolution.
        current = int((self._loop.time() + 1e-6) * self._rate)
        while slots and slots[0] <= current:
            for item in buckets.pop(heappop(slots), ()):
                self._due(item)
        while slots and not buckets.get(slots[0]):
            buckets.pop(heappop(slots), None)
        # A due item may have added another, which armed the timer.
        if slots and self._is_sooner(slots[0]):
            self._arm(slots[0])

    def _is_sooner(self, slot: int) -> bool:
        return self._armed is None or slot < self._armed
