"""What the replicas of a cell look like now, for the controller."""

from __future__ import annotations

from dataclasses import replace

from berth.model import ObservedReplica
from synchronizer.core.fleet import CellFleet
from synchronizer.core.withdrawal import RouteLedger


def observe(fleet: CellFleet, ledger: RouteLedger, wall_offset: float) -> tuple[ObservedReplica, ...]:
    """Each as it reported last, and what every router sends it. `wall_offset` plus the cell's clock gives seconds since
    the Unix epoch."""
    return tuple(
        ObservedReplica(
            status=replace(replica.status, draining=True) if name in fleet.leaving else replica.status,
            connected=replica.connected,
            routed=ledger.routed(name),
            seen_at=wall_offset + replica.seen_at,
        )
        for name, replica in sorted(fleet.replicas.items())
    )
