"""Tenants and API keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from berth.model import ApiKey, TenantLimits
from berth.states import Role
from controller.store import records
from controller.store.schema import api_keys, jobs, models, tenants, versions
from controller.store.transaction import Tx

_TENANT = select(
    tenants.c.name,
    tenants.c.max_models,
    tenants.c.max_bytes,
    tenants.c.requests_per_second,
    tenants.c.max_concurrent,
    tenants.c.bytes_per_second,
    tenants.c.weight,
    tenants.c.created_at,
)
_KEY = select(
    api_keys.c.id,
    api_keys.c.role,
    api_keys.c.tenant,
    api_keys.c.description,
    api_keys.c.created_at,
    api_keys.c.revoked_at,
)


async def find(tx: Tx, name: str) -> records.Tenant | None:
    row = (await tx.execute(_TENANT.where(tenants.c.name == name))).one_or_none()
    return None if row is None else records.Tenant(*row)


async def page(tx: Tx, after: str, limit: int) -> list[records.Tenant]:
    rows = await tx.execute(_TENANT.where(tenants.c.name > after).order_by(tenants.c.name).limit(limit))
    return [records.Tenant(*row) for row in rows]


async def add(tx: Tx, name: str, quota: dict[str, Any]) -> bool:
    """Whether it was added; False if the name is taken."""
    statement = insert(tenants).values(name=name, **quota).on_conflict_do_nothing().returning(tenants.c.name)
    return (await tx.execute(statement)).one_or_none() is not None


async def set_quota(tx: Tx, name: str, quota: dict[str, Any]) -> None:
    await tx.execute(update(tenants).where(tenants.c.name == name).values(**quota))


async def in_use_by(tx: Tx, name: str) -> str | None:
    """What keeps the tenant from being deleted: models (also those still draining) or dedicated jobs."""
    for table, column, what in ((models, models.c.tenant, "models"), (jobs, jobs.c.dedicated_tenant, "dedicated jobs")):
        count = (await tx.execute(select(func.count()).select_from(table).where(column == name))).scalar_one()
        if count:
            return f"{count} {what}"
    return None


async def remove(tx: Tx, name: str) -> None:
    await tx.execute(api_keys.delete().where(api_keys.c.tenant == name))
    await tx.execute(tenants.delete().where(tenants.c.name == name))


async def usage(tx: Tx, name: str) -> tuple[int, int]:
    """How many models the tenant has, and the bytes of all its stored versions."""
    count = select(func.count()).select_from(models).where(models.c.tenant == name, models.c.deleted_at.is_(None))
    size = (
        select(func.coalesce(func.sum(versions.c.size_bytes), 0))
        .join_from(versions, models, models.c.id == versions.c.model_id)
        .where(models.c.tenant == name)
    )
    row = (await tx.execute(select(count.scalar_subquery(), size.scalar_subquery()))).one()
    return int(row[0]), int(row[1])


async def limits(tx: Tx) -> list[TenantLimits]:
    columns = (tenants.c.requests_per_second, tenants.c.max_concurrent, tenants.c.bytes_per_second, tenants.c.weight)
    rows = await tx.execute(select(tenants.c.name, *columns))
    return [TenantLimits(*row) for row in rows]


async def find_key(tx: Tx, sha256: bytes) -> records.Key | None:
    row = (await tx.execute(_KEY.where(api_keys.c.sha256 == sha256))).one_or_none()
    return None if row is None else _key(row)


async def find_key_by_id(tx: Tx, tenant: str | None, key_id: str) -> records.Key | None:
    row = (await tx.execute(_KEY.where(api_keys.c.id == key_id, _owner(tenant)))).one_or_none()
    return None if row is None else _key(row)


async def page_keys(tx: Tx, tenant: str | None, after: str, limit: int) -> list[records.Key]:
    statement = _KEY.where(_owner(tenant), api_keys.c.id > after).order_by(api_keys.c.id).limit(limit)
    return [_key(row) for row in await tx.execute(statement)]


async def add_key(
    tx: Tx, key_id: str, sha256: bytes, *, tenant: str | None, role: Role, description: str
) -> records.Key:
    """Add a key, or give the one of this id a new hash and life (only `bootstrap` is ever added twice)."""
    values = {"sha256": sha256, "tenant": tenant, "role": str(role), "description": description, "revoked_at": None}
    statement = insert(api_keys).values(id=key_id, **values).on_conflict_do_update(index_elements=["id"], set_=values)
    row = (await tx.execute(statement.returning(*_KEY.selected_columns))).one()
    return _key(row)


async def revoke_key(tx: Tx, key_id: str) -> None:
    await tx.execute(update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=func.now()))


async def live_keys(tx: Tx) -> list[ApiKey]:
    statement = select(api_keys.c.sha256, api_keys.c.tenant, api_keys.c.role).where(api_keys.c.revoked_at.is_(None))
    return [ApiKey(bytes(row[0]), row[1] or "", Role(row[2])) for row in await tx.execute(statement)]


def _owner(tenant: str | None) -> Any:
    return api_keys.c.tenant.is_(None) if tenant is None else api_keys.c.tenant == tenant


def _key(row: Any) -> records.Key:
    return records.Key(row[0], Role(row[1]), *row[2:])
