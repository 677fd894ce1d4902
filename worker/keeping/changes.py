"""That something changed, for any number of listeners."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


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
