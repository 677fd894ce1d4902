"""What synchronizers say: who leads a cell, and what its replicas hold."""

from __future__ import annotations

from berth.errors import InvalidArgument, PreconditionFailed
from berth.ids import ModelKey, check_name
from berth.model import ObservedCell
from controller.store import leases, reports
from controller.store.records import LeaseRecord
from controller.store.transaction import Tx
from controller.usecases import naming

# Seconds. Shorter ones would expire between two renewals of a busy machine, longer ones delay a takeover for minutes.
SHORTEST_TTL = 0.2
LONGEST_TTL = 60.0
_LONGEST_HOLDER = 200


async def lease(tx: Tx, cell: str, holder: str, ttl_seconds: float, *, release: bool) -> LeaseRecord:
    """Take, renew or give up the leadership of a cell."""
    check_name("cell", cell)
    if not 0 < len(naming.check_text("holder", holder)) <= _LONGEST_HOLDER:
        raise InvalidArgument(f"a holder's name has 1 to {_LONGEST_HOLDER} characters")
    if release:
        return await leases.release(tx, cell, holder)
    if not SHORTEST_TTL <= ttl_seconds <= LONGEST_TTL:
        raise InvalidArgument(f"a lease lasts {SHORTEST_TTL} to {LONGEST_TTL} seconds, not {ttl_seconds}")
    return await leases.lease(tx, cell, holder, ttl_seconds)


async def report(tx: Tx, report: ObservedCell) -> set[ModelKey]:
    """Store the whole report; return the models that changed in it.

    Raises `PreconditionFailed` if the reporter was deposed, or never led. Where it is deposed at the same moment,
    PostgreSQL makes one of the two transactions wait or try again: an old report never replaces a newer leader's.

    A later epoch than ours was given out by somebody else: by a Lease in the cell's cluster, or by this database before
    it was restored from a backup. It leads, and our own epochs go on after it.
    """
    epoch = await leases.current_epoch(tx, report.cell)
    if report.epoch > epoch:
        await leases.adopt_epoch(tx, report.cell, report.epoch)
    elif report.epoch == 0 or report.epoch != epoch:
        raise PreconditionFailed(f"epoch {report.epoch} does not lead cell {report.cell!r}, epoch {epoch} does")
    return await reports.record(tx, report)
