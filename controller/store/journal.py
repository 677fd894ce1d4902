"""Events, remembered requests, and which artifacts are in use."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from controller.store import records
from controller.store.schema import artifacts, events, idempotency, versions
from controller.store.transaction import Tx
from controller.store.uploads import referred_by_upload

_EVENT = select(
    events.c.id, events.c.at, events.c.kind, events.c.actor, events.c.tenant, events.c.subject, events.c.data
)


async def page_events(tx: Tx, tenant: str | None, after: int, limit: int) -> list[records.Event]:
    """Oldest first, from the one after `after`; of one tenant, or of all for None."""
    statement = _EVENT.where(events.c.id > after).order_by(events.c.id).limit(limit)
    if tenant is not None:
        statement = statement.where(events.c.tenant == tenant)
    return [records.Event(*row) for row in await tx.execute(statement)]


async def last_event_id(tx: Tx) -> int:
    return int((await tx.execute(select(func.coalesce(func.max(events.c.id), 0)))).scalar_one())


async def forget_events(tx: Tx, keep: timedelta) -> None:
    await tx.execute(delete(events).where(events.c.at < func.now() - keep))


class Remembered(NamedTuple):
    fingerprint: bytes
    status: int
    body: dict[str, Any]


async def recall(tx: Tx, actor: str, key: str) -> Remembered | None:
    """What was answered to this idempotency key before, unless that is too long ago."""
    statement = select(idempotency.c.fingerprint, idempotency.c.status, idempotency.c.body).where(
        idempotency.c.actor == actor, idempotency.c.key == key
    )
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else Remembered(bytes(row[0]), row[1], row[2])


async def remember(tx: Tx, actor: str, key: str, answer: Remembered) -> None:
    await tx.execute(
        idempotency.insert().values(
            actor=actor, key=key, fingerprint=answer.fingerprint, status=answer.status, body=answer.body
        )
    )


async def forget_requests(tx: Tx, keep: timedelta) -> None:
    await tx.execute(delete(idempotency).where(idempotency.c.created_at < func.now() - keep))


async def touch_artifact(tx: Tx, sha256: str, size_bytes: int) -> bool:
    """Say that an upload is about to store these bytes or refer to them. False while they are being deleted."""
    statement = insert(artifacts).values(sha256=sha256, size_bytes=size_bytes)
    statement = statement.on_conflict_do_update(
        index_elements=["sha256"], set_={"touched_at": func.now()}, where=artifacts.c.condemned_at.is_(None)
    )
    return (await tx.execute(statement.returning(artifacts.c.sha256))).one_or_none() is not None


async def is_live_artifact(tx: Tx, sha256: str) -> bool:
    """Whether the artifact is known and not being deleted."""
    statement = select(artifacts.c.sha256).where(artifacts.c.sha256 == sha256, artifacts.c.condemned_at.is_(None))
    return (await tx.execute(statement)).one_or_none() is not None


async def condemn_artifacts(tx: Tx, keep: timedelta, limit: int = 100) -> list[str]:
    """Mark artifacts that no version or upload refers to and none has touched for `keep`; also those marked before."""
    used = select(versions.c.sha256).where(versions.c.sha256 == artifacts.c.sha256).exists() | referred_by_upload()
    idle = (artifacts.c.touched_at < func.now() - keep) & ~used
    chosen = select(artifacts.c.sha256).where(or_(artifacts.c.condemned_at.is_not(None), idle)).limit(limit)
    statement = update(artifacts).where(artifacts.c.sha256.in_(chosen)).values(condemned_at=func.now())
    return [row[0] for row in await tx.execute(statement.returning(artifacts.c.sha256))]


async def remove_artifact(tx: Tx, sha256: str) -> None:
    """Forget a condemned artifact whose object is gone."""
    await tx.execute(delete(artifacts).where(artifacts.c.sha256 == sha256, artifacts.c.condemned_at.is_not(None)))
