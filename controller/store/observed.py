"""What synchronizers report of their cells, and who leads them. The observed tables are unlogged: see `schema`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import case, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from berth.ids import ModelKey, VersionKey
from berth.model import ObservedCell, ObservedReplica
from controller.store import records
from controller.store.schema import leases, observed_cells, observed_replicas, observed_servables
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
_LONGEST_REASON = 2_000


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


async def record(tx: Tx, report: ObservedCell) -> set[ModelKey]:
    """Replace what is known of the cell by `report`; return the models of which something changed.

    Replicas are compared by fingerprint, so that a report which repeats the last one writes one small row each.
    """
    cell = report.cell
    values = {"epoch": report.epoch, "desired_generation": report.desired_generation, "routers": list(report.routers)}
    await tx.execute(
        insert(observed_cells)
        .values(cell=cell, **values)
        .on_conflict_do_update(index_elements=["cell"], set_={**values, "reported_at": func.now()})
    )
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
        await tx.execute(
            upsert.on_conflict_do_update(
                index_elements=["cell", "replica"], set_={name: upsert.excluded[name] for name in columns}
            ),
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
    }


def _servable(row: Any) -> records.Servable:
    return records.Servable(row[0], row[1], VersionKey(row[2], row[3], row[4]), *row[5:])
