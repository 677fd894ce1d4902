"""Observations to the controller: after each change, and every second as a sign of life."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from berth.errors import PreconditionFailed, Unavailable
from berth.model import ObservedCell
from berth.reconcile import Backoff
from synchronizer.controllers import Controllers

_RECONNECT = Backoff(first=0.1, most=2.0)

log = structlog.get_logger(__name__)


class Reporter:
    """`observe` gives the observation of now, or None while this synchronizer does not lead. Times are in seconds."""

    def __init__(
        self,
        controllers: Controllers,
        observe: Callable[[], ObservedCell | None],
        deposed: Callable[[int], Awaitable[None]],
        *,
        interval: float = 1.0,
        coalesce: float = 0.05,
        backoff: Backoff = _RECONNECT,
        rng: random.Random | None = None,
    ) -> None:
        self._controllers = controllers
        self._observe = observe
        self._deposed = deposed
        self._interval = interval
        self._coalesce = coalesce
        self._backoff = backoff
        self._rng = rng or random.Random()
        self._changed = asyncio.Event()
        self._epoch = 0
        self._sent = 0

    def wake(self) -> None:
        """Something changed: report soon."""
        self._changed.set()

    async def run(self) -> None:
        """Report until cancelled."""
        failures = 0
        while True:
            await self._changed.wait()
            if self._observe() is None:
                self._changed.clear()
                continue
            before = self._sent
            try:
                await self._controllers.report(self._observations())
                failures = 0
            except PreconditionFailed as error:
                log.warning("reports are refused", epoch=self._epoch, reason=error.detail)
                await self._deposed(self._epoch)
            except Unavailable as error:
                # Sending one report shows nothing: it may have gone into a buffer. Two show a controller that reads.
                failures = 1 if self._sent > before + 1 else failures + 1
                log.info("cannot report", reason=error.detail)
                await asyncio.sleep(self._backoff.delay(failures, self._rng))
            self._changed.set()

    async def _observations(self) -> AsyncIterator[ObservedCell]:
        while (observed := self._observe()) is not None:
            self._changed.clear()
            self._epoch = observed.epoch
            self._sent += 1
            yield observed
            await asyncio.sleep(self._coalesce)
            try:
                async with asyncio.timeout(self._interval - self._coalesce):
                    await self._changed.wait()
            except TimeoutError:
                pass
