"""Jobs, cells and assignments. Whoever writes here holds the fleet's lock (`Tx.fleet`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from berth.ids import VersionKey
from berth.model import Artifact
from berth.resources import Resources
from berth.states import ArtifactFormat, Runtime, ScalingMode, ServiceClass, VersionState
from controller.core.desired import ElsewhereRow
from controller.core.placement import JobRoom
from controller.core.scaling import Scaling
from controller.store import records
from controller.store.schema import assignments, cells, jobs, models, versions
from controller.store.transaction import Tx

_JOB = select(
    jobs.c.name,
    jobs.c.cell,
    jobs.c.runtime,
    jobs.c.hardware,
    jobs.c.replicas,
    jobs.c.memory_per_replica,
    jobs.c.service_class,
    jobs.c.dedicated_tenant,
    jobs.c.reserved_bytes,
    jobs.c.created_at,
    jobs.c.from_file,
    jobs.c.scaling_from_file,
    jobs.c.file_problem,
    jobs.c.scaling,
    jobs.c.wished_replicas,
    jobs.c.desired_replicas,
    jobs.c.desired_reason,
    jobs.c.desired_at,
)
_ASSIGNMENT = (
    select(
        assignments.c.model_id,
        models.c.tenant,
        models.c.name,
        assignments.c.version,
        assignments.c.job,
        jobs.c.cell,
        versions.c.sha256,
        versions.c.size_bytes,
        versions.c.format,
        assignments.c.reserved_bytes,
        assignments.c.created_at,
        assignments.c.releasing_at,
        assignments.c.releasing_generation,
        versions.c.deleted_at,
        versions.c.measured_bytes,
    )
    .join_from(assignments, models, models.c.id == assignments.c.model_id)
    .join(versions, (versions.c.model_id == assignments.c.model_id) & (versions.c.version == assignments.c.version))
    .join(jobs, jobs.c.name == assignments.c.job)
)

UNDECIDED: Mapping[str, None] = dict.fromkeys(("wished_replicas", "desired_replicas", "desired_reason", "desired_at"))
"""Columns of a job that has come to a new owner, who has not said anything yet; the old one has nothing to say any
more."""


async def find(tx: Tx, name: str) -> records.Job | None:
    row = (await tx.execute(_JOB.where(jobs.c.name == name))).one_or_none()
    return None if row is None else _job(row)


async def page(tx: Tx, after: str, limit: int) -> list[records.Job]:
    return [_job(row) for row in await tx.execute(_JOB.where(jobs.c.name > after).order_by(jobs.c.name).limit(limit))]


async def every(tx: Tx) -> list[records.Job]:
    return [_job(row) for row in await tx.execute(_JOB)]


async def rooms(tx: Tx) -> list[JobRoom]:
    """The fleet as placement sees it."""
    return [
        JobRoom(
            name=job.name,
            cell=job.cell,
            runtime=job.runtime,
            hardware=job.hardware,
            service_class=job.service_class,
            dedicated_tenant=job.dedicated_tenant,
            replicas=job.replicas,
            capacity=Resources.host(job.memory_per_replica),
            reserved=Resources.host(job.reserved_bytes),
        )
        for job in await every(tx)
    ]


async def add(tx: Tx, name: str, values: dict[str, Any]) -> bool:
    """Whether it was added; False if the name is taken."""
    statement = insert(jobs).values(name=name, **values).on_conflict_do_nothing().returning(jobs.c.name)
    return (await tx.execute(statement)).one_or_none() is not None


async def change(tx: Tx, name: str, **values: Any) -> None:
    await tx.execute(update(jobs).where(jobs.c.name == name).values(**values))


async def wishes(tx: Tx, cell: str) -> dict[str, int]:
    """How many replicas are wished for the cell's jobs; those without a wish are left out."""
    statement = select(jobs.c.name, jobs.c.wished_replicas).where(
        jobs.c.cell == cell, jobs.c.wished_replicas.is_not(None)
    )
    return {row[0]: row[1] for row in await tx.execute(statement)}


async def forget_wish(tx: Tx, name: str, wished: int) -> bool:
    """Whether it was still this wish; another may have been made since."""
    statement = update(jobs).where(jobs.c.name == name, jobs.c.wished_replicas == wished)
    found = await tx.execute(statement.values(wished_replicas=None, replicas=wished).returning(jobs.c.name))
    return found.one_or_none() is not None


async def remove(tx: Tx, name: str) -> None:
    await tx.execute(jobs.delete().where(jobs.c.name == name))


async def counts_of_assignments(tx: Tx) -> dict[str, int]:
    """How many each job has; those with none are left out."""
    rows = await tx.execute(select(assignments.c.job, func.count()).group_by(assignments.c.job))
    return {row[0]: row[1] for row in rows}


async def count_assignments(tx: Tx, job: str) -> int:
    statement = select(func.count()).select_from(assignments).where(assignments.c.job == job)
    return int((await tx.execute(statement)).scalar_one())


async def ensure_cell(tx: Tx, cell: str) -> None:
    await tx.execute(insert(cells).values(name=cell, generation=1).on_conflict_do_nothing())


async def generations(tx: Tx) -> dict[str, int]:
    rows = await tx.execute(select(cells.c.name, cells.c.generation))
    return {row[0]: row[1] for row in rows}


async def assign(tx: Tx, model_id: int, version: int, job: str, reserved_bytes: int) -> None:
    """Reserve the bytes and assign, in the one way in which either is ever done."""
    await tx.execute(
        assignments.insert().values(model_id=model_id, version=version, job=job, reserved_bytes=reserved_bytes)
    )
    await _reserve(tx, job, reserved_bytes)


async def unassign(tx: Tx, assignment: records.Assignment) -> None:
    """Free the bytes. The caller knows that no replica holds the version."""
    await tx.execute(assignments.delete().where(_is(assignment)))
    await _reserve(tx, assignment.job, -assignment.reserved_bytes)


async def release(tx: Tx, assignment: records.Assignment) -> None:
    """Leave it out of the desired state from the generation that this transaction commits."""
    generation = select(cells.c.generation + 1).where(cells.c.name == assignment.cell).scalar_subquery()
    await tx.execute(
        update(assignments).where(_is(assignment)).values(releasing_at=func.now(), releasing_generation=generation)
    )


async def keep(tx: Tx, assignment: records.Assignment) -> None:
    """Take a release back: the version is wanted again before it has left."""
    await tx.execute(update(assignments).where(_is(assignment)).values(releasing_at=None, releasing_generation=None))


async def assignments_of(tx: Tx, model_ids: Collection[int]) -> list[records.Assignment]:
    return [_assignment(row) for row in await tx.execute(_ASSIGNMENT.where(assignments.c.model_id.in_(model_ids)))]


async def unsettled(tx: Tx, names: Collection[str]) -> list[records.Assignment]:
    """Assignments to these jobs that are to stay, of versions that were not available when last told of, or that other
    versions of the model are beside in the cell. A job that has what it should hold has none."""
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
    statement = _ASSIGNMENT.where(
        assignments.c.job.in_(names),
        assignments.c.releasing_at.is_(None),
        versions.c.deleted_at.is_(None),
        (versions.c.announced != VersionState.AVAILABLE) | beside,
    )
    return [_assignment(row) for row in await tx.execute(statement)]


async def assignments_in(tx: Tx, cell: str) -> list[records.Assignment]:
    return [_assignment(row) for row in await tx.execute(_ASSIGNMENT.where(jobs.c.cell == cell))]


async def elsewhere(tx: Tx, cell: str) -> list[ElsewhereRow]:
    """What cells other than `cell` are to hold; what is on its way out there is left out."""
    statement = (
        select(models.c.tenant, models.c.name, assignments.c.version, jobs.c.cell)
        .join_from(assignments, models, models.c.id == assignments.c.model_id)
        .join(jobs, jobs.c.name == assignments.c.job)
        .where(jobs.c.cell != cell, assignments.c.releasing_at.is_(None))
    )
    return [ElsewhereRow(VersionKey(*row[:3]), row[3]) for row in await tx.execute(statement)]


async def releasing_models(tx: Tx) -> list[int]:
    """Ids of the models that have an assignment on its way out."""
    statement = select(assignments.c.model_id).where(assignments.c.releasing_at.is_not(None)).distinct()
    return [row[0] for row in await tx.execute(statement)]


async def page_assignments(
    tx: Tx, tenant: str | None, after: tuple[str, str, int, str], limit: int
) -> list[records.Assignment]:
    """In order of tenant, model, version and job; of one tenant, or of all for None."""
    # A deleted model and its successor never share a version number, so the four identify a row.
    order = (models.c.tenant, models.c.name, assignments.c.version, assignments.c.job)
    statement = _ASSIGNMENT.where(tuple_(*order) > tuple_(*after)).order_by(*order).limit(limit)
    if tenant is not None:
        statement = statement.where(models.c.tenant == tenant)
    return [_assignment(row) for row in await tx.execute(statement)]


async def _reserve(tx: Tx, job: str, more: int) -> None:
    await tx.execute(update(jobs).where(jobs.c.name == job).values(reserved_bytes=jobs.c.reserved_bytes + more))


def _is(assignment: records.Assignment) -> Any:
    row = (assignment.model_id, assignment.key.version, assignment.job)
    return tuple_(assignments.c.model_id, assignments.c.version, assignments.c.job) == row


def _job(row: Any) -> records.Job:
    name, cell, runtime, hardware, replicas, memory, service_class, tenant, reserved, created_at, *rest = row
    from_file, scaling_from_file, file_problem, scaling, *numbers = rest
    return records.Job(
        name=name,
        cell=cell,
        runtime=Runtime(runtime),
        hardware=hardware,
        replicas=replicas,
        memory_per_replica=memory,
        service_class=ServiceClass(service_class),
        dedicated_tenant=tenant,
        reserved_bytes=reserved,
        created_at=created_at,
        from_file=from_file,
        scaling_from_file=scaling_from_file,
        file_problem=file_problem,
        scaling=_scaling(scaling),
        wished_replicas=numbers[0],
        desired_replicas=numbers[1],
        desired_reason=numbers[2],
        desired_at=numbers[3],
    )


def scaling_document(scaling: Scaling) -> dict[str, Any]:
    """As the API spells it."""
    return {
        "mode": str(scaling.mode),
        "min_replicas": scaling.min_replicas,
        "max_replicas": scaling.max_replicas,
        "target_queue_ms": round(1e3 * scaling.target_queue_s, 6),
        "stabilize_down_s": scaling.stabilize_down_s,
    }


def _scaling(document: dict[str, Any] | None) -> Scaling:
    if document is None:
        return Scaling()
    return Scaling(
        ScalingMode(document["mode"]),
        document["min_replicas"],
        document["max_replicas"],
        document["target_queue_ms"] / 1e3,
        document["stabilize_down_s"],
    )


def _assignment(row: Any) -> records.Assignment:
    return records.Assignment(
        model_id=row[0],
        key=VersionKey(row[1], row[2], row[3]),
        job=row[4],
        cell=row[5],
        artifact=Artifact(row[6], row[7], ArtifactFormat(row[8])),
        reserved_bytes=row[9],
        created_at=row[10],
        releasing_at=row[11],
        releasing_generation=row[12],
        deleted=row[13] is not None,
        measured_bytes=row[14],
    )
