"""Chooses the job that will hold a version: best fit, or a refusal that says what each job lacked.

Contract of `place`:

1. A job is chosen only if it matches the need and has room for all of it on every device. So reservations made from its
   answers never exceed a job's capacity, as long as the caller holds the fleet still between asking and writing.
2. If any matching job has room, one is chosen.
3. A job dedicated to a tenant is never given to another, and never shown to another by `PlacementRefused.visible_to`.
4. Equal input gives equal output, whatever the order of the fleet.

Among jobs with room the order is: the tenant's own before shared, running before scaled to zero, least room left
after, name. Best fit keeps large holes whole for large models. A job without replicas comes later, but is not excluded:
it may be scaled up at any moment, and its reservations are as good as any. A version placed there answers nobody until
then. A tenant's own job isolates the tenant even while it sleeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from berth.errors import InsufficientCapacity
from berth.footprint import BESIDE_THE_MODEL
from berth.resources import Resources
from berth.states import ArtifactFormat, Runtime, ServiceClass

_SERVES: Mapping[Runtime, frozenset[ArtifactFormat]] = {
    Runtime.ONNXRUNTIME: frozenset({ArtifactFormat.ONNX}),
    Runtime.TRITON: frozenset({ArtifactFormat.ONNX}),
}


@dataclass(frozen=True, slots=True)
class JobRoom:
    """A job as placement sees it. `capacity` is that of each replica: every one of them holds all of the job."""

    name: str
    cell: str
    runtime: Runtime
    hardware: str
    service_class: ServiceClass
    dedicated_tenant: str | None
    replicas: int
    capacity: Resources
    reserved: Resources

    @property
    def room(self) -> Resources:
        """What is left; below zero after an operator took memory away from a full job."""
        return self.capacity - self.reserved


@dataclass(frozen=True, slots=True)
class Need:
    """What a version asks of a job. None means any. `model` is the model's own footprint, on any runtime."""

    tenant: str
    model: Resources
    format: ArtifactFormat
    runtime: Runtime | None = None
    hardware: str | None = None
    cell: str | None = None
    service_class: ServiceClass = ServiceClass.PROD

    def on(self, job: JobRoom) -> Resources:
        """What to reserve on `job`."""
        return self.model + Resources.host(BESIDE_THE_MODEL[job.runtime])


class Shortfall(NamedTuple):
    """Why one job was not chosen. `short_of` is nothing when it does not match at all, whatever its room."""

    job: str
    short_of: Resources
    why: str
    dedicated_tenant: str | None = None


class Placed(NamedTuple):
    """The job, and what to reserve on it."""

    job: JobRoom
    reserved: Resources


class PlacementRefused(NamedTuple):
    """No job can take it. Jobs that match come first, the one nearest to having room leading."""

    need: Need
    shortfalls: tuple[Shortfall, ...]

    def visible_to(self, tenant: str | None) -> PlacementRefused:
        """The refusal without other tenants' dedicated jobs; None is the platform, which sees all."""
        if tenant is None:
            return self
        return self._replace(
            shortfalls=tuple(entry for entry in self.shortfalls if entry.dedicated_tenant in (None, tenant))
        )

    def as_error(self, tenant: str | None) -> InsufficientCapacity:
        """The error for a caller of `tenant` (None: the platform), naming each job that they may know of."""
        shortfalls = self.visible_to(tenant).shortfalls
        said = "; ".join(f"{entry.job}: {entry.why}" for entry in shortfalls) or "there are no jobs"
        return InsufficientCapacity(
            f"no job has room for a model of {self.need.model}: {said}",
            needed_bytes=self.need.model.total,
            shortfalls=[
                {"job": entry.job, "short_of_bytes": entry.short_of.total, "why": entry.why} for entry in shortfalls
            ],
        )


def place(fleet: Sequence[JobRoom], need: Need) -> Placed | PlacementRefused:
    """Choose a job of `fleet` for `need`; see the module's contract."""
    mismatches = {job.name: mismatch(job, need) for job in fleet}
    fitting = [job for job in fleet if mismatches[job.name] is None and need.on(job).fits_in(job.room)]
    if fitting:
        best = min(fitting, key=lambda job: _preference(job, need))
        return Placed(best, need.on(best))
    shortfalls = [_shortfall(job, need, mismatches[job.name]) for job in fleet]
    # A job that does not match is short of no bytes; it is listed after all that do.
    return PlacementRefused(
        need, tuple(sorted(shortfalls, key=lambda it: (not it.short_of, it.short_of.total, it.job)))
    )


def mismatch(job: JobRoom, need: Need) -> str | None:
    """Why `job` may not hold `need` however much room it has, or None if it may."""
    if job.dedicated_tenant not in (None, need.tenant):
        return "dedicated to another tenant"
    wanted: tuple[tuple[str, str, str | None], ...] = (
        ("cell", job.cell, need.cell),
        ("runtime", job.runtime, need.runtime),
        ("hardware", job.hardware, need.hardware),
        ("service class", job.service_class, need.service_class),
    )
    for aspect, has, asked in wanted:
        if aspect == "service class" and job.dedicated_tenant is not None:
            # Whoever has a job to themselves has chosen its class with it: a temporary one sleeps when it is idle.
            continue
        if asked is not None and has != asked:
            return f"its {aspect} is {has}, not {asked}"
    if need.format not in _SERVES[job.runtime]:
        return f"its runtime {job.runtime} does not serve {need.format}"
    return None


def _preference(job: JobRoom, need: Need) -> tuple[bool, bool, int, str]:
    # Summed over all devices: a version that needs nothing of a device goes to a job without one, if it can.
    left = (job.room - need.on(job)).total
    return (job.dedicated_tenant != need.tenant, job.replicas == 0, left, job.name)


def _shortfall(job: JobRoom, need: Need, why: str | None) -> Shortfall:
    if why is not None:
        return Shortfall(job.name, Resources(), why, job.dedicated_tenant)
    short = need.on(job).short_of(job.room)
    return Shortfall(job.name, short, f"short of {short}", job.dedicated_tenant)
