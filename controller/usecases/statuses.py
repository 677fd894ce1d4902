"""The states of versions, derived from their assignments and what replicas report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from berth.ids import VersionKey
from berth.model import ServableStatus
from berth.states import ServableState
from controller.core.status import Assigned, Sighting, VersionStatus, derive
from controller.store import jobs, observed, records
from controller.store.transaction import Tx


async def statuses(tx: Tx, versions: Sequence[records.Version]) -> dict[VersionKey, VersionStatus]:
    """The status of each of `versions`, of whatever models."""
    held = await jobs.assignments_of(tx, {version.model_id for version in versions})
    replicas = await observed.replicas_of(tx, {assignment.job for assignment in held})
    servables = await observed.servables_of(tx, {version.key.model_key for version in versions})
    return derive_all(versions, held, replicas, servables)


def derive_all(
    versions: Iterable[records.Version],
    held: Iterable[records.Assignment],
    replicas: Iterable[records.Replica],
    servables: Iterable[records.Servable],
) -> dict[VersionKey, VersionStatus]:
    """As `statuses`, from what was read before."""
    by_key: dict[VersionKey, list[records.Assignment]] = {}
    for assignment in held:
        by_key.setdefault(assignment.key, []).append(assignment)
    by_job: dict[str, list[records.Replica]] = {}
    for replica in replicas:
        by_job.setdefault(replica.job, []).append(replica)
    seen = {(servable.cell, servable.replica, servable.key): servable for servable in servables}
    found = {}
    for version in versions:
        own = by_key.get(version.key, [])
        # Where it stays counts; where it is on its way out only if it stays nowhere.
        staying = [assignment for assignment in own if assignment.releasing_at is None]
        if not own:
            found[version.key] = derive(None, (), version.changed_at.timestamp())
            continue
        sightings = [
            _sighting(replica, seen.get((replica.cell, replica.name, version.key)))
            for assignment in staying or own
            for replica in by_job.get(assignment.job, ())
        ]
        since = max((assignment.releasing_at or assignment.created_at) for assignment in staying or own)
        where = Assigned.HELD if staying else Assigned.RELEASING
        found[version.key] = derive(where, sightings, since.timestamp())
    return found


def _sighting(replica: records.Replica, servable: records.Servable | None) -> Sighting:
    if servable is None:
        return Sighting(None, routed=False, connected=replica.connected)
    status = ServableStatus(
        servable.key, ServableState(servable.state), servable.reason, servable.since, servable.measured_bytes
    )
    return Sighting(status, servable.routed, replica.connected)
