"""Jobs: where versions can live."""

from __future__ import annotations

from typing import Any, NamedTuple

from berth.errors import Conflict, InvalidArgument
from berth.states import ScalingMode
from controller.core.scaling import owner
from controller.store import jobs, observed, records, tenants
from controller.store.transaction import Tx
from controller.usecases import naming


class Seen(NamedTuple):
    """A job, and what runs its replicas, if anything was observed to."""

    job: records.Job
    pool: records.Pool | None


async def get(tx: Tx, name: str) -> Seen:
    """Raises `NotFound`."""
    job = await jobs.find(tx, name) if naming.storable(name) else None
    if job is None:
        raise naming.no_job(name)
    (seen,) = await with_pools(tx, [job])
    return seen


async def page(tx: Tx, after: str, limit: int) -> list[Seen]:
    return await with_pools(tx, await jobs.page(tx, after, limit))


async def with_pools(tx: Tx, found: list[records.Job]) -> list[Seen]:
    """These jobs with what runs them in their own cells."""
    pools = await observed.pools_of(tx, [job.name for job in found])
    return [Seen(job, pools.get((job.cell, job.name))) for job in found]


async def create(tx: Tx, actor: str, name: str, values: dict[str, Any]) -> Seen:
    """Raises `Conflict` if the name is taken, `InvalidArgument` if it is dedicated to a tenant that does not exist."""
    tenant = values["dedicated_tenant"]
    if tenant is not None and await tenants.find(tx, tenant) is None:
        raise InvalidArgument(f"there is no tenant {tenant!r} to dedicate the job to")
    await jobs.ensure_cell(tx, values["cell"])
    if not await jobs.add(tx, name, values):
        raise Conflict(f"job {name!r} exists already")
    tx.change_desired()
    tx.tell("job.created", actor, None, f"job/{name}", **values)
    return await get(tx, name)


async def change(tx: Tx, actor: str, seen: Seen, values: dict[str, Any]) -> Seen:
    """Set replicas, memory or scaling.

    Raises `Conflict` if less memory is left than assignments have reserved, if the pools file owns what is to be
    changed, or if someone else decides how many replicas there are.
    """
    job = seen.job
    asked = dict(values)
    stored: dict[str, Any] = {}
    if (scaling := asked.pop("scaling", None)) is not None:
        stored |= _change_scaling(job, scaling)
    if (replicas := asked.pop("replicas", None)) is not None:
        mode = ScalingMode(stored["scaling"]["mode"]) if "scaling" in stored else job.scaling.mode
        if mode is not ScalingMode.MANUAL:
            raise Conflict(f"{owner(mode)} decides how many replicas job {job.name!r} has: its scaling mode is {mode}")
        stored |= _change_replicas(seen, replicas)
    if (memory := asked.pop("memory_per_replica", None)) is not None:
        stored |= _change_memory(job, memory)
    if values:
        await jobs.change(tx, job.name, **stored)
        tx.change_desired()
        tx.tell("job.updated", actor, None, f"job/{job.name}", **values)
    return await get(tx, job.name)


async def delete(tx: Tx, actor: str, seen: Seen) -> None:
    """Raises `Conflict` while versions are assigned to it, and if it comes from the pools file."""
    job = seen.job
    if job.from_file:
        raise _managed(job)
    count = await jobs.count_assignments(tx, job.name)
    if count:
        raise Conflict(f"job {job.name!r} still has {count} assignments", assignments=count)
    await jobs.remove(tx, job.name)
    tx.change_desired()
    tx.tell("job.deleted", actor, None, f"job/{job.name}")


def _change_scaling(job: records.Job, asked: dict[str, Any]) -> dict[str, Any]:
    if job.scaling_from_file:
        raise _managed(job)
    document = jobs.scaling_document(job.scaling) | asked
    if document["min_replicas"] > document["max_replicas"]:
        raise InvalidArgument(
            f"scaling.min_replicas {document['min_replicas']} is more than max_replicas {document['max_replicas']}"
        )
    stored: dict[str, Any] = {"scaling": document}
    if document["mode"] != job.scaling.mode:
        stored |= jobs.UNDECIDED
    return stored


def _change_replicas(seen: Seen, replicas: int) -> dict[str, Any]:
    """On Kubernetes the workload has the number, and this is a wish; elsewhere the number is the job's own."""
    if seen.pool is not None:
        return {"wished_replicas": None if seen.pool.replicas == replicas else replicas}
    if seen.job.from_file:
        return {"wished_replicas": replicas}
    return {"replicas": replicas}


def _change_memory(job: records.Job, memory: int) -> dict[str, Any]:
    if job.from_file:
        raise _managed(job)
    if memory < job.reserved_bytes:
        raise Conflict(
            f"{job.reserved_bytes} bytes of job {job.name!r} are reserved, more than {memory}",
            reserved_bytes=job.reserved_bytes,
        )
    return {"memory_per_replica": memory}


def _managed(job: records.Job) -> Conflict:
    return Conflict(f"job {job.name!r} is managed by the pools file: change it there")
