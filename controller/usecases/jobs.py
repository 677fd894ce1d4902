"""Jobs: where versions can live."""

from __future__ import annotations

from typing import Any

from berth.errors import Conflict, InvalidArgument
from controller.store import jobs, records, tenants
from controller.store.transaction import Tx
from controller.usecases import naming


async def get(tx: Tx, name: str) -> records.Job:
    """Raises `NotFound`."""
    job = await jobs.find(tx, name) if naming.storable(name) else None
    if job is None:
        raise naming.no_job(name)
    return job


async def create(tx: Tx, actor: str, name: str, values: dict[str, Any]) -> records.Job:
    """Raises `Conflict` if the name is taken, `InvalidArgument` if it is dedicated to a tenant that does not exist."""
    owner = values["dedicated_tenant"]
    if owner is not None and await tenants.find(tx, owner) is None:
        raise InvalidArgument(f"there is no tenant {owner!r} to dedicate the job to")
    await jobs.ensure_cell(tx, values["cell"])
    if not await jobs.add(tx, name, values):
        raise Conflict(f"job {name!r} exists already")
    tx.change_desired()
    tx.tell("job.created", actor, None, f"job/{name}", **values)
    return await get(tx, name)


async def change(tx: Tx, actor: str, job: records.Job, values: dict[str, Any]) -> records.Job:
    """Set replicas or memory. Raises `Conflict` if less memory is left than assignments have reserved."""
    memory = values.get("memory_per_replica")
    if memory is not None and memory < job.reserved_bytes:
        raise Conflict(
            f"{job.reserved_bytes} bytes of job {job.name!r} are reserved, more than {memory}",
            reserved_bytes=job.reserved_bytes,
        )
    if values:
        await jobs.change(tx, job.name, **values)
        tx.change_desired()
        tx.tell("job.updated", actor, None, f"job/{job.name}", **values)
    return await get(tx, job.name)


async def delete(tx: Tx, actor: str, job: records.Job) -> None:
    """Raises `Conflict` while versions are assigned to it."""
    count = await jobs.count_assignments(tx, job.name)
    if count:
        raise Conflict(f"job {job.name!r} still has {count} assignments", assignments=count)
    await jobs.remove(tx, job.name)
    tx.change_desired()
    tx.tell("job.deleted", actor, None, f"job/{job.name}")
