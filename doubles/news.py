"""Waiting until something is true, without sleeping: whoever changes a state tells, whoever needs it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class News:
    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Wake all who wait, so that they look again."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def next(self) -> None:
        """Wait for the next `tell`."""
        await self._event.wait()

    async def until(self, true: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until `true()`. Raises `TimeoutError` after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while not true():
                await self.next()
