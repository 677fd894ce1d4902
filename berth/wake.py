"""Waking those who wait for a change, so that no change is missed.

What changed is not said: who wakes up looks at the state itself. So many changes may become one look, and a look that
finds nothing does no harm. (tokio's `sync::watch` has the same rule: each receiver remembers what it has seen.)
"""

from __future__ import annotations

import asyncio


class Wake:
    """Wakes any number of waiters. To be used in the thread of the event loop."""

    __slots__ = ("_event", "times")

    def __init__(self) -> None:
        # How often it has woken: what waiters compare.
        self.times = 0
        # Exists while someone waits.
        self._event: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<Wake {self.times}>"

    def up(self) -> None:
        """Something changed: every waiter is to look again."""
        self.times += 1
        event, self._event = self._event, None
        if event is not None:
            event.set()

    def waiter(self) -> Waiter:
        """For one who looks again and again: what happens from now on wakes it."""
        return Waiter(self)

    async def beyond(self, times: int) -> None:
        """Wait until it has woken more often than that."""
        while self.times <= times:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()


class Waiter:
    """One who looks and then waits, in turns. What comes while it looks ends its next `wait` at once."""

    __slots__ = ("_seen", "_wake")

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._seen = wake.times

    @property
    def is_due(self) -> bool:
        """Whether there is something to look at: `wait` would return at once."""
        return self._seen != self._wake.times

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to look at; False if there is nothing within `timeout` seconds.

        A wait that is cancelled takes nothing: the next one returns at once.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._wake.beyond(self._seen)
        except TimeoutError:
            if not self.is_due:
                return False
        self._seen = self._wake.times
        return True
