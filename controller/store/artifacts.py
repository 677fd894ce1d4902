"""Which artifacts there are: announced before they are stored, condemned before they are deleted."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from controller.store.schema import artifacts, versions
from controller.store.transaction import Tx
from controller.store.uploads import referred_by_upload


async def touch(tx: Tx, sha256: str, size_bytes: int) -> bool:
    """Say that an upload is about to store these bytes or refer to them. False while they are being deleted."""
    statement = insert(artifacts).values(sha256=sha256, size_bytes=size_bytes)
    statement = statement.on_conflict_do_update(
        index_elements=["sha256"], set_={"touched_at": func.now()}, where=artifacts.c.condemned_at.is_(None)
    )
    return (await tx.execute(statement.returning(artifacts.c.sha256))).one_or_none() is not None


async def is_live(tx: Tx, sha256: str) -> bool:
    """Whether the artifact is known and not being deleted."""
    statement = select(artifacts.c.sha256).where(artifacts.c.sha256 == sha256, artifacts.c.condemned_at.is_(None))
    return (await tx.execute(statement)).one_or_none() is not None


async def condemn(tx: Tx, keep: timedelta, limit: int = 100) -> list[str]:
    """Mark artifacts that no version or upload refers to and none has touched for `keep`; also those marked before."""
    idle = (artifacts.c.touched_at < func.now() - keep) & ~_in_use()
    chosen = select(artifacts.c.sha256).where(or_(artifacts.c.condemned_at.is_not(None), idle)).limit(limit)
    statement = update(artifacts).where(artifacts.c.sha256.in_(chosen)).values(condemned_at=func.now())
    return [row[0] for row in await tx.execute(statement.returning(artifacts.c.sha256))]


async def condemn_unused(tx: Tx, digests: Collection[str]) -> list[str]:
    """Mark those of these artifacts that no version and no upload refers to: their objects are about to be deleted."""
    statement = update(artifacts).where(artifacts.c.sha256.in_(digests), ~_in_use()).values(condemned_at=func.now())
    return [row[0] for row in await tx.execute(statement.returning(artifacts.c.sha256))]


async def still_condemned(tx: Tx, digests: Collection[str]) -> list[str]:
    """Those of these artifacts whose objects are still to be deleted."""
    statement = select(artifacts.c.sha256).where(artifacts.c.sha256.in_(digests), artifacts.c.condemned_at.is_not(None))
    return [row[0] for row in await tx.execute(statement)]


async def remove(tx: Tx, sha256: str) -> None:
    """Forget a condemned artifact whose object is gone."""
    await tx.execute(delete(artifacts).where(artifacts.c.sha256 == sha256, artifacts.c.condemned_at.is_not(None)))


def _in_use() -> Any:
    return select(versions.c.sha256).where(versions.c.sha256 == artifacts.c.sha256).exists() | referred_by_upload()
