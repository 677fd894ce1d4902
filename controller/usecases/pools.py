"""Jobs as the pools file has them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

from berth.resources import HOST
from controller.core import events
from controller.core.commands import POOLS_FILE
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
from controller.usecases.told import job_members


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
            case DeleteJob(name):
                await _delete(tx, name)
    return outcome


async def count_conflicts(tx: Tx) -> int:
    """How many jobs cannot be made as the file has them."""
    return sum(bool(job.file_problem) for job in await jobs.every(tx))


async def _create(tx: Tx, pool: PoolSpec) -> None:
    await cells.ensure(tx, pool.cell)
    # Someone may have made a job of this name just now: the next look finds it and adopts it.
    if await jobs.add(tx, pool.job, pool.new_job()):
        tx.change_desired()
        after = job_members(await _existing(tx, pool.job))
        said = {name: after[name] for name in _SAID_OF_NEW}
        tx.tell(POOLS_FILE, events.JobCreated(events.job_subject(pool.job), said, after))


async def _delete(tx: Tx, name: str) -> None:
    before = job_members(await _existing(tx, name))
    await jobs.remove(tx, name)
    tx.change_desired()
    tx.tell(POOLS_FILE, events.JobDeleted(events.job_subject(name), before))


async def _update(tx: Tx, step: UpdateJob, outcome: PoolsSettled) -> None:
    tenant = step.change.members().get("dedicated_tenant")
    if (problem := await _missing_tenant(tx, tenant)) is not None:
        outcome.refused[step.job] = problem
        step = without_tenant(step)
    change = step.change
    if isinstance(change.cell, str):
        await cells.ensure(tx, change.cell)
    subject, old = events.job_subject(step.job), await _existing(tx, step.job)
    await jobs.change(tx, step.job, replace(change, file_problem=step.problem))
    if change:
        before, after = events.difference(job_members(old), job_members(await _existing(tx, step.job)))
        tx.tell(POOLS_FILE, events.JobUpdated(subject, _said(change), before, after))
        tx.change_desired()
    if step.told:
        kind = events.PoolConflict if step.problem else events.PoolResolved
        was, is_now = {"file_problem": old.file_problem}, {"file_problem": step.problem}
        tx.tell(POOLS_FILE, kind(subject, step.problem, was, is_now))


async def _existing(tx: Tx, name: str) -> JobRecord:
    job = await jobs.find(tx, name)
    assert job is not None
    return job


_SAID_OF_NEW = ("cell", "runtime", "hardware", "memory_per_replica", "service_class", "dedicated_tenant")


def _said(change: JobChange) -> dict[str, Any]:
    """A change as its event has it."""
    said = change.members()
    for name in ("wished_replicas", "decision"):
        said.pop(name, None)
    if "scaling" in said:
        said["scaling"] = document_of(said["scaling"])
    return said


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
