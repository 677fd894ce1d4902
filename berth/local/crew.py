"""Which worker processes the jobs of a cell call for, and what to start and stop to get there. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Protocol


class JobLike(Protocol):
    """What is needed of a job; `berth.api.schemas.Job` has it."""

    @property
    def name(self) -> str: ...
    @property
    def cell(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def replicas(self) -> int: ...
    @property
    def memory_per_replica(self) -> int: ...


class WorkerSpec(NamedTuple):
    """One worker process. `replica` is its name everywhere; `memory` is in bytes."""

    replica: str
    job: str
    runtime: str
    memory: int


class CrewPlan(NamedTuple):
    start: tuple[WorkerSpec, ...] = ()
    stop: tuple[str, ...] = ()


def crew_of(job: JobLike) -> tuple[WorkerSpec, ...]:
    """A job's workers. The number comes last and has no dash, so no two jobs can claim one name."""
    return tuple(
        WorkerSpec(f"{job.name}-{index}", job.name, str(job.runtime), job.memory_per_replica)
        for index in range(job.replicas)
    )


def wanted_crew(jobs: Iterable[JobLike], cell: str) -> dict[str, WorkerSpec]:
    """All workers that the jobs of `cell` call for, by replica."""
    return {spec.replica: spec for job in jobs if job.cell == cell for spec in crew_of(job)}


def plan_crew(wanted: Mapping[str, WorkerSpec], running: Mapping[str, WorkerSpec], ready: Collection[str]) -> CrewPlan:
    """The next step from `running` to `wanted`.

    Workers too many are stopped and those missing started, at once. A worker whose spec changed is stopped only while
    every other worker of its job is ready; a later plan starts it anew. So a job is never down for a change.
    """
    start = tuple(spec for replica, spec in wanted.items() if replica not in running)
    stop = [replica for replica in running if replica not in wanted]
    renewed: set[str] = {spec.job for spec in start}
    for replica, spec in wanted.items():
        if running.get(replica, spec) == spec or spec.job in renewed:
            continue
        others = [other for other, mate in running.items() if mate.job == spec.job and other != replica]
        if all(other in ready for other in others):
            stop.append(replica)
            renewed.add(spec.job)
    return CrewPlan(start, tuple(stop))
