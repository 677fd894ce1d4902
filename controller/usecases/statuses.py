"""The states of versions, derived from their assignments and what replicas report."""

from __future__ import annotations

from collections.abc import Sequence

from berth.ids import VersionKey
from controller.core.rollout.announcing import status_of
from controller.core.status import VersionStatus
from controller.store import jobs, observed, records
from controller.store.transaction import Tx
from controller.usecases.facts import copy_of, fleet_of, known, said_by


async def statuses(tx: Tx, versions: Sequence[records.Version]) -> dict[VersionKey, VersionStatus]:
    """The status of each of `versions`, of whatever models."""
    held = await jobs.assignments_of(tx, {version.model_id for version in versions})
    fleet = fleet_of({}, await observed.replicas_of(tx, {assignment.job for assignment in held}), ())
    servables = await observed.servables_of(tx, {version.key.model_key for version in versions})
    return {
        version.key: status_of(
            known(version),
            [copy_of(assignment) for assignment in held if assignment.key == version.key],
            [said_by(servable) for servable in servables if servable.key == version.key],
            fleet,
        )
        for version in versions
    }
