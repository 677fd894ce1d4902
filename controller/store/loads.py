"""The load of jobs, as the autoscaler reads it from the cells' reports."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, select

from controller.core.autoscaling.readings import Counters, ReplicaReading
from controller.store.records import CellLoad
from controller.store.schema import leases, observed_cells, observed_replicas
from controller.store.transaction import Tx

_LOAD = select(
    observed_replicas.c.cell,
    observed_replicas.c.job,
    observed_replicas.c.replica,
    observed_replicas.c.incarnation,
    observed_replicas.c.seen_at,
    observed_replicas.c.completed,
    observed_replicas.c.busy_s,
    observed_replicas.c.queued_s,
    observed_replicas.c.in_flight,
    observed_replicas.c.serving,
    observed_replicas.c.memory_used,
    observed_replicas.c.memory_limit,
    observed_replicas.c.loads,
)


async def of_cells(tx: Tx, jobs: Collection[str]) -> dict[str, CellLoad]:
    """What the cells' present leaders last said of these jobs' load. A cell that says nothing is left out."""
    age = func.extract("epoch", func.clock_timestamp() - observed_cells.c.reported_at)
    statement = (
        select(observed_cells.c.cell, age, observed_cells.c.wanted)
        .join_from(observed_cells, leases, leases.c.cell == observed_cells.c.cell)
        .where(leases.c.epoch == observed_cells.c.epoch)
    )
    cells = {row[0]: CellLoad(max(0.0, float(row[1])), frozenset(row[2]), {}) for row in await tx.execute(statement)}
    statement = _LOAD.where(observed_replicas.c.job.in_(jobs), observed_replicas.c.connected)
    for cell, job, *row in await tx.execute(statement) if jobs else ():
        if cell in cells:
            cells[cell].replicas.setdefault(job, []).append(_reading(*row))
    return cells


def _reading(
    name: str,
    incarnation: str,
    at: float,
    completed: int,
    busy_s: float,
    queued_s: float,
    in_flight: int,
    serving: bool,
    memory_used: int,
    memory_limit: int,
    loads: dict[str, tuple[int, float]],
) -> ReplicaReading:
    return ReplicaReading(
        name,
        incarnation,
        at,
        completed,
        busy_s,
        queued_s,
        in_flight,
        serving,
        memory_used / memory_limit if memory_limit else 0.0,
        {model: Counters(*counters) for model, counters in loads.items()},
    )
