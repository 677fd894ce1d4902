"""Jobs' numbers of replicas: reads what is seen of them, and writes what `core.settling` makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from berth.model import ObservedPool
from berth.states import ScalingMode
from controller.core import events
from controller.core.autoscaling.readings import JobReading
from controller.core.autoscaling.scaler import Decision
from controller.core.commands import AUTOSCALER
from controller.core.scaling import may_sleep
from controller.core.settling import Settlement
from controller.store import jobs, loads
from controller.store.transaction import Tx
from controller.usecases.arrivals import awaiting
from controller.usecases.jobs import SeenJob, with_workloads


class View(NamedTuple):
    """All jobs now, and the load of those that are autoscaled; a job whose cell says nothing has none."""

    jobs: list[SeenJob]
    readings: Mapping[str, JobReading]


async def everything(tx: Tx) -> list[SeenJob]:
    """All jobs now."""
    return await with_workloads(tx, await jobs.every(tx))


async def survey(tx: Tx) -> View:
    """All jobs, and what the autoscaler needs of them, on one snapshot."""
    seen = await everything(tx)
    names = [job.name for job, _ in seen if job.scaling.mode is not ScalingMode.MANUAL]
    cells = await loads.of_cells(tx, names) if names else {}
    sleepers = [job.name for job, _ in seen if job.name in names and may_sleep(job.service_class, job.scaling)]
    expectant = await awaiting(tx, sleepers)
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


async def settle(tx: Tx, settlements: list[Settlement]) -> None:
    """Store these settlements, except for jobs whose scaling mode has changed since. Needs the fleet's lock."""
    for settlement in settlements:
        job = await jobs.find(tx, settlement.job)
        if job is None or job.scaling.mode is not settlement.mode:
            continue
        if settlement.decision is not None:
            _tell(tx, settlement, settlement.decision)
        await jobs.change(tx, job.name, settlement.change)
        if settlement.asked:
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


def _tell(tx: Tx, settlement: Settlement, decision: Decision) -> None:
    kind = events.JobScaled if settlement.mode is ScalingMode.BERTH else events.JobRecommended
    tx.tell(
        AUTOSCALER,
        kind(
            events.job_subject(settlement.job),
            decision.replicas,
            settlement.before,
            decision.reason,
            round(decision.sustainable, 3),
            after=decision.replicas,
        ),
    )
