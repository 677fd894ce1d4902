"""Assignments of versions to jobs. Whoever writes here holds the fleet's lock (`Tx.fleet`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, tuple_, update

from berth.ids import VersionKey
from berth.resources import HOST, Resources
from berth.states import VersionState
from controller.core.desired import ElsewhereRow
from controller.store import jobs as job_store
from controller.store.amounts import amount, document
from controller.store.mapper import NOW, Mapper, Part, whether
from controller.store.records import AssignmentRecord, VersionRecord
from controller.store.schema import assignments, cells, jobs, models, versions
from controller.store.scope import TenantScope, within
from controller.store.transaction import Tx
from controller.store.versions import ARTIFACT

_ASSIGNMENT = Mapper(
    AssignmentRecord,
    assignments,
    key=Part((models.c.tenant, models.c.name, assignments.c.version), VersionKey),
    cell=Part((jobs.c.cell,), str),
    artifact=ARTIFACT,
    reserved=Part((assignments.c.reserved_bytes, assignments.c.reserved), amount),
    deleted=whether(versions.c.deleted_at),
)


def _rows(scope: TenantScope) -> Select[Any]:
    return (
        _ASSIGNMENT.select()
        .join_from(assignments, models, models.c.id == assignments.c.model_id)
        .join(versions, (versions.c.model_id == assignments.c.model_id) & (versions.c.version == assignments.c.version))
        .join(jobs, jobs.c.name == assignments.c.job)
        .where(within(models.c.tenant, scope))
    )


async def assign(tx: Tx, version: VersionRecord, job: str, reserved: Resources) -> None:
    """Reserve the bytes and assign. Nothing else does either."""
    await tx.execute(
        assignments.insert().values(
            model_id=version.model_id,
            version=version.key.version,
            job=job,
            reserved_bytes=reserved[HOST],
            reserved=document(reserved),
        )
    )
    await job_store.reserve(tx, job, reserved)


async def unassign(tx: Tx, assignment: AssignmentRecord) -> None:
    """Free the bytes. The caller knows that no replica holds the version."""
    await tx.execute(assignments.delete().where(_is(assignment)))
    await job_store.free(tx, assignment.job, assignment.reserved)


async def release(tx: Tx, assignment: AssignmentRecord) -> None:
    """Leave it out of the desired state from the generation that this transaction commits."""
    generation = select(cells.c.generation + 1).where(cells.c.name == assignment.cell).scalar_subquery()
    await tx.execute(
        update(assignments).where(_is(assignment)).values(releasing_at=NOW, releasing_generation=generation)
    )


async def keep(tx: Tx, assignment: AssignmentRecord) -> None:
    """Take a release back: the version is wanted again before it has left."""
    await tx.execute(update(assignments).where(_is(assignment)).values(releasing_at=None, releasing_generation=None))


async def of_models(tx: Tx, scope: TenantScope, model_ids: Collection[int]) -> list[AssignmentRecord]:
    return _ASSIGNMENT.records(await tx.execute(_rows(scope).where(assignments.c.model_id.in_(model_ids))))


async def in_cell(tx: Tx, scope: TenantScope, cell: str) -> list[AssignmentRecord]:
    return _ASSIGNMENT.records(await tx.execute(_rows(scope).where(jobs.c.cell == cell)))


async def unsettled(tx: Tx, scope: TenantScope, names: Collection[str]) -> list[AssignmentRecord]:
    """Assignments to these jobs that are to stay, but are not settled. Their version was not available when last told
    of, or other versions of its model are in the cell too. A job that has what it should hold has none."""
    if not names:
        return []
    other, elsewhere = assignments.alias("other"), jobs.alias("elsewhere")
    beside = (
        select(other.c.version)
        .join_from(other, elsewhere, elsewhere.c.name == other.c.job)
        .where(
            other.c.model_id == assignments.c.model_id,
            other.c.version != assignments.c.version,
            other.c.releasing_at.is_(None),
            elsewhere.c.cell == jobs.c.cell,
        )
        .exists()
    )
    statement = _rows(scope).where(
        assignments.c.job.in_(names),
        assignments.c.releasing_at.is_(None),
        versions.c.deleted_at.is_(None),
        (versions.c.announced != VersionState.AVAILABLE) | beside,
    )
    return _ASSIGNMENT.records(await tx.execute(statement))


async def elsewhere(tx: Tx, scope: TenantScope, cell: str) -> list[ElsewhereRow]:
    """What the other cells than `cell` are to hold, without what is on its way out there."""
    statement = (
        select(models.c.tenant, models.c.name, assignments.c.version, jobs.c.cell)
        .join_from(assignments, models, models.c.id == assignments.c.model_id)
        .join(jobs, jobs.c.name == assignments.c.job)
        .where(jobs.c.cell != cell, assignments.c.releasing_at.is_(None), within(models.c.tenant, scope))
    )
    return [ElsewhereRow(VersionKey(*row[:3]), row[3]) for row in await tx.execute(statement)]


async def releasing_models(tx: Tx) -> list[int]:
    """Ids of the models that have an assignment on its way out."""
    statement = select(assignments.c.model_id).where(assignments.c.releasing_at.is_not(None)).distinct()
    return [row[0] for row in await tx.execute(statement)]


async def page(tx: Tx, scope: TenantScope, after: tuple[str, str, int, str], limit: int) -> list[AssignmentRecord]:
    """In order of tenant, model, version and job."""
    # A deleted model and its successor never share a version number, so the four identify a row.
    order = (models.c.tenant, models.c.name, assignments.c.version, assignments.c.job)
    statement = _rows(scope).where(tuple_(*order) > tuple_(*after)).order_by(*order).limit(limit)
    return _ASSIGNMENT.records(await tx.execute(statement))


async def counts_by_job(tx: Tx) -> dict[str, int]:
    """How many each job has; those with none are left out."""
    rows = await tx.execute(select(assignments.c.job, func.count()).group_by(assignments.c.job))
    return {row[0]: row[1] for row in rows}


async def count_on(tx: Tx, job: str) -> int:
    statement = select(func.count()).select_from(assignments).where(assignments.c.job == job)
    return int((await tx.execute(statement)).scalar_one())


def _is(assignment: AssignmentRecord) -> ColumnElement[bool]:
    return (
        (assignments.c.model_id == assignment.model_id)
        & (assignments.c.version == assignment.key.version)
        & (assignments.c.job == assignment.job)
    )
