"""Tenants and their quotas."""

from __future__ import annotations

from berth.errors import Conflict
from controller.core import events
from controller.core.commands import Command
from controller.core.quota import Quota
from controller.store import tenants
from controller.store.records import TenantRecord
from controller.store.transaction import Tx
from controller.usecases import naming
from controller.usecases.told import tenant_members


async def get(tx: Tx, name: str) -> TenantRecord:
    """Raises `NotFound`."""
    tenant = await tenants.find(tx, name) if naming.storable(name) else None
    if tenant is None:
        raise naming.no_tenant(name)
    return tenant


async def create(tx: Tx, command: Command, name: str, quota: Quota) -> TenantRecord:
    """Raises `Conflict` if the name is taken. Needs the fleet's lock: limits are part of the desired state."""
    if not await tenants.add(tx, name, quota):
        raise Conflict(f"tenant {name!r} exists already")
    tx.change_desired()
    made = await get(tx, name)
    tx.tell(command, events.TenantCreated(events.tenant_subject(name), tenant_members(made)))
    return made


async def set_quota(tx: Tx, command: Command, tenant: TenantRecord, quota: Quota) -> TenantRecord:
    await tenants.set_quota(tx, tenant.name, quota)
    tx.change_desired()
    changed = await get(tx, tenant.name)
    before, after = tenant_members(tenant), tenant_members(changed)
    tx.tell(command, events.TenantUpdated(events.tenant_subject(tenant.name), after["quota"], before, after))
    return changed


async def delete(tx: Tx, command: Command, tenant: TenantRecord) -> None:
    """Keys go with the tenant. Raises `Conflict` while it has models, also ones whose last replicas still drain."""
    used = await tenants.in_use_by(tx, tenant.name)
    if used is not None:
        raise Conflict(f"tenant {tenant.name!r} still has {used}")
    await tenants.remove(tx, tenant.name)
    tx.change_desired()
    tx.tell(command, events.TenantDeleted(events.tenant_subject(tenant.name), tenant_members(tenant)))
