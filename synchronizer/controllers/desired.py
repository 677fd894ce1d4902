"""The desired state of the cell: from any controller while one is there, on disk for when none is.

A standby watches too, so that it can take over in an instant.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from typing import NoReturn

import structlog

from berth.errors import Unavailable
from berth.model import DesiredState
from berth.reconcile import Backoff, Outcome, Repeater, Retry
from synchronizer.controllers.client import Controllers
from synchronizer.core.events import CellEvent, DesiredArrived
from synchronizer.metrics import Metrics
from synchronizer.state_dir import KeptState

_RECONNECT = Backoff(first=0.1, most=2.0)

log = structlog.get_logger(__name__)


class DesiredClient:
    """`silence`: after so many seconds without a message, another controller is asked. Controllers repeat themselves
    sooner.

    `heard` is told all that a controller says or repeats, unless it is refused. It is never told what the disk says.
    """

    def __init__(
        self,
        cell: str,
        controllers: Controllers,
        state: KeptState,
        post: Callable[[CellEvent], None],
        metrics: Metrics,
        *,
        heard: Callable[[DesiredState], None] = lambda _: None,
        silence: float = 15.0,
        backoff: Backoff = _RECONNECT,
        rng: random.Random | None = None,
    ) -> None:
        self._cell = cell
        self._controllers = controllers
        self._state = state
        self._post = post
        self._metrics = metrics
        self._heard = heard
        self._silence = silence
        self._loop = Repeater(self._look, backoff=backoff, rng=rng)
        self._known = 0

    async def run(self) -> None:
        """Begin with what the disk has, then follow the controllers until cancelled."""
        remembered = await self._state.read_desired(self._cell)
        if remembered is not None:
            log.info("desired state read from disk", generation=remembered.generation)
            self._known = remembered.generation
            self._post(DesiredArrived(remembered))
        await self._loop.run()

    async def _look(self) -> Outcome:
        before = self._known
        try:
            await self._follow()
        except (Unavailable, TimeoutError) as error:
            reason = str(error) or "silent for too long"
            log.info("desired feed broke", reason=reason)
            return Retry(reason, anew=self._known > before)

    async def _follow(self) -> NoReturn:
        """One stream, until it breaks."""
        async with aclosing(self._controllers.watch(self._cell, self._known)) as feed:
            while True:
                async with asyncio.timeout(self._silence):
                    desired = await anext(feed)
                await self._adopt(desired)

    async def _adopt(self, desired: DesiredState) -> None:
        if desired.cell != self._cell or desired.generation < self._known:
            # Acting on it would unload what was placed since. After restoring an old backup of the database,
            # remove the state folder and restart.
            log.warning("desired state refused", cell=desired.cell, generation=desired.generation, known=self._known)
            return
        if desired.generation == self._known:
            self._heard(desired)
            return
        try:
            # Before acting on it: a restart must not go back behind what was done.
            await self._state.write_desired(desired)
        except OSError as error:
            self._metrics.disk_errors.inc()
            log.error("desired state could not be written", error=str(error))
        self._known = desired.generation
        self._post(DesiredArrived(desired))
        self._heard(desired)
