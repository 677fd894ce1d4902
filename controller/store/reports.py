"""Stores what a synchronizer reports of its cell. The observed tables are unlogged: see `schema`."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from typing import Any

from sqlalchemy import case, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from berth.ids import ModelKey
from berth.model import ObservedCell, ObservedReplica, ServableLoad
from controller.store import workloads
from controller.store.schema import observed_cells, observed_replicas, observed_servables
from controller.store.transaction import Tx

_LONGEST_REASON = 2_000
_MOST_LOADS = 200


async def record(tx: Tx, report: ObservedCell) -> set[ModelKey]:
    """Replace what is known of the cell by `report`; return the models that changed in it.

    Replicas are compared by fingerprint: a report that repeats the last one writes only a small row for each replica.
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
    await workloads.record(tx, report)
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
