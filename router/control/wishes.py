"""The wishes for versions that are not loaded, and a wake-up for the streams that report them."""

from __future__ import annotations

import asyncio
from typing import Final

from berth.ids import VersionKey
from berth.wake import Wake
from router.core.wanted import Notices, Wanted


class Wishes:
    """`Wanted` with a clock, and a wake for those who are to be told."""

    def __init__(self) -> None:
        self._wanted = Wanted()
        self._loop = asyncio.get_running_loop()
        # Up at each wish that was not there before.
        self.news: Final = Wake()

    def __repr__(self) -> str:
        return f"<Wishes {len(self._wanted)}>"

    def ask(self, key: VersionKey, until: float) -> None:
        """Someone waits for `key` until this time of the event loop."""
        if self._wanted.ask(key, until, self._loop.time()):
            self.news.up()

    def fulfilled(self, key: VersionKey) -> None:
        """Nobody waits for `key` any more."""
        self._wanted.fulfilled(key)

    def notices(self) -> Notices:
        """For one stream: what it is to say, and when."""
        return Notices(self._wanted)
