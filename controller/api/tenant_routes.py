"""Tenants, keys, and who the caller is."""

from __future__ import annotations

from fastapi import APIRouter, Response

from berth.api import schemas
from berth.states import Role
from controller.api import views
from controller.api.calls import (
    ADMINS,
    READERS,
    Authenticated,
    AuthenticatedCall,
    Cursor,
    Limit,
    fingerprint_of,
    make_page,
    read_cursor,
)
from controller.core.quota import Quota
from controller.store import keys as key_store
from controller.store import tenants as store
from controller.store.scope import EVERY_TENANT, owner_of
from controller.store.transaction import Tx
from controller.usecases import keys, tenants

router = APIRouter(prefix="/v1")


@router.get("/whoami")
async def whoami(call: Authenticated) -> schemas.Identity:
    return schemas.Identity(key_id=call.caller.key_id, role=call.caller.role, tenant=call.caller.tenant)


@router.get("/tenants")
async def list_tenants(call: Authenticated, limit: Limit = 100, cursor: Cursor = None) -> schemas.Page[schemas.Tenant]:
    call.demand(ADMINS)
    (after,) = read_cursor(cursor, [""])
    found = await call.read(lambda tx: store.page(tx, EVERY_TENANT, after, limit + 1))
    return make_page([views.tenant(record) for record in found], limit, lambda item: [item.name])


@router.post("/tenants", status_code=201, response_model=schemas.Tenant)
async def create_tenant(call: Authenticated, body: schemas.TenantCreate) -> Response:
    call.demand(ADMINS)

    async def act(tx: Tx) -> schemas.Tenant:
        return views.tenant(await tenants.create(tx, call.command, body.name, Quota(**body.quota.model_dump())))

    return await call.create(act, fingerprint=fingerprint_of(body))


@router.get("/tenants/{tenant}", response_model=schemas.Tenant)
async def get_tenant(call: Authenticated, tenant: str) -> Response:
    call.demand_tenant(tenant, READERS)
    return call.show(views.tenant(await call.read(lambda tx: tenants.get(tx, tenant))))


@router.patch("/tenants/{tenant}", response_model=schemas.Tenant)
async def update_tenant(call: Authenticated, tenant: str, body: schemas.TenantUpdate) -> Response:
    call.demand_tenant(tenant, ADMINS)

    async def act(tx: Tx) -> schemas.Tenant:
        record = await tenants.get(tx, tenant)
        call.check_match(views.tenant(record))
        return views.tenant(await tenants.set_quota(tx, call.command, record, Quota(**body.quota.model_dump())))

    return call.show(await call.change(act))


@router.delete("/tenants/{tenant}", status_code=204)
async def delete_tenant(call: Authenticated, tenant: str) -> None:
    call.demand_tenant(tenant, ADMINS)

    async def act(tx: Tx) -> None:
        record = await tenants.get(tx, tenant)
        call.check_match(views.tenant(record))
        await tenants.delete(tx, call.command, record)

    await call.change(act)


@router.get("/keys")
async def list_platform_keys(
    call: Authenticated, limit: Limit = 100, cursor: Cursor = None
) -> schemas.Page[schemas.Key]:
    call.demand(ADMINS)
    return await _list(call, None, limit, cursor)


@router.post("/keys", status_code=201, response_model=schemas.KeyCreated)
async def create_platform_key(call: Authenticated, body: schemas.KeyCreate) -> Response:
    call.demand(ADMINS)
    return await _create(call, None, body)


@router.delete("/keys/{key_id}", status_code=204)
async def revoke_platform_key(call: Authenticated, key_id: str) -> None:
    call.demand(ADMINS)
    await call.change(lambda tx: keys.revoke(tx, call.command, None, key_id))


@router.get("/tenants/{tenant}/keys")
async def list_keys(
    call: Authenticated, tenant: str, limit: Limit = 100, cursor: Cursor = None
) -> schemas.Page[schemas.Key]:
    call.demand_tenant(tenant, ADMINS)
    return await _list(call, tenant, limit, cursor)


@router.post("/tenants/{tenant}/keys", status_code=201, response_model=schemas.KeyCreated)
async def create_key(call: Authenticated, tenant: str, body: schemas.KeyCreate) -> Response:
    call.demand_tenant(tenant, ADMINS)
    return await _create(call, tenant, body)


@router.delete("/tenants/{tenant}/keys/{key_id}", status_code=204)
async def revoke_key(call: Authenticated, tenant: str, key_id: str) -> None:
    call.demand_tenant(tenant, ADMINS)
    await call.change(lambda tx: keys.revoke(tx, call.command, tenant, key_id))


async def _list(
    call: AuthenticatedCall, tenant: str | None, limit: int, cursor: str | None
) -> schemas.Page[schemas.Key]:
    (after,) = read_cursor(cursor, [""])

    async def query(tx: Tx) -> list[schemas.Key]:
        if tenant is not None:
            await tenants.get(tx, tenant)
        return [views.key(record) for record in await key_store.page(tx, owner_of(tenant), after, limit + 1)]

    return make_page(await call.read(query), limit, lambda item: [item.id])


async def _create(call: AuthenticatedCall, tenant: str | None, body: schemas.KeyCreate) -> Response:
    fingerprint = fingerprint_of(body)
    secret = keys.make_secret(call.seed(call.memo(fingerprint)))

    async def act(tx: Tx) -> schemas.Key:
        made = await keys.create(
            tx, call.command, tenant, role=Role(body.role), description=body.description, secret=secret
        )
        return views.key(made)

    return await call.create(act, fingerprint=fingerprint, secret=secret)
