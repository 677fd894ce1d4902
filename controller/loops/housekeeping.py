"""Puts away what nobody needs any more."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import structlog

from berth.artifacts.store import ArtifactStore
from berth.errors import BerthError
from berth.reconcile import Again, Outcome, Repeater
from controller.intake.removal import REMOVAL_LOCK, Removal
from controller.store import events, requests
from controller.store.transaction import Transactions

log = structlog.get_logger(__name__)

HOUSEKEEPING_S = 300.0
KEEP_REQUESTS = timedelta(hours=24)
KEEP_EVENTS = timedelta(days=30)
KEEP_ARTIFACTS = timedelta(hours=1)
_KEEP_DRAFTS_S = 6 * 3600.0


class Housekeeping:
    """Forgets old requests and events, collects unused artifacts, removes what killed uploads left."""

    def __init__(self, transactions: Transactions, store: ArtifactStore, spool: Path) -> None:
        self._transactions = transactions
        self._store = store
        self._removal = Removal(transactions, store)
        self._spool = spool

    async def run(self) -> None:
        """Until cancelled, in one controller at a time."""
        await Repeater(self._look).run()

    async def _look(self) -> Outcome:
        try:
            async with self._transactions.lead(REMOVAL_LOCK) as leading:
                if leading:
                    await self.tidy(KEEP_ARTIFACTS)
        except BerthError as error:
            log.warning("housekeeping waits", error=error.detail)
        return Again(HOUSEKEEPING_S)

    async def tidy(self, keep_artifacts: timedelta) -> None:
        """One round. `keep_artifacts` must be longer than an upload takes to store what it has announced."""
        await self._transactions.run(lambda tx: requests.forget(tx, KEEP_REQUESTS))
        await self._transactions.run(lambda tx: events.forget(tx, KEEP_EVENTS))
        await self._removal.collect(keep_artifacts)
        await self._store.sweep(time.time(), older_than_s=_KEEP_DRAFTS_S)
        await asyncio.to_thread(_sweep_folder, self._spool, time.time() - _KEEP_DRAFTS_S)


def _sweep_folder(folder: Path, before: float) -> None:
    for path in folder.glob("berth-upload-*"):
        try:
            if path.stat().st_mtime < before:
                path.unlink()
        except FileNotFoundError:
            continue
