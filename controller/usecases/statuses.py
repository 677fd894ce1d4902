"""The states of versions, derived from their assignments and what replicas report."""

from __future__ import annotations

from collections.abc import Sequence

from berth.ids import VersionKey
from controller.core.rollout.announcing import status_of
from controller.core.status import VersionStatus
from controller.store import assignments, observed
from controller.store.records import VersionRecord
from controller.store.scope import TenantScope
from controller.store.transaction import Tx
from controller.usecases.facts import copy_of, fleet_of, known, said_by


async def statuses(tx: Tx, scope: TenantScope, versions: Sequence[VersionRecord]) -> dict[VersionKey, VersionStatus]:
    """The status of each of `versions`, of whatever models."""
    held = await assignments.of_models(tx, scope, {version.model_id for version in versions})
    fleet = fleet_of({}, await observed.replicas_of(tx, {assignment.job for assignment in held}), ())
    servables = await observed.servables_of(tx, scope, {version.key.model_key for version in versions})
    return {
        version.key: status_of(
            known(version),
            [copy_of(assignment) for assignment in held if assignment.key == version.key],
            [said_by(servable) for servable in servables if servable.key == version.key],
            fleet,
        )
        for version in versions
    }
