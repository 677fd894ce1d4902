"""Who leads what: a cell, or work that one controller alone should do. Times are the database's, so that clocks of
other machines do not matter."""

from __future__ import annotations

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from controller.store.records import LeaseRecord
from controller.store.schema import leases
from controller.store.transaction import Tx


async def lease(tx: Tx, name: str, holder: str, ttl_seconds: float) -> LeaseRecord:
    """Take or renew the lead of `name` if nobody else holds it. Every change of holder is a new epoch."""
    until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, ttl_seconds)
    changes_hands = leases.c.holder != holder
    statement = (
        insert(leases)
        .values(cell=name, holder=holder, epoch=1, expires_at=until)
        .on_conflict_do_update(
            index_elements=["cell"],
            set_={
                "holder": holder,
                "epoch": leases.c.epoch + case((changes_hands, 1), else_=0),
                "expires_at": until,
            },
            where=or_(~changes_hands, leases.c.expires_at <= func.now()),
        )
        .returning(leases.c.epoch)
    )
    row = (await tx.execute(statement)).one_or_none()
    if row is not None:
        return LeaseRecord(True, row[0], ttl_seconds)
    left = func.extract("epoch", leases.c.expires_at - func.now())
    epoch, seconds = (await tx.execute(select(leases.c.epoch, left).where(leases.c.cell == name))).one()
    return LeaseRecord(False, epoch, max(0.0, float(seconds)))


async def release(tx: Tx, name: str, holder: str) -> LeaseRecord:
    """Let the lease expire now, if `holder` has it."""
    await tx.execute(
        update(leases).where(leases.c.cell == name, leases.c.holder == holder).values(expires_at=func.now())
    )
    return LeaseRecord(False, await current_epoch(tx, name), 0.0)


async def current_epoch(tx: Tx, name: str) -> int:
    row = (await tx.execute(select(leases.c.epoch).where(leases.c.cell == name))).one_or_none()
    return 0 if row is None else int(row[0])


async def adopt_epoch(tx: Tx, name: str, epoch: int) -> None:
    """Go on from an epoch given out elsewhere. Nobody holds the lease then: who asks for it gets a later one."""
    values = {"holder": "", "epoch": epoch, "expires_at": func.now()}
    await tx.execute(
        insert(leases)
        .values(cell=name, **values)
        .on_conflict_do_update(index_elements=["cell"], set_=values, where=leases.c.epoch < epoch)
    )
