"""Jobs as the pools file has them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from controller.core.pools import Create, Delete, Pool, Step, Stored, Update, compare
from controller.core.scaling import Scaling
from controller.store import jobs, records, tenants
from controller.store.transaction import Tx

ACTOR = "pools-file"


class Outcome(NamedTuple):
    """What was done, and which pools could not be created, with the reason."""

    steps: list[Step]
    refused: dict[str, str]


async def survey(tx: Tx, pools: Collection[Pool]) -> list[Step]:
    """What is to be done."""
    assigned = await jobs.counts_of_assignments(tx)
    return compare(pools, [_stored(job, assigned.get(job.name, 0)) for job in await jobs.every(tx)])


async def settle(tx: Tx, pools: Collection[Pool]) -> Outcome:
    """Do it. Needs the fleet's lock."""
    outcome = Outcome(await survey(tx, pools), {})
    for step in outcome.steps:
        match step:
            case Create(pool):
                if (problem := await _missing_tenant(tx, pool.dedicated_tenant)) is not None:
                    outcome.refused[pool.job] = problem
                else:
                    await _create(tx, pool)
            case Update():
                await _update(tx, step, outcome)
            case Delete(job):
                await jobs.remove(tx, job)
                tx.change_desired()
                tx.tell("job.deleted", ACTOR, None, f"job/{job}")
    return outcome


async def count_conflicts(tx: Tx) -> int:
    """How many jobs cannot be made as the file has them."""
    return sum(bool(job.file_problem) for job in await jobs.every(tx))


async def _create(tx: Tx, pool: Pool) -> None:
    await jobs.ensure_cell(tx, pool.cell)
    values = {
        "cell": pool.cell,
        "runtime": str(pool.runtime),
        "hardware": pool.hardware,
        "memory_per_replica": pool.memory_per_replica,
        "service_class": str(pool.service_class),
        "dedicated_tenant": pool.dedicated_tenant,
    }
    stored = {**values, **_scaling_columns(pool.scaling), "from_file": True, "replicas": 0}
    # Someone may have made a job of this name just now: the next look finds it and adopts it.
    if await jobs.add(tx, pool.job, stored):
        tx.change_desired()
        tx.tell("job.created", ACTOR, None, f"job/{pool.job}", **values)


async def _update(tx: Tx, step: Update, outcome: Outcome) -> None:
    values = dict(step.values)
    if (problem := await _missing_tenant(tx, values.get("dedicated_tenant"))) is not None:
        outcome.refused[step.job] = problem
        del values["dedicated_tenant"]
    if "cell" in values:
        await jobs.ensure_cell(tx, values["cell"])
    columns: dict[str, Any] = {
        name: value if isinstance(value, int | None) else str(value)
        for name, value in values.items()
        if name != "scaling"
    }
    if "scaling" in values:
        columns |= _scaling_columns(values["scaling"])
    subject = f"job/{step.job}"
    if columns:
        tx.tell("job.updated", ACTOR, None, subject, **columns)
        tx.change_desired()
    if await _changes_owner(tx, step.job, values.get("scaling")):
        columns |= jobs.UNDECIDED
    if step.told:
        tx.tell("pool.conflict" if step.problem else "pool.resolved", ACTOR, None, subject, reason=step.problem)
    await jobs.change(tx, step.job, **columns, file_problem=step.problem)


async def _changes_owner(tx: Tx, name: str, scaling: Scaling | None) -> bool:
    """Whether someone else decides how many replicas the job has from now on."""
    job = await jobs.find(tx, name)
    return job is not None and scaling is not None and job.scaling.mode is not scaling.mode


async def _missing_tenant(tx: Tx, tenant: str | None) -> str | None:
    if tenant is None or await tenants.find(tx, tenant) is not None:
        return None
    return f"there is no tenant {tenant!r} to dedicate it to"


def _scaling_columns(scaling: Scaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"scaling_from_file": False}
    return {"scaling_from_file": True, "scaling": jobs.scaling_document(scaling)}


def _stored(job: records.Job, assignments: int) -> Stored:
    pool = Pool(
        job=job.name,
        cell=job.cell,
        runtime=job.runtime,
        hardware=job.hardware,
        memory_per_replica=job.memory_per_replica,
        service_class=job.service_class,
        dedicated_tenant=job.dedicated_tenant,
        scaling=job.scaling if job.scaling_from_file else None,
    )
    return Stored(pool, job.from_file, job.file_problem, job.reserved_bytes, assignments)
