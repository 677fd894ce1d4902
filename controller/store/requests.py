"""What was answered to requests that carry an idempotency key."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, func

from controller.store.mapper import Mapper, Part
from controller.store.records import RememberedRequest
from controller.store.schema import idempotency
from controller.store.transaction import Tx

_REQUEST = Mapper(RememberedRequest, idempotency, fingerprint=Part((idempotency.c.fingerprint,), bytes))


async def recall(tx: Tx, actor: str, key: str) -> RememberedRequest | None:
    """What was answered to this key of the actor's before, unless that is too long ago."""
    statement = _REQUEST.select().where(idempotency.c.actor == actor, idempotency.c.key == key)
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else _REQUEST.record(row)


async def remember(tx: Tx, actor: str, key: str, request: RememberedRequest) -> None:
    await tx.execute(idempotency.insert().values(actor=actor, key=key, **request._asdict()))


async def forget(tx: Tx, keep: timedelta) -> None:
    """Delete what is older than `keep`."""
    await tx.execute(delete(idempotency).where(idempotency.c.created_at < func.now() - keep))
