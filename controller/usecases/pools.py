"""Jobs as the pools file has them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple

from berth.resources import HOST
from controller.core.jobs import JobChange
from controller.core.pools import (
    CreateJob,
    DeleteJob,
    PoolSpec,
    PoolStep,
    StoredPool,
    UpdateJob,
    compare,
    without_tenant,
)
from controller.core.scaling import document_of
from controller.store import assignments, cells, jobs, tenants
from controller.store.records import JobRecord
from controller.store.transaction import Tx

ACTOR = "pools-file"


class PoolsSettled(NamedTuple):
    """What was done, and which pools could not be created, with the reason."""

    steps: list[PoolStep]
    refused: dict[str, str]


async def survey(tx: Tx, pools: Collection[PoolSpec]) -> list[PoolStep]:
    """What is to be done."""
    assigned = await assignments.counts_by_job(tx)
    return compare(pools, [_stored(job, assigned.get(job.name, 0)) for job in await jobs.every(tx)])


async def settle(tx: Tx, pools: Collection[PoolSpec]) -> PoolsSettled:
    """Do it. Needs the fleet's lock."""
    outcome = PoolsSettled(await survey(tx, pools), {})
    for step in outcome.steps:
        match step:
            case CreateJob(pool):
                if (problem := await _missing_tenant(tx, pool.dedicated_tenant)) is not None:
                    outcome.refused[pool.job] = problem
                else:
                    await _create(tx, pool)
            case UpdateJob():
                await _update(tx, step, outcome)
            case DeleteJob(job):
                await jobs.remove(tx, job)
                tx.change_desired()
                tx.tell("job.deleted", ACTOR, None, f"job/{job}")
    return outcome


async def count_conflicts(tx: Tx) -> int:
    """How many jobs cannot be made as the file has them."""
    return sum(bool(job.file_problem) for job in await jobs.every(tx))


async def _create(tx: Tx, pool: PoolSpec) -> None:
    await cells.ensure(tx, pool.cell)
    # Someone may have made a job of this name just now: the next look finds it and adopts it.
    if await jobs.add(tx, pool.job, pool.new_job()):
        tx.change_desired()
        tx.tell(
            "job.created",
            ACTOR,
            None,
            f"job/{pool.job}",
            cell=pool.cell,
            runtime=str(pool.runtime),
            hardware=pool.hardware,
            memory_per_replica=pool.memory_per_replica,
            service_class=str(pool.service_class),
            dedicated_tenant=pool.dedicated_tenant,
        )


async def _update(tx: Tx, step: UpdateJob, outcome: PoolsSettled) -> None:
    tenant = step.change.members().get("dedicated_tenant")
    if (problem := await _missing_tenant(tx, tenant)) is not None:
        outcome.refused[step.job] = problem
        step = without_tenant(step)
    change = step.change
    if isinstance(change.cell, str):
        await cells.ensure(tx, change.cell)
    subject = f"job/{step.job}"
    if change:
        tx.tell("job.updated", ACTOR, None, subject, **_said(change))
        tx.change_desired()
    if step.told:
        tx.tell("pool.conflict" if step.problem else "pool.resolved", ACTOR, None, subject, reason=step.problem)
    await jobs.change(tx, step.job, replace(change, file_problem=step.problem))


def _said(change: JobChange) -> dict[str, Any]:
    """A change as its event has it."""
    said = change.members()
    for name in ("wished_replicas", "decision"):
        said.pop(name, None)
    if "scaling" in said:
        said["scaling"] = document_of(said["scaling"])
    return {name: str(value) if isinstance(value, StrEnum) else value for name, value in said.items()}


async def _missing_tenant(tx: Tx, tenant: str | None) -> str | None:
    if tenant is None or await tenants.find(tx, tenant) is not None:
        return None
    return f"there is no tenant {tenant!r} to dedicate it to"


def _stored(job: JobRecord, assigned: int) -> StoredPool:
    pool = PoolSpec(
        job=job.name,
        cell=job.cell,
        runtime=job.runtime,
        hardware=job.hardware,
        memory_per_replica=job.capacity[HOST],
        service_class=job.service_class,
        dedicated_tenant=job.dedicated_tenant,
        scaling=job.scaling if job.scaling_from_file else None,
    )
    return StoredPool(pool, job.from_file, job.file_problem, job.reserved, assigned, job.scaling)
