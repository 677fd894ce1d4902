"""Events, in the order of commits. `transaction` writes them with what they tell of."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, func, select

from controller.store.mapper import Mapper
from controller.store.records import EventRecord
from controller.store.schema import events
from controller.store.scope import TenantScope, within
from controller.store.transaction import Tx

_EVENT = Mapper(EventRecord, events)


async def page(tx: Tx, scope: TenantScope, after: int, limit: int) -> list[EventRecord]:
    """Oldest first, from the one after `after`."""
    statement = _EVENT.select().where(events.c.id > after, within(events.c.tenant, scope))
    return _EVENT.records(await tx.execute(statement.order_by(events.c.id).limit(limit)))


async def last_id(tx: Tx) -> int:
    return int((await tx.execute(select(func.coalesce(func.max(events.c.id), 0)))).scalar_one())


async def forget(tx: Tx, keep: timedelta) -> None:
    """Delete what is older than `keep`."""
    await tx.execute(delete(events).where(events.c.at < func.now() - keep))
