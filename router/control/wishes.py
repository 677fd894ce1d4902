"""The wishes for versions that are not loaded, and who is to be told that there are new ones."""

from __future__ import annotations

import asyncio

from berth.ids import VersionKey
from router.core.wanted import Notices, Wanted


class Wishes:
    """`Wanted` with a clock and an event."""

    def __init__(self) -> None:
        self._wanted = Wanted()
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Wishes {len(self._wanted)}>"

    def ask(self, key: VersionKey, until: float) -> None:
        """Someone waits for `key` until this time of the event loop."""
        if self._wanted.ask(key, until, self._loop.time()):
            asked, self._asked = self._asked, asyncio.Event()
            asked.set()

    def fulfilled(self, key: VersionKey) -> None:
        """Nobody waits for `key` any more."""
        self._wanted.fulfilled(key)

    def notices(self) -> Notices:
        """For one stream: what it is to say, and when."""
        return Notices(self._wanted)

    @property
    def next_wish(self) -> asyncio.Event:
        """Set by the next wish that was not there before. Take it before looking."""
        return self._asked
