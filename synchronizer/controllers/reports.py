"""Observations to the controller: after each change, and every second as a sign of life."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from berth.errors import PreconditionFailed, Unavailable
from berth.model import ObservedCell
from berth.reconcile import Again, Backoff, Done, Outcome, Repeater, Retry
from berth.wake import Wake
from synchronizer.controllers.client import Controllers

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
        self._changed = Wake()
        self._loop = Repeater(self._look, wake=self._changed, backoff=backoff, rng=rng)
        self._epoch = 0
        self._sent = 0

    def wake(self) -> None:
        """Something changed: report soon."""
        self._changed.up()

    async def run(self) -> None:
        """Report until cancelled."""
        await self._loop.run()

    async def _look(self) -> Outcome:
        """Report on one stream for as long as there is something to say and a controller that reads it."""
        if self._observe() is None:
            return Done()
        before = self._sent
        try:
            await self._controllers.report(self._observations())
        except PreconditionFailed as error:
            log.warning("reports are refused", epoch=self._epoch, reason=error.detail)
            await self._deposed(self._epoch)
        except Unavailable as error:
            log.info("cannot report", reason=error.detail)
            # Sending one report shows nothing: it may have gone into a buffer. Two show a controller that reads.
            return Retry(error.detail, anew=self._sent > before + 1)
        return Again(0.0)

    async def _observations(self) -> AsyncIterator[ObservedCell]:
        changes = self._changed.waiter()
        while (observed := self._observe()) is not None:
            self._epoch = observed.epoch
            self._sent += 1
            yield observed
            await asyncio.sleep(self._coalesce)
            await changes.wait(self._interval - self._coalesce)
