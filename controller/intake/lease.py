"""Keeps an upload's lease while its holder works on it.

A holder whose lease cannot be renewed goes on: the fence refuses what it would record, and to cancel half a step would
gain nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from berth.errors import BerthError
from controller.core.intake import LEASE_S, UploadTicket
from controller.store import uploads
from controller.store.transaction import Transactions

log = structlog.get_logger(__name__)


@asynccontextmanager
async def keep_lease(transactions: Transactions, ticket: UploadTicket, lease_s: float = LEASE_S) -> AsyncIterator[None]:
    """Renew the lease three times in its life, until the context ends or someone else has it."""
    renewing = asyncio.create_task(_renew(transactions, ticket, lease_s), name=f"upload-lease:{ticket.upload}")
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])


async def _renew(transactions: Transactions, ticket: UploadTicket, lease_s: float) -> None:
    held = True
    while held:
        await asyncio.sleep(lease_s / 3)
        try:
            held = await transactions.run(lambda tx: uploads.renew(tx, ticket, lease_s))
        except BerthError as error:
            log.warning("an upload's lease could not be renewed", upload=ticket.upload, error=error.detail)
    log.warning("an upload was taken over", upload=ticket.upload)
