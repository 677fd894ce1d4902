"""Takes over uploads that nobody holds any more, in every controller: finishes them, or leaves nothing of them.

What there is to take over is in the database alone. A take-over that fails for now is tried again, here or elsewhere,
when its lease has ended: leases are the back-off.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from berth.errors import BerthError, Retryable
from berth.reconcile import Again, Done, Outcome, Reconciler, Repeater
from berth.settling import settle
from controller.core.intake import LEASE_S, Upload
from controller.intake.lease import keep_lease
from controller.intake.metrics import IntakeMetrics
from controller.intake.steps import Steps
from controller.store import uploads
from controller.store.transaction import Transactions

log = structlog.get_logger(__name__)

SWEEP_S = 5.0
_AT_ONCE = 2
# Before an upload that failed for now is tried again.
_PAUSE_S = 10.0
_STOP_S = 1.0


class Resuming:
    def __init__(self, transactions: Transactions, steps: Steps, holder: str, metrics: IntakeMetrics) -> None:
        self._transactions = transactions
        self._steps = steps
        self._holder = holder
        self._metrics = metrics
        self._loop: Reconciler[int] = Reconciler("uploads", self.look, concurrency=_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Resuming {self._loop!r}>"

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._loop.run(), name="uploads")
            await Repeater(self._sweep_again).run()

    async def _sweep_again(self) -> Outcome:
        try:
            await self.sweep()
        except BerthError as error:
            log.warning("uploads wait", error=error.detail)
        return Again(SWEEP_S)

    async def sweep(self) -> list[int]:
        """Look soon at all uploads that nobody holds; returns them."""
        found = await self._transactions.read(uploads.ended_leases)
        for upload_id in found:
            self._loop.add(upload_id)
        return found

    async def look(self, upload_id: int) -> Outcome:
        """Take the upload over, unless someone holds it, and end it."""
        upload = await self._transactions.run(
            lambda tx: uploads.claim(tx, upload_id, self._holder, LEASE_S), uploads=True
        )
        if upload is not None:
            # In the log it goes on as the request that it came with.
            with structlog.contextvars.bound_contextvars(request_id=upload.requester.command.request_id):
                log.info("taking over an upload", upload=upload_id, step=str(upload.step), losses=upload.losses)
                async with keep_lease(self._transactions, upload.ticket):
                    outcome = await self._take_over(upload)
            self._metrics.resumed.labels(outcome).inc()
        return Done()

    async def _take_over(self, upload: Upload) -> str:
        try:
            await self._steps.finish(upload, None)
        except asyncio.CancelledError:
            await settle(self._stop(upload))
            raise
        except Retryable as error:
            log.warning("an upload waits", upload=upload.ticket.upload, error=error.detail)
            await self._transactions.run(lambda tx: uploads.give_back(tx, upload.ticket, _PAUSE_S), uploads=True)
            return "waits"
        except BerthError as error:
            # Its client is gone and hears this when it sends the same again.
            log.info("an upload came to nothing", upload=upload.ticket.upload, error=error.detail)
            await self._steps.withdraw(upload.ticket)
            return "withdrawn"
        return "placed"

    async def _stop(self, upload: Upload) -> None:
        """This controller ends: the next one need not wait for the lease."""
        with suppress(BerthError, TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await self._steps.leave(upload.ticket)
