"""Reads the complete desired state of a cell, on one snapshot."""

from __future__ import annotations

from berth.model import DesiredState
from controller.core import desired
from controller.core.rollout.target import served
from controller.core.scaling import asked_replicas
from controller.store import assignments, cells, jobs, keys, models, tenants, versions
from controller.store.scope import EVERY_TENANT
from controller.store.transaction import Tx


async def read(tx: Tx, cell: str) -> DesiredState:
    generations = await cells.generations(tx)
    live = await versions.live_numbers(tx, EVERY_TENANT)
    return desired.build(
        cell,
        generations.get(cell, 0),
        jobs=[
            desired.JobRow(
                job.name,
                job.cell,
                job.runtime,
                asked_replicas(job.scaling.mode, job.wished_replicas, job.decision and job.decision.replicas),
            )
            for job in await jobs.every(tx)
        ],
        assignments=[
            desired.AssignmentRow(
                assignment.key,
                assignment.job,
                assignment.artifact,
                assignment.reserved,
                assignment.releasing_at is not None,
            )
            for assignment in await assignments.in_cell(tx, EVERY_TENANT, cell)
        ],
        models=[
            desired.ModelRow(
                model.key,
                served(model.pinned, live.get(model.id, ()), model.labels),
                (model.default_answer or "").encode(),
            )
            for model in await models.every(tx, EVERY_TENANT)
        ],
        keys=await keys.live(tx, EVERY_TENANT),
        limits=await tenants.limits(tx, EVERY_TENANT),
        # One cell alone has nothing to ask for.
        elsewhere=await assignments.elsewhere(tx, EVERY_TENANT, cell) if generations.keys() - {cell} else (),
    )
