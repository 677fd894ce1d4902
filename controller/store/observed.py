"""What cells' replicas were last heard to hold. `reports` writes it."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select, tuple_

from berth.ids import ModelKey, VersionKey
from berth.states import ServableState
from controller.store.mapper import Mapper, Part
from controller.store.records import CellReport, ReplicaRecord, ServableRecord
from controller.store.schema import leases, observed_cells, observed_replicas, observed_servables
from controller.store.scope import TenantScope, within
from controller.store.transaction import Tx

_REPLICA = Mapper(ReplicaRecord, observed_replicas, name=Part((observed_replicas.c.replica,), str))
_SERVABLE = Mapper(
    ServableRecord,
    observed_servables,
    key=Part((observed_servables.c.tenant, observed_servables.c.model, observed_servables.c.version), VersionKey),
    state=Part((observed_servables.c.state,), ServableState),
)
_REPORT = Mapper(CellReport, observed_cells)


async def cell_reports(tx: Tx) -> dict[str, CellReport]:
    """The last report of each cell whose reporter still leads; none of a cell after unlogged tables were lost."""
    statement = (
        select(*_REPORT.columns)
        .join_from(observed_cells, leases, leases.c.cell == observed_cells.c.cell)
        .where(leases.c.epoch == observed_cells.c.epoch)
    )
    return {report.cell: report for report in _REPORT.records(await tx.execute(statement))}


async def servables_of(tx: Tx, scope: TenantScope, keys: Collection[ModelKey]) -> list[ServableRecord]:
    """What replicas say of any version of these models."""
    if not keys:
        return []
    named = tuple_(observed_servables.c.tenant, observed_servables.c.model).in_(keys)
    statement = _SERVABLE.select().where(named, within(observed_servables.c.tenant, scope))
    return _SERVABLE.records(await tx.execute(statement))


async def replicas_of(tx: Tx, jobs: Collection[str]) -> list[ReplicaRecord]:
    if not jobs:
        return []
    return _REPLICA.records(await tx.execute(_REPLICA.select().where(observed_replicas.c.job.in_(jobs))))


async def page_replicas(
    tx: Tx, scope: TenantScope, after: tuple[str, str], limit: int
) -> list[tuple[ReplicaRecord, list[ServableRecord]]]:
    """Replicas by cell and name, each with what it says of the versions of these tenants."""
    order = (observed_replicas.c.cell, observed_replicas.c.replica)
    rows = await tx.execute(_REPLICA.select().where(tuple_(*order) > tuple_(*after)).order_by(*order).limit(limit))
    found = _REPLICA.records(rows)
    if not found:
        return []
    names = [(replica.cell, replica.name) for replica in found]
    servables: dict[tuple[str, str], list[ServableRecord]] = {name: [] for name in names}
    said_by = tuple_(observed_servables.c.cell, observed_servables.c.replica).in_(names)
    statement = _SERVABLE.select().where(said_by, within(observed_servables.c.tenant, scope))
    for servable in _SERVABLE.records(await tx.execute(statement.order_by(*observed_servables.primary_key.columns))):
        servables[servable.cell, servable.replica].append(servable)
    return [(replica, servables[replica.cell, replica.name]) for replica in found]
