"""What operators, the pools file and the autoscaler may change of a job, as values and rules.

A job on Kubernetes has its number of replicas from its workload: whoever asks for another makes a wish. Elsewhere the
number is the job's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from berth.errors import Conflict, InvalidArgument
from berth.resources import HOST, Resources
from berth.states import Runtime, ScalingMode, ServiceClass
from controller.core.autoscaling.scaler import Decision
from controller.core.change import UNCHANGED, Unchanged
from controller.core.scaling import ScalingPolicy, owner


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be made. `memory_per_replica` in bytes, of the host; a `scaling` of None leaves it at its defaults."""

    cell: str
    runtime: Runtime
    hardware: str
    replicas: int
    memory_per_replica: int
    service_class: ServiceClass = ServiceClass.PROD
    dedicated_tenant: str | None = None
    scaling: ScalingPolicy | None = None
    from_file: bool = False
    scaling_from_file: bool = False


@dataclass(frozen=True, slots=True)
class JobChange:
    """What to set of a job. `decision` is the autoscaler's last; None: it has nothing to say (any more)."""

    cell: str | Unchanged = UNCHANGED
    runtime: Runtime | Unchanged = UNCHANGED
    hardware: str | Unchanged = UNCHANGED
    memory_per_replica: int | Unchanged = UNCHANGED
    service_class: ServiceClass | Unchanged = UNCHANGED
    dedicated_tenant: str | Unchanged | None = UNCHANGED
    from_file: bool | Unchanged = UNCHANGED
    scaling_from_file: bool | Unchanged = UNCHANGED
    file_problem: str | Unchanged = UNCHANGED
    scaling: ScalingPolicy | Unchanged = UNCHANGED
    replicas: int | Unchanged = UNCHANGED
    wished_replicas: int | Unchanged | None = UNCHANGED
    decision: Decision | Unchanged | None = UNCHANGED

    def members(self) -> dict[str, Any]:
        """What is set, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not UNCHANGED}

    def __bool__(self) -> bool:
        return bool(self.members())


@dataclass(frozen=True, slots=True)
class JobAsStored:
    """What the rules below look at. `observed_replicas` is what its workload is told to have; None: it has none."""

    name: str
    scaling: ScalingPolicy
    from_file: bool
    scaling_from_file: bool
    reserved: Resources
    observed_replicas: int | None


@dataclass(frozen=True, slots=True)
class JobAsked:
    """What an operator asks for; None: nothing. `scaling` has the members of `ScalingPolicy` that are to change."""

    replicas: int | None = None
    memory_per_replica: int | None = None
    scaling: Mapping[str, Any] | None = None


def change_job(job: JobAsStored, asked: JobAsked) -> JobChange:
    """What to set of `job`, as asked.

    Raises `Conflict` if less memory would be left than is reserved, if the pools file owns what is to be changed, or if
    someone else decides how many replicas there are. Raises `InvalidArgument` for bounds that make no sense. A new
    owner of the number of replicas begins without the old one's wishes and decisions.
    """
    policy = job.scaling if asked.scaling is None else _changed_policy(job, asked.scaling)
    values: dict[str, Any] = {}
    if asked.scaling is not None:
        values["scaling"] = policy
        if policy.mode is not job.scaling.mode:
            values |= {"wished_replicas": None, "decision": None}
    if asked.replicas is not None:
        if policy.mode is not ScalingMode.MANUAL:
            raise Conflict(
                f"{owner(policy.mode)} decides how many replicas job {job.name!r} has: its scaling mode is "
                f"{policy.mode}"
            )
        values |= _replicas(job, asked.replicas)
    if asked.memory_per_replica is not None:
        values["memory_per_replica"] = _memory(job, asked.memory_per_replica)
    return JobChange(**values)


def managed_by_file(name: str) -> Conflict:
    """The refusal of a change of what the pools file says."""
    return Conflict(f"job {name!r} is managed by the pools file: change it there")


def _changed_policy(job: JobAsStored, asked: Mapping[str, Any]) -> ScalingPolicy:
    if job.scaling_from_file:
        raise managed_by_file(job.name)
    known = {field.name: getattr(job.scaling, field.name) for field in fields(job.scaling)}
    policy = ScalingPolicy(**{**known, **asked})
    if policy.min_replicas > policy.max_replicas:
        raise InvalidArgument(
            f"scaling.min_replicas {policy.min_replicas} is more than max_replicas {policy.max_replicas}"
        )
    return policy


def _replicas(job: JobAsStored, replicas: int) -> dict[str, int | None]:
    if job.observed_replicas is not None:
        return {"wished_replicas": None if job.observed_replicas == replicas else replicas}
    return {"wished_replicas": replicas} if job.from_file else {"replicas": replicas}


def _memory(job: JobAsStored, memory: int) -> int:
    if job.from_file:
        raise managed_by_file(job.name)
    reserved_bytes = job.reserved[HOST]
    if memory < reserved_bytes:
        raise Conflict(
            f"{reserved_bytes} bytes of job {job.name!r} are reserved, more than {memory}",
            reserved_bytes=reserved_bytes,
        )
    return memory
