"""What has to change so that jobs match the pools file. Two controllers that compute it find the same.

Contract of `compare`:

1. A job that is not in the file and never was is left alone.
2. A change that would move or take away what is assigned (another cell, runtime or tenant; less memory than is
   reserved; the job itself) waits until nothing is assigned. It is said to be a problem, and everything else is done.
3. Repeated on its own outcome it finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from berth.resources import HOST, Resources
from berth.states import Runtime, ServiceClass
from controller.core.change import UNCHANGED
from controller.core.jobs import JobChange, NewJob
from controller.core.scaling import ScalingPolicy

_DEFAULT_SCALING = ScalingPolicy()


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool as the file has it. `scaling` None: the file does not say, and the API may."""

    job: str
    cell: str
    runtime: Runtime
    hardware: str
    memory_per_replica: int
    service_class: ServiceClass
    dedicated_tenant: str | None
    scaling: ScalingPolicy | None

    def new_job(self) -> NewJob:
        """The job that it makes: without a replica, until one is seen."""
        return NewJob(
            cell=self.cell,
            runtime=self.runtime,
            hardware=self.hardware,
            replicas=0,
            memory_per_replica=self.memory_per_replica,
            service_class=self.service_class,
            dedicated_tenant=self.dedicated_tenant,
            scaling=self.scaling,
            from_file=True,
            scaling_from_file=self.scaling is not None,
        )


@dataclass(frozen=True, slots=True)
class StoredPool:
    """A job as it is stored, with what is on it. `scaling` is the job's, whoever has said it; `pool` has the file's."""

    pool: PoolSpec
    from_file: bool
    problem: str
    reserved: Resources
    assignments: int
    scaling: ScalingPolicy = _DEFAULT_SCALING


class CreateJob(NamedTuple):
    pool: PoolSpec


class UpdateJob(NamedTuple):
    """Make this change. `problem` says what could not be done; `told` says whether that is news."""

    job: str
    change: JobChange
    problem: str
    told: bool


class DeleteJob(NamedTuple):
    job: str


PoolStep = CreateJob | UpdateJob | DeleteJob


def compare(pools: Iterable[PoolSpec], stored: Iterable[StoredPool]) -> list[PoolStep]:
    """The steps from `stored` to `pools`, by job; see the module's contract."""
    wanted = {pool.job: pool for pool in pools}
    known = {entry.pool.job: entry for entry in stored}
    steps: list[PoolStep] = [CreateJob(pool) for name, pool in sorted(wanted.items()) if name not in known]
    for name, entry in sorted(known.items()):
        step = _update(wanted[name], entry) if name in wanted else _retire(entry)
        if step is not None:
            steps.append(step)
    return steps


def without_tenant(step: UpdateJob) -> UpdateJob:
    """The step without the change of the tenant that the job is dedicated to."""
    return step._replace(change=replace(step.change, dedicated_tenant=UNCHANGED))


def _update(pool: PoolSpec, entry: StoredPool) -> PoolStep | None:
    values: dict[str, Any] = {}
    problems = []
    for field in ("cell", "runtime", "dedicated_tenant"):
        now, wanted = getattr(entry.pool, field), getattr(pool, field)
        if now != wanted and entry.assignments:
            problems.append(
                f"its {field} stays {now or 'none'} instead of {wanted or 'none'} while {entry.assignments} versions "
                "are assigned to it"
            )
        elif now != wanted:
            values[field] = wanted
    for field in ("hardware", "service_class"):
        if getattr(entry.pool, field) != getattr(pool, field):
            values[field] = getattr(pool, field)
    if pool.memory_per_replica < entry.reserved[HOST]:
        problems.append(
            f"its memory_per_replica stays {entry.pool.memory_per_replica}: {entry.reserved[HOST]} bytes are reserved, "
            f"more than {pool.memory_per_replica}"
        )
    elif pool.memory_per_replica != entry.pool.memory_per_replica:
        values["memory_per_replica"] = pool.memory_per_replica
    if pool.scaling != entry.pool.scaling:
        values |= _scaling(pool.scaling, entry)
    if not entry.from_file:
        values["from_file"] = True
    return _step(entry, JobChange(**values), "; ".join(problems))


def _scaling(policy: ScalingPolicy | None, entry: StoredPool) -> dict[str, Any]:
    """If the file says nothing, the policy stays, and belongs to the API from now on. A new owner of the number of
    replicas begins without the old one's wishes and decisions."""
    if policy is None:
        return {"scaling_from_file": False}
    values: dict[str, Any] = {"scaling_from_file": True, "scaling": policy}
    if policy.mode is not entry.scaling.mode:
        values |= {"wished_replicas": None, "decision": None}
    return values


def _retire(entry: StoredPool) -> PoolStep | None:
    if not entry.from_file:
        return None
    if not entry.assignments:
        return DeleteJob(entry.pool.job)
    problem = f"it is no longer in the pools file, but {entry.assignments} versions are assigned to it"
    return _step(entry, JobChange(), problem)


def _step(entry: StoredPool, change: JobChange, problem: str) -> UpdateJob | None:
    told = problem != entry.problem
    return UpdateJob(entry.pool.job, change, problem, told) if change or told else None
