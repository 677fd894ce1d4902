"""Jobs: where versions can live."""

from __future__ import annotations

from typing import Any, NamedTuple

from berth.errors import Conflict, InvalidArgument
from controller.core import events
from controller.core.commands import Command
from controller.core.jobs import JobAsked, JobAsStored, NewJob, change_job, managed_by_file
from controller.core.settling import JobNumbers
from controller.store import assignments, cells, jobs, tenants, workloads
from controller.store.records import JobRecord, WorkloadRecord
from controller.store.transaction import Tx
from controller.usecases import naming
from controller.usecases.told import job_members


class SeenJob(NamedTuple):
    """A job, and what runs its replicas, if anything was observed to."""

    job: JobRecord
    workload: WorkloadRecord | None

    @property
    def numbers(self) -> JobNumbers:
        job, workload = self
        return JobNumbers(
            job.name,
            job.scaling.mode,
            job.from_file,
            job.replicas,
            decided=None if job.decision is None else job.decision.replicas,
            observed=None if workload is None else workload.replicas,
        )


async def get(tx: Tx, name: str) -> SeenJob:
    """Raises `NotFound`."""
    job = await jobs.find(tx, name) if naming.storable(name) else None
    if job is None:
        raise naming.no_job(name)
    (seen,) = await with_workloads(tx, [job])
    return seen


async def page(tx: Tx, after: str, limit: int) -> list[SeenJob]:
    return await with_workloads(tx, await jobs.page(tx, after, limit))


async def with_workloads(tx: Tx, found: list[JobRecord]) -> list[SeenJob]:
    """These jobs with what runs them in their own cells."""
    running = await workloads.of_jobs(tx, [job.name for job in found])
    return [SeenJob(job, running.get((job.cell, job.name))) for job in found]


async def create(tx: Tx, command: Command, name: str, new: NewJob, said: dict[str, Any]) -> SeenJob:
    """`said` is what was asked for, as the API spells it.

    Raises `Conflict` if the name is taken, `InvalidArgument` if it is dedicated to a tenant that does not exist.
    """
    if new.dedicated_tenant is not None and await tenants.find(tx, new.dedicated_tenant) is None:
        raise InvalidArgument(f"there is no tenant {new.dedicated_tenant!r} to dedicate the job to")
    await cells.ensure(tx, new.cell)
    if not await jobs.add(tx, name, new):
        raise Conflict(f"job {name!r} exists already")
    tx.change_desired()
    made = await get(tx, name)
    tx.tell(command, events.JobCreated(events.job_subject(name), said, job_members(made.job)))
    return made


async def change(tx: Tx, command: Command, seen: SeenJob, asked: JobAsked, said: dict[str, Any]) -> SeenJob:
    """Set replicas, memory or scaling, as `core.jobs` allows it; `said` is as in `create`."""
    job, workload = seen
    stored = JobAsStored(
        job.name,
        job.scaling,
        job.from_file,
        job.scaling_from_file,
        job.reserved,
        None if workload is None else workload.replicas,
    )
    change = change_job(stored, asked)
    if said:
        await jobs.change(tx, job.name, change)
        tx.change_desired()
    changed = await get(tx, job.name)
    if said:
        before, after = events.difference(job_members(job), job_members(changed.job))
        tx.tell(command, events.JobUpdated(events.job_subject(job.name), said, before, after))
    return changed


async def delete(tx: Tx, command: Command, seen: SeenJob) -> None:
    """Raises `Conflict` while versions are assigned to it, and if it comes from the pools file."""
    job = seen.job
    if job.from_file:
        raise managed_by_file(job.name)
    count = await assignments.count_on(tx, job.name)
    if count:
        raise Conflict(f"job {job.name!r} still has {count} assignments", assignments=count)
    await jobs.remove(tx, job.name)
    tx.change_desired()
    tx.tell(command, events.JobDeleted(events.job_subject(job.name), job_members(job)))
