"""Tenants: their quotas, and what they use of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from berth.model import TenantLimits
from controller.core.quota import Quota
from controller.store.mapper import Mapper, Part
from controller.store.records import TenantRecord
from controller.store.schema import api_keys, jobs, models, tenants, versions
from controller.store.scope import TenantScope, within
from controller.store.transaction import Tx

_TENANT = Mapper(
    TenantRecord, tenants, quota=Part(tuple(tenants.c[field.name] for field in fields(Quota)), Quota, asdict)
)


@dataclass(frozen=True, slots=True)
class _Written:
    quota: Quota


async def find(tx: Tx, name: str) -> TenantRecord | None:
    row = (await tx.execute(_TENANT.select().where(tenants.c.name == name))).one_or_none()
    return None if row is None else _TENANT.record(row)


async def page(tx: Tx, scope: TenantScope, after: str, limit: int) -> list[TenantRecord]:
    statement = _TENANT.select().where(within(tenants.c.name, scope), tenants.c.name > after)
    return _TENANT.records(await tx.execute(statement.order_by(tenants.c.name).limit(limit)))


async def add(tx: Tx, name: str, quota: Quota) -> bool:
    """Whether it was added; False if the name is taken."""
    statement = insert(tenants).values(name=name, **_TENANT.values(_Written(quota)))
    return (await tx.execute(statement.on_conflict_do_nothing().returning(tenants.c.name))).one_or_none() is not None


async def set_quota(tx: Tx, name: str, quota: Quota) -> None:
    await tx.execute(update(tenants).where(tenants.c.name == name).values(_TENANT.values(_Written(quota))))


async def in_use_by(tx: Tx, name: str) -> str | None:
    """What keeps the tenant from being deleted: models (also those still draining) or dedicated jobs."""
    for table, column, what in ((models, models.c.tenant, "models"), (jobs, jobs.c.dedicated_tenant, "dedicated jobs")):
        count = (await tx.execute(select(func.count()).select_from(table).where(column == name))).scalar_one()
        if count:
            return f"{count} {what}"
    return None


async def remove(tx: Tx, name: str) -> None:
    """The tenant and its keys."""
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


async def limits(tx: Tx, scope: TenantScope) -> list[TenantLimits]:
    """What routers enforce."""
    columns = (tenants.c.requests_per_second, tenants.c.max_concurrent, tenants.c.bytes_per_second, tenants.c.weight)
    rows = await tx.execute(select(tenants.c.name, *columns).where(within(tenants.c.name, scope)))
    return [TenantLimits(*row) for row in rows]
