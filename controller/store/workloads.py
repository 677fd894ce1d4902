"""What runs the replicas of jobs, as their cells' synchronizers report it."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from berth.model import ObservedCell, ObservedPool
from controller.store.mapper import Mapper
from controller.store.records import WorkloadRecord
from controller.store.schema import observed_pools
from controller.store.transaction import Tx

_WORKLOAD = Mapper(WorkloadRecord, observed_pools)


async def of_jobs(tx: Tx, jobs: Collection[str]) -> dict[tuple[str, str], WorkloadRecord]:
    """What runs the replicas of these jobs, by cell and job."""
    if not jobs:
        return {}
    rows = await tx.execute(_WORKLOAD.select().where(observed_pools.c.job.in_(jobs)))
    return {(found.cell, found.job): found for found in _WORKLOAD.records(rows)}


async def record(tx: Tx, report: ObservedCell) -> None:
    """Replace the cell's pools, writing only what changed: they are read far more often than they change."""
    columns = (observed_pools.c.job, observed_pools.c.workload, observed_pools.c.replicas, observed_pools.c.ready)
    rows = await tx.execute(select(*columns).where(observed_pools.c.cell == report.cell))
    known = {row[0]: ObservedPool(*row) for row in rows}
    now = {pool.job: pool for pool in report.pools}
    if gone := [job for job in known if job not in now]:
        await tx.execute(
            delete(observed_pools).where(observed_pools.c.cell == report.cell, observed_pools.c.job.in_(gone))
        )
    if changed := [pool for job, pool in now.items() if known.get(job) != pool]:
        upsert = insert(observed_pools)
        await tx.execute(
            upsert.on_conflict_do_update(
                index_elements=["cell", "job"],
                set_={name: upsert.excluded[name] for name in ("workload", "replicas", "ready")},
            ),
            [
                {
                    "cell": report.cell,
                    "job": pool.job,
                    "workload": pool.workload,
                    "replicas": pool.replicas,
                    "ready": pool.ready,
                }
                for pool in changed
            ],
        )
