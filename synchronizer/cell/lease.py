"""Asks for the lease of the cell, again and again, and passes on what follows from the answers."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable

import structlog

from berth.errors import Unavailable
from berth.reconcile import Again, Outcome, Repeater
from synchronizer.core.leadership import Denied, Fenced, Granted, Leadership, LeaseEvent, RoleChange, Unreachable
from synchronizer.surroundings.ports import Leases

log = structlog.get_logger(__name__)

_SOON_S = 0.02


class LeaseKeeper:
    """Renews at a third of `ttl` (seconds); `obey` is given every instruction, in order."""

    def __init__(
        self,
        cell: str,
        instance: str,
        ttl: float,
        leases: Leases,
        *,
        leadership: Leadership,
        obey: Callable[[RoleChange], Awaitable[None]],
        rng: random.Random | None = None,
    ) -> None:
        self._cell = cell
        self._instance = instance
        self._ttl = ttl
        self._leases = leases
        self._leadership = leadership
        self._obey = obey
        self._rng = rng or random.Random()
        self._holder = self._new_holder()
        self._answered_at: float | None = None

    def reached(self, now: float) -> bool:
        """Whether there was an answer within the last `ttl` seconds of the event loop's clock."""
        return self._answered_at is not None and now - self._answered_at < self._ttl

    async def fenced(self, epoch: int) -> None:
        """`epoch`, and all before it, is over or another's."""
        await self._decide_on(Fenced(epoch), asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Ask until cancelled."""
        await Repeater(self._look).run()

    async def release(self) -> bool:
        """Give the lease up, so that a standby need not wait for it to expire. False if nobody could be told."""
        try:
            await self._request(release=True)
        except Unavailable:
            return False
        return True

    async def _look(self) -> Outcome:
        pause = await self._ask()
        return Again(pause * (0.9 + 0.1 * self._rng.random()))

    async def _ask(self) -> float:
        """Ask once; returns after how many seconds to ask again."""
        asked = asyncio.get_running_loop().time()
        try:
            granted, epoch, expires_in = await self._request(release=False)
        except Unavailable as error:
            log.info("no lease answer", reason=error.detail)
            await self._decide_on(Unreachable(), asked)
            return self._ttl / 6
        self._answered_at = asked
        if not granted:
            await self._decide_on(Denied(epoch), asked)
            return min(self._ttl / 3, max(expires_in, 0.0) + _SOON_S)
        await self._decide_on(Granted(epoch, self._ttl), asked)
        if self._leadership.epoch != epoch:
            # Ours, and yet someone has shown this epoch or a later one: a database restored from a backup gives epochs
            # out again. Each new holder gets the next one, until they are past what workers have seen.
            log.error("the lease is granted in an epoch that is over", epoch=epoch)
            await self.release()
            self._holder = self._new_holder()
            return self._ttl / 6
        return self._ttl / 3

    async def _request(self, *, release: bool) -> tuple[bool, int, float]:
        return await self._leases.lease(self._cell, self._holder, self._ttl, release=release, timeout=self._ttl / 3)

    async def _decide_on(self, event: LeaseEvent, now: float) -> None:
        instruction = self._leadership.on(event, now)
        if instruction is not None:
            log.info("leadership", phase=self._leadership.phase, instruction=str(instruction))
            await self._obey(instruction)

    def _new_holder(self) -> str:
        return f"{self._instance}-{uuid.uuid4().hex[:12]}"
