"""Jobs' numbers of replicas: what is seen of them, and what follows from what is seen and decided.

Level-triggered: `plan` compares what is stored with what should be, and `settle` stores the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import func

from berth.model import ObservedPool
from berth.states import ScalingMode, ServiceClass
from controller.core.autoscaling.readings import JobReading
from controller.core.autoscaling.scaler import Decision
from controller.store import jobs, observed, records
from controller.store.transaction import Tx
from controller.usecases.arrivals import awaiting
from controller.usecases.jobs import Seen, with_pools

ACTOR = "autoscaler"


class Change(NamedTuple):
    """Columns of one job to set. `asked` is whether its cell is to be told; `decision` is new if there is one."""

    job: str
    mode: ScalingMode
    values: dict[str, Any]
    asked: bool
    decision: Decision | None = None
    before: int | None = None


class View(NamedTuple):
    """All jobs now, and the load of those that are autoscaled; a job whose cell says nothing has none."""

    jobs: list[Seen]
    readings: Mapping[str, JobReading]


async def everything(tx: Tx) -> list[Seen]:
    """All jobs now."""
    return await with_pools(tx, await jobs.every(tx))


async def survey(tx: Tx) -> View:
    """All jobs, and what the autoscaler needs of them, on one snapshot."""
    seen = await everything(tx)
    names = [job.name for job, _ in seen if job.scaling.mode is not ScalingMode.MANUAL]
    cells = await observed.cell_loads(tx, names) if names else {}
    expectant = await awaiting(tx, [job.name for job, _ in seen if job.name in names and may_sleep(job)])
    readings = {}
    for job, _ in seen:
        cell = cells.get(job.cell)
        if job.name in names and cell is not None:
            readings[job.name] = JobReading(
                reports=tuple(sorted(cell.replicas.get(job.name, ()), key=lambda report: report.name)),
                wanted=job.name in cell.wanted,
                untried=job.name in expectant,
                age_s=cell.age_s,
            )
    return View(seen, readings)


def plan(seen: Seen, decision: Decision | None) -> Change | None:
    """What is to be stored of a job; None if all is as it should be.

    The job's own number follows its workload, and the autoscaler where there is none (`berth up`).
    """
    job, pool = seen
    values: dict[str, Any] = {}
    new = decision if decision is not None and decision.replicas != job.desired_replicas else None
    if new is not None:
        values |= {"desired_replicas": new.replicas, "desired_reason": new.reason}
    desired = job.desired_replicas if new is None else new.replicas
    if pool is not None:
        replicas = pool.replicas
    elif job.scaling.mode is ScalingMode.BERTH and not job.from_file and desired is not None:
        replicas = desired
    else:
        replicas = job.replicas
    if replicas != job.replicas:
        values["replicas"] = replicas
    if not values:
        return None
    asked = new is not None and job.scaling.mode is ScalingMode.BERTH
    return Change(job.name, job.scaling.mode, values, asked, new, job.desired_replicas)


async def settle(tx: Tx, changes: list[Change]) -> None:
    """Store the changes of jobs that are still scaled as they were when it was planned. Needs the fleet's lock."""
    for change in changes:
        job = await jobs.find(tx, change.job)
        if job is None or job.scaling.mode is not change.mode:
            continue
        values = dict(change.values)
        if change.decision is not None:
            values["desired_at"] = func.now()
            _tell(tx, change, change.decision)
        if values:
            await jobs.change(tx, job.name, **values)
        if change.asked:
            tx.change_desired()


async def granted(tx: Tx, cell: str, pools: Iterable[ObservedPool]) -> dict[str, int]:
    """Wishes of a cell's jobs that its workloads are seen to have, by job."""
    seen = {pool.job: pool.replicas for pool in pools}
    wishes = await jobs.wishes(tx, cell) if seen else {}
    return {job: wished for job, wished in wishes.items() if seen.get(job) == wished}


async def forget(tx: Tx, wishes: Mapping[str, int]) -> None:
    """Ask for these no more, so that whoever scales the workload next is not overruled. Needs the fleet's lock."""
    for job, wished in wishes.items():
        if await jobs.forget_wish(tx, job, wished):
            tx.change_desired()


def may_sleep(job: records.Job) -> bool:
    """Whether an autoscaler may leave the job without any replica."""
    return job.service_class is ServiceClass.TEMPORARY and job.scaling.min_replicas == 0


def _tell(tx: Tx, change: Change, decision: Decision) -> None:
    kind = "job.scaled" if change.mode is ScalingMode.BERTH else "job.recommended"
    tx.tell(
        kind,
        ACTOR,
        None,
        f"job/{change.job}",
        replicas=decision.replicas,
        before=change.before,
        reason=decision.reason,
        sustainable=round(decision.sustainable, 3),
    )


def start(job: records.Job, pool: records.Pool | None) -> int:
    """From how many replicas an autoscaler begins that has just taken over."""
    if job.desired_replicas is not None:
        return job.desired_replicas
    return pool.replicas if pool is not None else job.replicas
