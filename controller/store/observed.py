"""What synchronizers report of their cells, and who leads them. The observed tables are unlogged: see `schema`."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import case, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from berth.ids import ModelKey, VersionKey
from berth.model import ObservedCell, ObservedPool, ObservedReplica, ServableLoad
from controller.core.autoscaling.readings import Counters, ReplicaReading
from controller.store import records
from controller.store.schema import leases, observed_cells, observed_pools, observed_replicas, observed_servables
from controller.store.transaction import Tx

_REPLICA = select(
    observed_replicas.c.replica,
    observed_replicas.c.cell,
    observed_replicas.c.job,
    observed_replicas.c.connected,
    observed_replicas.c.draining,
    observed_replicas.c.memory_limit,
    observed_replicas.c.memory_used,
    observed_replicas.c.in_flight,
    observed_replicas.c.seen_at,
)
_SERVABLE = select(
    observed_servables.c.cell,
    observed_servables.c.replica,
    observed_servables.c.tenant,
    observed_servables.c.model,
    observed_servables.c.version,
    observed_servables.c.state,
    observed_servables.c.reason,
    observed_servables.c.since,
    observed_servables.c.measured_bytes,
    observed_servables.c.routed,
)
_LOAD = select(
    observed_replicas.c.cell,
    observed_replicas.c.job,
    observed_replicas.c.replica,
    observed_replicas.c.incarnation,
    observed_replicas.c.seen_at,
    observed_replicas.c.completed,
    observed_replicas.c.busy_s,
    observed_replicas.c.queued_s,
    observed_replicas.c.in_flight,
    observed_replicas.c.serving,
    observed_replicas.c.memory_used,
    observed_replicas.c.memory_limit,
    observed_replicas.c.loads,
)
_LONGEST_REASON = 2_000
_MOST_LOADS = 200


class Lease(NamedTuple):
    granted: bool
    epoch: int
    expires_in_seconds: float


async def lease(tx: Tx, cell: str, holder: str, ttl_seconds: float) -> Lease:
    """Take or renew the leadership of a cell if nobody else holds it; by the database's clock, so that clocks of
    other machines do not matter. Every change of holder is a new epoch."""
    until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, ttl_seconds)
    changes_hands = leases.c.holder != holder
    statement = (
        insert(leases)
        .values(cell=cell, holder=holder, epoch=1, expires_at=until)
        .on_conflict_do_update(
            index_elements=["cell"],
            set_={
                "holder": holder,
                "epoch": leases.c.epoch + case((changes_hands, 1), else_=0),
                "expires_at": until,
            },
            where=or_(~changes_hands, leases.c.expires_at <= func.now()),
        )
        .returning(leases.c.epoch)
    )
    row = (await tx.execute(statement)).one_or_none()
    if row is not None:
        return Lease(True, row[0], ttl_seconds)
    left = func.extract("epoch", leases.c.expires_at - func.now())
    epoch, seconds = (await tx.execute(select(leases.c.epoch, left).where(leases.c.cell == cell))).one()
    return Lease(False, epoch, max(0.0, float(seconds)))


async def release_lease(tx: Tx, cell: str, holder: str) -> Lease:
    """Let the lease expire now, if `holder` has it."""
    await tx.execute(
        update(leases).where(leases.c.cell == cell, leases.c.holder == holder).values(expires_at=func.now())
    )
    return Lease(False, await current_epoch(tx, cell), 0.0)


async def current_epoch(tx: Tx, cell: str) -> int:
    row = (await tx.execute(select(leases.c.epoch).where(leases.c.cell == cell))).one_or_none()
    return 0 if row is None else int(row[0])


async def adopt_epoch(tx: Tx, cell: str, epoch: int) -> None:
    """Go on from an epoch given out elsewhere. Nobody holds the lease then: who asks for it gets a later one."""
    values = {"holder": "", "epoch": epoch, "expires_at": func.now()}
    await tx.execute(
        insert(leases)
        .values(cell=cell, **values)
        .on_conflict_do_update(index_elements=["cell"], set_=values, where=leases.c.epoch < epoch)
    )


async def record(tx: Tx, report: ObservedCell) -> set[ModelKey]:
    """Replace what is known of the cell by `report`; return the models of which something changed.

    Replicas are compared by fingerprint, so that a report which repeats the last one writes one small row each.
    """
    cell = report.cell
    values = {
        "epoch": report.epoch,
        "desired_generation": report.desired_generation,
        "routers": list(report.routers),
        "wanted": sorted(set(report.wanted)),
    }
    await tx.execute(
        insert(observed_cells)
        .values(cell=cell, **values)
        .on_conflict_do_update(index_elements=["cell"], set_={**values, "reported_at": func.now()})
    )
    await _record_pools(tx, report)
    known_rows = await tx.execute(
        select(observed_replicas.c.replica, observed_replicas.c.job, observed_replicas.c.connected,
               observed_replicas.c.fingerprint)
        .where(observed_replicas.c.cell == cell)
    )  # fmt: skip
    known = {row[0]: (row[1], row[2], bytes(row[3])) for row in known_rows}
    replicas = {replica.status.address.replica: replica for replica in report.replicas}
    marks = {
        name: (replica.status.address.job, replica.connected, _fingerprint(replica))
        for name, replica in replicas.items()
    }
    rewritten = [name for name, mark in marks.items() if known.get(name) != mark]
    gone = [name for name in known if name not in replicas]
    changed: set[ModelKey] = set()
    stale = [*rewritten, *gone]
    if stale:
        removed = await tx.execute(
            delete(observed_servables)
            .where(observed_servables.c.cell == cell, observed_servables.c.replica.in_(stale))
            .returning(observed_servables.c.tenant, observed_servables.c.model)
        )
        changed.update(ModelKey(*row) for row in removed)
    if gone:
        await tx.execute(
            delete(observed_replicas).where(observed_replicas.c.cell == cell, observed_replicas.c.replica.in_(gone))
        )
    rows = [row for name in rewritten for row in _servable_rows(cell, name, replicas[name])]
    if rows:
        await tx.execute(observed_servables.insert(), rows)
        changed.update(ModelKey(row["tenant"], row["model"]) for row in rows)
    if replicas:
        upsert = insert(observed_replicas)
        columns = [column.name for column in observed_replicas.columns if not column.primary_key]
        same = (observed_replicas.c.incarnation == upsert.excluded.incarnation) & (
            observed_replicas.c.fingerprint == upsert.excluded.fingerprint
        )
        values = {name: upsert.excluded[name] for name in columns}
        values["loads"] = case(
            (same, observed_replicas.c.loads.concat(upsert.excluded.loads)), else_=upsert.excluded.loads
        )
        await tx.execute(
            upsert.on_conflict_do_update(index_elements=["cell", "replica"], set_=values),
            [_replica_row(cell, replica, marks[name][2]) for name, replica in replicas.items()],
        )
    return changed


async def cell_reports(tx: Tx) -> dict[str, records.CellReport]:
    """The last report of each cell whose reporter still leads; none of a cell after unlogged tables were lost."""
    statement = select(
        observed_cells.c.cell, observed_cells.c.epoch, observed_cells.c.desired_generation
    ).join_from(observed_cells, leases, leases.c.cell == observed_cells.c.cell).where(
        leases.c.epoch == observed_cells.c.epoch
    )  # fmt: skip
    return {row[0]: records.CellReport(*row) for row in await tx.execute(statement)}


async def servables_of(tx: Tx, keys: Collection[ModelKey]) -> list[records.Servable]:
    """What replicas say of any version of these models."""
    statement = _SERVABLE.where(tuple_(observed_servables.c.tenant, observed_servables.c.model).in_(keys))
    return [_servable(row) for row in await tx.execute(statement)] if keys else []


async def replicas_of(tx: Tx, jobs: Collection[str]) -> list[records.Replica]:
    statement = _REPLICA.where(observed_replicas.c.job.in_(jobs))
    return [records.Replica(*row) for row in await tx.execute(statement)] if jobs else []


async def page_replicas(
    tx: Tx, after: tuple[str, str], limit: int
) -> list[tuple[records.Replica, list[records.Servable]]]:
    order = (observed_replicas.c.cell, observed_replicas.c.replica)
    rows = await tx.execute(_REPLICA.where(tuple_(*order) > tuple_(*after)).order_by(*order).limit(limit))
    found = [records.Replica(*row) for row in rows]
    if not found:
        return []
    names = [(replica.cell, replica.name) for replica in found]
    servables: dict[tuple[str, str], list[records.Servable]] = {name: [] for name in names}
    statement = _SERVABLE.where(tuple_(observed_servables.c.cell, observed_servables.c.replica).in_(names))
    for row in await tx.execute(statement.order_by(*observed_servables.primary_key.columns)):
        servable = _servable(row)
        servables[servable.cell, servable.replica].append(servable)
    return [(replica, servables[replica.cell, replica.name]) for replica in found]


def _fingerprint(replica: ObservedReplica) -> bytes:
    content = [
        (*entry.key, str(entry.state), entry.reason, entry.since, entry.measured_bytes, entry.key in replica.routed)
        for entry in replica.status.servables
    ]
    return hashlib.sha256(repr(sorted(content)).encode()).digest()


def _servable_rows(cell: str, name: str, replica: ObservedReplica) -> Iterable[dict[str, Any]]:
    # By key: a report that names one twice must not break the rest.
    for entry in {entry.key: entry for entry in replica.status.servables}.values():
        yield {
            "cell": cell,
            "replica": name,
            "tenant": entry.key.tenant,
            "model": entry.key.model,
            "version": entry.key.version,
            "state": str(entry.state),
            "reason": entry.reason[:_LONGEST_REASON].replace("\x00", ""),
            "since": entry.since,
            "measured_bytes": entry.measured_bytes,
            "routed": entry.key in replica.routed,
        }


def _replica_row(cell: str, replica: ObservedReplica, fingerprint: bytes) -> dict[str, Any]:
    status = replica.status
    return {
        "cell": cell,
        "replica": status.address.replica,
        "job": status.address.job,
        "connected": replica.connected,
        "draining": status.draining,
        "memory_limit": status.memory_limit,
        "memory_used": status.memory_used,
        "in_flight": status.in_flight,
        "seen_at": replica.seen_at,
        "fingerprint": fingerprint,
        "incarnation": status.address.incarnation,
        "completed": status.load.completed,
        "busy_s": status.load.busy_s,
        "queued_s": status.load.queued_s,
        "serving": replica.connected and not status.draining and bool(replica.routed),
        "loads": {load.key.servable: [load.completed, load.busy_s] for load in _busiest(status.loads)},
    }


def _busiest(loads: tuple[ServableLoad, ...]) -> Iterable[ServableLoad]:
    """All, or the greatest: the rest is learned of together, and a row stays small."""
    return loads if len(loads) <= _MOST_LOADS else heapq.nlargest(_MOST_LOADS, loads, key=lambda load: load.busy_s)


async def _record_pools(tx: Tx, report: ObservedCell) -> None:
    """Replace the cell's pools, writing only what changed: they are read far more often than they change."""
    columns = (observed_pools.c.job, observed_pools.c.workload, observed_pools.c.replicas, observed_pools.c.ready)
    rows = await tx.execute(select(*columns).where(observed_pools.c.cell == report.cell))
    known = {row[0]: ObservedPool(*row) for row in rows}
    now = {pool.job: pool for pool in report.pools}
    if gone := [job for job in known if job not in now]:
        await tx.execute(
            delete(observed_pools).where(observed_pools.c.cell == report.cell, observed_pools.c.job.in_(gone))
        )
    if changed := [pool for job, pool in now.items() if known.get(job) != pool]:
        upsert = insert(observed_pools)
        await tx.execute(
            upsert.on_conflict_do_update(
                index_elements=["cell", "job"],
                set_={name: upsert.excluded[name] for name in ("workload", "replicas", "ready")},
            ),
            [
                {
                    "cell": report.cell,
                    "job": pool.job,
                    "workload": pool.workload,
                    "replicas": pool.replicas,
                    "ready": pool.ready,
                }
                for pool in changed
            ],
        )


async def pools_of(tx: Tx, jobs: Collection[str]) -> dict[tuple[str, str], records.Pool]:
    """What runs the replicas of these jobs, by cell and job."""
    statement = select(
        observed_pools.c.job,
        observed_pools.c.cell,
        observed_pools.c.workload,
        observed_pools.c.replicas,
        observed_pools.c.ready,
    ).where(observed_pools.c.job.in_(jobs))
    found = [records.Pool(*row) for row in await tx.execute(statement)] if jobs else []
    return {(pool.cell, pool.job): pool for pool in found}


async def cell_loads(tx: Tx, jobs: Collection[str]) -> dict[str, records.CellLoad]:
    """What the cells' present leaders last said of these jobs' load. A cell that says nothing is left out."""
    age = func.extract("epoch", func.clock_timestamp() - observed_cells.c.reported_at)
    statement = (
        select(observed_cells.c.cell, age, observed_cells.c.wanted)
        .join_from(observed_cells, leases, leases.c.cell == observed_cells.c.cell)
        .where(leases.c.epoch == observed_cells.c.epoch)
    )
    cells = {
        row[0]: records.CellLoad(max(0.0, float(row[1])), frozenset(row[2]), {}) for row in await tx.execute(statement)
    }
    statement = _LOAD.where(observed_replicas.c.job.in_(jobs), observed_replicas.c.connected)
    for cell, job, *row in await tx.execute(statement) if jobs else ():
        if cell in cells:
            cells[cell].replicas.setdefault(job, []).append(_reading(*row))
    return cells


def _reading(
    name: str,
    incarnation: str,
    at: float,
    completed: int,
    busy_s: float,
    queued_s: float,
    in_flight: int,
    serving: bool,
    memory_used: int,
    memory_limit: int,
    loads: dict[str, tuple[int, float]],
) -> ReplicaReading:
    return ReplicaReading(
        name,
        incarnation,
        at,
        completed,
        busy_s,
        queued_s,
        in_flight,
        serving,
        memory_used / memory_limit if memory_limit else 0.0,
        {model: Counters(*counters) for model, counters in loads.items()},
    )


def _servable(row: Any) -> records.Servable:
    return records.Servable(row[0], row[1], VersionKey(row[2], row[3], row[4]), *row[5:])
