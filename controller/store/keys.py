"""API keys, as hashes: the keys themselves are never stored."""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from berth.model import ApiKey
from berth.states import Role
from controller.store.mapper import Mapper, plain
from controller.store.records import KeyRecord
from controller.store.schema import api_keys
from controller.store.scope import PLATFORM, Owner, TenantScope, within
from controller.store.transaction import Tx

_KEY = Mapper(KeyRecord, api_keys, role=plain(api_keys.c.role, Role))


async def find_by_hash(tx: Tx, sha256: bytes) -> KeyRecord | None:
    """Whose key has this hash: who has the key may know, whoever they are."""
    row = (await tx.execute(_KEY.select().where(api_keys.c.sha256 == sha256))).one_or_none()
    return None if row is None else _KEY.record(row)


async def find(tx: Tx, owner: Owner, key_id: str) -> KeyRecord | None:
    statement = _KEY.select().where(api_keys.c.id == key_id, within(api_keys.c.tenant, owner))
    row = (await tx.execute(statement)).one_or_none()
    return None if row is None else _KEY.record(row)


async def page(tx: Tx, owner: Owner, after: str, limit: int) -> list[KeyRecord]:
    statement = _KEY.select().where(within(api_keys.c.tenant, owner), api_keys.c.id > after)
    return _KEY.records(await tx.execute(statement.order_by(api_keys.c.id).limit(limit)))


async def add(tx: Tx, owner: Owner, key_id: str, sha256: bytes, *, role: Role, description: str) -> KeyRecord:
    """Add a key, or give the one of this id a new hash and life (only `bootstrap` is ever added twice)."""
    values = {
        "sha256": sha256,
        "tenant": None if owner is PLATFORM else owner,
        "role": str(role),
        "description": description,
        "revoked_at": None,
    }
    statement = insert(api_keys).values(id=key_id, **values).on_conflict_do_update(index_elements=["id"], set_=values)
    return _KEY.record((await tx.execute(statement.returning(*_KEY.columns))).one())


async def revoke(tx: Tx, owner: Owner, key_id: str) -> None:
    statement = update(api_keys).where(api_keys.c.id == key_id, within(api_keys.c.tenant, owner))
    await tx.execute(statement.values(revoked_at=func.now()))


async def live(tx: Tx, scope: TenantScope) -> list[ApiKey]:
    """What routers must know of the keys that are not revoked. The platform's own keys are among them only if the scope
    is `EVERY_TENANT`."""
    statement = select(api_keys.c.sha256, api_keys.c.tenant, api_keys.c.role).where(
        api_keys.c.revoked_at.is_(None), within(api_keys.c.tenant, scope)
    )
    return [ApiKey(bytes(row[0]), row[1] or "", Role(row[2])) for row in await tx.execute(statement)]
