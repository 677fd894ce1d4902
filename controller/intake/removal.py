"""Removes the objects of artifacts that nobody uses: of refused uploads at once, of others when they have been idle.

One remover at a time, over all controllers and over those of the release before: `REMOVAL_LOCK`. What is condemned is
asked for anew under the lock. Of two removers the later one would otherwise delete what was stored again under the same
name in between, and belongs to a version by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from berth.artifacts.store import ArtifactStore
from controller.store import artifacts
from controller.store.transaction import Transactions

log = structlog.get_logger(__name__)

REMOVAL_LOCK = 0x62657275
"""A session's lock: it ends with its process, and a process that is frozen keeps it."""

# Before another remover's turn is looked at again, in seconds; after so many looks it is left to the collector.
_PAUSE_S = 0.1
_LOOKS = 50


class Removal:
    def __init__(self, transactions: Transactions, store: ArtifactStore) -> None:
        self._transactions = transactions
        self._store = store

    async def remove(self, condemned: Sequence[str]) -> None:
        """Remove these, unless they are in use again. Raises `Unavailable`."""
        if not condemned:
            return
        for _ in range(_LOOKS):
            async with self._transactions.lead(REMOVAL_LOCK) as alone:
                if alone:
                    await self._remove(
                        await self._transactions.read(lambda tx: artifacts.still_condemned(tx, condemned))
                    )
                    return
            await asyncio.sleep(_PAUSE_S)
        log.info("the bytes of an upload that came to nothing are left to the collector", artifacts=list(condemned))

    async def collect(self, keep: timedelta) -> None:
        """Remove what nobody has used or touched for `keep`, and what others left. The caller has the lock."""
        await self._remove(await self._transactions.run(lambda tx: artifacts.condemn(tx, keep)))

    async def _remove(self, digests: Sequence[str]) -> None:
        # Condemned first and forgotten last: an upload of the same bytes waits meanwhile, and a kill in between is made
        # good by the next round.
        for sha256 in digests:
            await self._store.delete(sha256)
            await self._transactions.run(lambda tx, gone=sha256: artifacts.remove(tx, gone))  # type: ignore[misc]
            log.info("removed an artifact that nobody uses", sha256=sha256)
