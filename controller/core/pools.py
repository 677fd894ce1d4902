"""What has to change so that jobs match the pools file. Two controllers that compute it find the same.

Contract of `compare`:

1. A job that is not in the file and never was is left alone.
2. What would move or take away what is assigned (another cell, runtime or tenant; less memory than is reserved; the job
   itself) is not done while it is: it is said to be a problem, and everything else is done.
3. Repeated on its own outcome it finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from berth.states import Runtime, ServiceClass
from controller.core.scaling import Scaling


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as the file has it. `scaling` None: the file does not say, and the API may."""

    job: str
    cell: str
    runtime: Runtime
    hardware: str
    memory_per_replica: int
    service_class: ServiceClass
    dedicated_tenant: str | None
    scaling: Scaling | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A job as it is stored, with what is on it."""

    pool: Pool
    from_file: bool
    problem: str
    reserved_bytes: int
    assignments: int


class Create(NamedTuple):
    pool: Pool


class Update(NamedTuple):
    """Set these fields; `problem` is what could not be done, and `told` whether that is news."""

    job: str
    values: Mapping[str, Any]
    problem: str
    told: bool


class Delete(NamedTuple):
    job: str


Step = Create | Update | Delete


def compare(pools: Iterable[Pool], stored: Iterable[Stored]) -> list[Step]:
    """The steps from `stored` to `pools`, by job; see the module's contract."""
    wanted = {pool.job: pool for pool in pools}
    known = {entry.pool.job: entry for entry in stored}
    steps: list[Step] = [Create(pool) for name, pool in sorted(wanted.items()) if name not in known]
    for name, entry in sorted(known.items()):
        step = _update(wanted[name], entry) if name in wanted else _retire(entry)
        if step is not None:
            steps.append(step)
    return steps


def _update(pool: Pool, entry: Stored) -> Step | None:
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
    if pool.memory_per_replica < entry.reserved_bytes:
        problems.append(
            f"its memory_per_replica stays {entry.pool.memory_per_replica}: {entry.reserved_bytes} bytes are reserved, "
            f"more than {pool.memory_per_replica}"
        )
    elif pool.memory_per_replica != entry.pool.memory_per_replica:
        values["memory_per_replica"] = pool.memory_per_replica
    if pool.scaling != entry.pool.scaling:
        values["scaling"] = pool.scaling
    if not entry.from_file:
        values["from_file"] = True
    return _step(entry, values, "; ".join(problems))


def _retire(entry: Stored) -> Step | None:
    if not entry.from_file:
        return None
    if not entry.assignments:
        return Delete(entry.pool.job)
    return _step(entry, {}, f"it is no longer in the pools file, but {entry.assignments} versions are assigned to it")


def _step(entry: Stored, values: dict[str, Any], problem: str) -> Update | None:
    told = problem != entry.problem
    return Update(entry.pool.job, values, problem, told) if values or told else None
