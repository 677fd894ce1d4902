"""Tenants and their quotas."""

from __future__ import annotations

from dataclasses import asdict

from berth.errors import Conflict
from controller.core.quota import Quota
from controller.store import tenants
from controller.store.records import TenantRecord
from controller.store.transaction import Tx
from controller.usecases import naming


async def get(tx: Tx, name: str) -> TenantRecord:
    """Raises `NotFound`."""
    tenant = await tenants.find(tx, name) if naming.storable(name) else None
    if tenant is None:
        raise naming.no_tenant(name)
    return tenant


async def create(tx: Tx, actor: str, name: str, quota: Quota) -> TenantRecord:
    """Raises `Conflict` if the name is taken. Needs the fleet's lock: limits are part of the desired state."""
    if not await tenants.add(tx, name, quota):
        raise Conflict(f"tenant {name!r} exists already")
    tx.change_desired()
    tx.tell("tenant.created", actor, name, f"tenant/{name}")
    return await get(tx, name)


async def set_quota(tx: Tx, actor: str, tenant: TenantRecord, quota: Quota) -> TenantRecord:
    await tenants.set_quota(tx, tenant.name, quota)
    tx.change_desired()
    tx.tell("tenant.updated", actor, tenant.name, f"tenant/{tenant.name}", quota=asdict(quota))
    return await get(tx, tenant.name)


async def delete(tx: Tx, actor: str, tenant: TenantRecord) -> None:
    """Keys go with the tenant. Raises `Conflict` while it has models, also ones whose last replicas still drain."""
    used = await tenants.in_use_by(tx, tenant.name)
    if used is not None:
        raise Conflict(f"tenant {tenant.name!r} still has {used}")
    await tenants.remove(tx, tenant.name)
    tx.change_desired()
    tx.tell("tenant.deleted", actor, tenant.name, f"tenant/{tenant.name}")
