"""What operators see and change: jobs, assignments, replicas."""

from __future__ import annotations

from fastapi import APIRouter, Response

from berth.api import schemas
from controller.api import views
from controller.api.calls import (
    OPERATORS,
    READERS,
    Authenticated,
    AuthenticatedCall,
    Cursor,
    Limit,
    fingerprint_of,
    make_page,
    read_cursor,
)
from controller.core.jobs import JobAsked, NewJob
from controller.core.scaling import policy_of
from controller.store import assignments, observed
from controller.store.scope import EVERY_TENANT, TenantScope
from controller.store.transaction import Tx
from controller.usecases import jobs
from controller.usecases.tenants import get as get_tenant

router = APIRouter(prefix="/v1")


@router.get("/jobs")
async def list_jobs(call: Authenticated, limit: Limit = 100, cursor: Cursor = None) -> schemas.Page[schemas.Job]:
    call.demand(OPERATORS)
    (after,) = read_cursor(cursor, [""])
    found = await call.read(lambda tx: jobs.page(tx, after, limit + 1))
    return make_page([views.job(*seen) for seen in found], limit, lambda item: [item.name])


@router.post("/jobs", status_code=201, response_model=schemas.Job)
async def create_job(call: Authenticated, body: schemas.JobCreate) -> Response:
    call.demand(OPERATORS)

    async def act(tx: Tx) -> schemas.Job:
        said = body.model_dump(mode="json", exclude={"name"})
        return views.job(*await jobs.create(tx, call.command, body.name, _new_job(body), said))

    return await call.create(act, fingerprint=fingerprint_of(body))


@router.get("/jobs/{job}", response_model=schemas.Job)
async def get_job(call: Authenticated, job: str) -> Response:
    call.demand(OPERATORS)
    return call.show(views.job(*await call.read(lambda tx: jobs.get(tx, job))))


@router.patch("/jobs/{job}", response_model=schemas.Job)
async def update_job(call: Authenticated, job: str, body: schemas.JobUpdate) -> Response:
    """Scale the job, say who scales it, or change its memory. Memory never becomes less than what is reserved."""
    call.demand(OPERATORS)

    async def act(tx: Tx) -> schemas.Job:
        seen = await jobs.get(tx, job)
        call.check_match(views.job(*seen))
        said = body.model_dump(mode="json", exclude_none=True)
        return views.job(*await jobs.change(tx, call.command, seen, _asked(body), said))

    return call.show(await call.change(act))


@router.delete("/jobs/{job}", status_code=204)
async def delete_job(call: Authenticated, job: str) -> None:
    call.demand(OPERATORS)

    async def act(tx: Tx) -> None:
        seen = await jobs.get(tx, job)
        call.check_match(views.job(*seen))
        await jobs.delete(tx, call.command, seen)

    await call.change(act)


@router.get("/assignments")
async def list_assignments(
    call: Authenticated, limit: Limit = 100, cursor: Cursor = None
) -> schemas.Page[schemas.Assignment]:
    call.demand(OPERATORS)
    return await _assignments(call, EVERY_TENANT, limit, cursor)


@router.get("/tenants/{tenant}/assignments")
async def list_tenant_assignments(
    call: Authenticated, tenant: str, limit: Limit = 100, cursor: Cursor = None
) -> schemas.Page[schemas.Assignment]:
    call.demand_tenant(tenant, READERS)
    return await _assignments(call, tenant, limit, cursor)


@router.get("/replicas")
async def list_replicas(
    call: Authenticated, limit: Limit = 100, cursor: Cursor = None
) -> schemas.Page[schemas.Replica]:
    """Every replica as its cell's synchronizer last reported it."""
    call.demand(OPERATORS)
    cell, name = read_cursor(cursor, ["", ""])
    found = await call.read(lambda tx: observed.page_replicas(tx, EVERY_TENANT, (cell, name), limit + 1))
    return make_page([views.replica(*entry) for entry in found], limit, lambda item: [item.cell, item.name])


async def _assignments(
    call: AuthenticatedCall, scope: TenantScope, limit: int, cursor: str | None
) -> schemas.Page[schemas.Assignment]:
    owner, model, version, job = read_cursor(cursor, ["", "", 0, ""])

    async def query(tx: Tx) -> list[schemas.Assignment]:
        if isinstance(scope, str):
            await get_tenant(tx, scope)
        found = await assignments.page(tx, scope, (owner, model, version, job), limit + 1)
        return [views.assignment(record) for record in found]

    return make_page(await call.read(query), limit, lambda item: [item.tenant, item.model, item.version, item.job])


def _new_job(body: schemas.JobCreate) -> NewJob:
    return NewJob(
        cell=body.cell,
        runtime=body.runtime,
        hardware=body.hardware,
        replicas=body.replicas,
        memory_per_replica=body.memory_per_replica,
        service_class=body.service_class,
        dedicated_tenant=body.dedicated_tenant,
        scaling=policy_of(body.scaling.model_dump()),
    )


def _asked(body: schemas.JobUpdate) -> JobAsked:
    scaling = None if body.scaling is None else body.scaling.model_dump(exclude_none=True)
    if scaling is not None and (queue_ms := scaling.pop("target_queue_ms", None)) is not None:
        scaling["target_queue_s"] = queue_ms / 1e3
    return JobAsked(body.replicas, body.memory_per_replica, scaling)
