"""Which of several controllers does the work that only one should do: a lease in the database, as synchronizers have
for cells.

Unlike an advisory lock it has an epoch, so that a deposed leader's late writes can be refused. And it needs no
connection between two looks. It is for work that remembers something; `Transactions.lead` is for work that does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from berth.errors import BerthError, PreconditionFailed
from berth.reconcile import Again, Outcome, Repeater
from controller.store import leases
from controller.store.transaction import Transactions, Tx

log = structlog.get_logger(__name__)

TTL_S = 10.0
_RESIGN_S = 1.0


class SoleLeadership:
    """Of `what`, for `holder`. No cell has such a name: cells have no tilde."""

    def __init__(self, transactions: Transactions, what: str, holder: str, ttl_s: float = TTL_S) -> None:
        self._transactions = transactions
        self._name = f"~{what}"
        self._holder = holder
        self._ttl_s = ttl_s
        self._epoch: int | None = None

    def __repr__(self) -> str:
        return f"<SoleLeadership of {self._name[1:]} epoch={self._epoch}>"

    async def renew(self) -> int | None:
        """The epoch of this controller's lead, None while another leads. Raises `Unavailable`."""
        self._epoch = None
        lease = await self._transactions.run(lambda tx: leases.lease(tx, self._name, self._holder, self._ttl_s))
        self._epoch = lease.epoch if lease.granted else None
        return self._epoch

    async def check(self, tx: Tx) -> None:
        """Raises `PreconditionFailed` within `tx` if another leads by now."""
        if self._epoch is None or await leases.current_epoch(tx, self._name) != self._epoch:
            raise PreconditionFailed(f"another controller has {self._name[1:]} now")

    async def repeat(self, tick: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Do `tick`, which renews the lead, every so many seconds until cancelled, and let another lead then. While the
        database is away nothing is done."""

        async def look() -> Outcome:
            try:
                await tick()
            except BerthError as error:
                log.warning("a leader's work waits", what=self._name[1:], error=error.detail)
            return Again(every_s)

        try:
            await Repeater(look).run()
        finally:
            await self.resign()

    async def resign(self) -> None:
        """Let another lead at once. Takes a second at most; what fails expires."""
        if self._epoch is None:
            return
        self._epoch = None
        with suppress(BerthError, TimeoutError):
            async with asyncio.timeout(_RESIGN_S):
                await self._transactions.run(lambda tx: leases.release(tx, self._name, self._holder))
