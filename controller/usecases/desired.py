"""Reads the complete desired state of a cell, on one snapshot."""

from __future__ import annotations

from berth.model import DesiredState, Serving
from berth.resources import Resources
from controller.core import desired
from controller.core.rollout.target import target
from controller.core.scaling import asked_replicas
from controller.store import jobs, models, tenants
from controller.store.transaction import Tx


async def read(tx: Tx, cell: str) -> DesiredState:
    generations = await jobs.generations(tx)
    live = await models.live_numbers(tx)
    return desired.build(
        cell,
        generations.get(cell, 0),
        jobs=[
            desired.JobRow(
                job.name,
                job.cell,
                job.runtime,
                asked_replicas(job.scaling.mode, job.wished_replicas, job.desired_replicas),
            )
            for job in await jobs.every(tx)
        ],
        assignments=[
            desired.AssignmentRow(
                assignment.key,
                assignment.job,
                assignment.artifact,
                Resources.host(assignment.reserved_bytes),
                assignment.releasing_at is not None,
            )
            for assignment in await jobs.assignments_in(tx, cell)
        ],
        models=[
            desired.ModelRow(
                model.key,
                Serving.only(target(model.pinned, live.get(model.id, ())), model.labels),
                (model.default_answer or "").encode(),
            )
            for model in await models.every(tx)
        ],
        keys=await tenants.live_keys(tx),
        limits=await tenants.limits(tx),
        # One cell alone has nothing to ask for.
        elsewhere=await jobs.elsewhere(tx, cell) if generations.keys() - {cell} else (),
    )
