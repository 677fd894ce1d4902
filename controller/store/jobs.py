"""Jobs: where versions can live. Whoever writes here holds the fleet's lock (`Tx.fleet`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from berth.resources import Resources
from berth.states import Runtime, ServiceClass
from controller.core.autoscaling.scaler import Decision
from controller.core.jobs import JobChange, NewJob
from controller.core.placement import JobRoom
from controller.core.scaling import ScalingPolicy, document_of, policy_of
from controller.store.amounts import amount, document, raised, with_host
from controller.store.mapper import NOW, Mapper, Part, plain
from controller.store.records import JobRecord
from controller.store.schema import jobs
from controller.store.transaction import Tx


def _scaling_column(scaling: ScalingPolicy | None) -> dict[str, Any]:
    # A job that has none has the defaults.
    return {} if scaling is None else {"scaling": document_of(scaling)}


def _scaling(document: dict[str, Any] | None) -> ScalingPolicy:
    return ScalingPolicy() if document is None else policy_of(document)


def _decision_columns(decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return dict.fromkeys(("desired_replicas", "desired_reason", "desired_at"))
    return {"desired_replicas": decision.replicas, "desired_reason": decision.reason, "desired_at": NOW}


def _decision(replicas: int | None, reason: str | None) -> Decision | None:
    return None if replicas is None else Decision(replicas, reason or "")


_JOB = Mapper(
    JobRecord,
    jobs,
    runtime=plain(jobs.c.runtime, Runtime),
    service_class=plain(jobs.c.service_class, ServiceClass),
    capacity=Part((jobs.c.memory_per_replica, jobs.c.capacity), amount),
    reserved=Part((jobs.c.reserved_bytes, jobs.c.reserved), amount),
    scaling=Part((jobs.c.scaling,), _scaling, _scaling_column),
    decision=Part((jobs.c.desired_replicas, jobs.c.desired_reason), _decision, _decision_columns),
    decided_at=Part((jobs.c.desired_at,), lambda at: at),
)


async def find(tx: Tx, name: str) -> JobRecord | None:
    row = (await tx.execute(_JOB.select().where(jobs.c.name == name))).one_or_none()
    return None if row is None else _JOB.record(row)


async def page(tx: Tx, after: str, limit: int) -> list[JobRecord]:
    return _JOB.records(await tx.execute(_JOB.select().where(jobs.c.name > after).order_by(jobs.c.name).limit(limit)))


async def every(tx: Tx) -> list[JobRecord]:
    return _JOB.records(await tx.execute(_JOB.select()))


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
            capacity=job.capacity,
            reserved=job.reserved,
        )
        for job in await every(tx)
    ]


async def add(tx: Tx, name: str, new: NewJob) -> bool:
    """Whether it was added; False if the name is taken."""
    values = {**_JOB.values(new), "capacity": document(Resources.host(new.memory_per_replica))}
    statement = insert(jobs).values(name=name, **values).on_conflict_do_nothing().returning(jobs.c.name)
    return (await tx.execute(statement)).one_or_none() is not None


async def change(tx: Tx, name: str, change: JobChange) -> None:
    if values := _JOB.values(change):
        if isinstance(change.memory_per_replica, int):
            values["capacity"] = with_host(jobs.c.capacity, change.memory_per_replica)
        await tx.execute(update(jobs).where(jobs.c.name == name).values(values))


async def reserve(tx: Tx, name: str, more: Resources) -> None:
    await tx.execute(
        update(jobs).where(jobs.c.name == name).values(raised(jobs.c.reserved_bytes, jobs.c.reserved, more))
    )


async def free(tx: Tx, name: str, what: Resources) -> None:
    await reserve(tx, name, Resources() - what)


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
