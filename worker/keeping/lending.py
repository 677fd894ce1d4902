"""What the keeper shares with others: a guard that lends a version, and a number that grows with each change."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

from berth.ids import VersionKey
from worker.runtimes.protocol import Loaded, NotHeld


class Guard(AbstractContextManager[Loaded]):
    """Lends one version. Entering borrows, leaving gives back; it may be entered many times at once.

    One object per version, not per request: a borrow is a dict lookup and two additions. Not thread-safe.
    """

    __slots__ = ("_idle", "_key", "_loaded", "borrowers", "open")

    def __init__(self, key: VersionKey, loaded: Loaded) -> None:
        self._key = key
        self._loaded = loaded
        self._idle: asyncio.Event | None = None
        self.open = True
        self.borrowers = 0

    def __repr__(self) -> str:
        return f"<Guard {self._key} {'open' if self.open else 'closed'} borrowers={self.borrowers}>"

    def __enter__(self) -> Loaded:
        if not self.open:
            raise NotHeld(str(self._key))
        self.borrowers += 1
        return self._loaded

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.borrowers -= 1
        if not self.borrowers and self._idle is not None:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until nobody has it. Meaningful once it is closed."""
        if self.borrowers:
            self._idle = asyncio.Event()
            await self._idle.wait()


@dataclass(slots=True)
class Changes:
    """A number that grows with each change, and a way to wait for that. Any number may wait; none slows the others."""

    revision: int = 0
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self) -> None:
        self.revision += 1
        self._event.set()
        self._event = asyncio.Event()

    async def after(self, revision: int) -> int:
        while self.revision == revision:
            await self._event.wait()
        return self.revision
