"""Jobs to wake for versions that have yet to be loaded: reads what `core.arrival` decides on."""

from __future__ import annotations

from collections.abc import Collection

from berth.states import ServableState
from controller.core import rollout
from controller.core.arrival import Arrival, is_awaited
from controller.store import jobs, models, observed, records
from controller.store.transaction import Tx


async def awaiting(tx: Tx, names: Collection[str]) -> frozenset[str]:
    """Those of the jobs `names` that are to hold a version which has yet to be loaded. Usually none: then this is one
    query that finds nothing."""
    unsettled = await jobs.unsettled(tx, names)
    if not unsettled:
        return frozenset()
    ids = {assignment.model_id for assignment in unsettled}
    owners = {model.id: model for model in await models.find_by_ids(tx, ids)}
    versions = await models.versions_of(tx, ids)
    said = await observed.servables_of(tx, {assignment.key.model_key for assignment in unsettled})
    found = set()
    for assignment in unsettled:
        model = owners.get(assignment.model_id)
        if model is None:
            continue
        own = {version.key: version for version in versions if version.model_id == model.id}
        target = rollout.target(model.pinned, [key.version for key, version in own.items() if not version.deleted])
        arrival = _arrival(assignment, own[assignment.key].announced, said)
        if is_awaited(arrival, target, rollout.wanted(target, model.labels)):
            found.add(assignment.job)
    return frozenset(found)


def _arrival(assignment: records.Assignment, announced: str, said: list[records.Servable]) -> Arrival:
    key = assignment.key
    here = [other for other in said if other.cell == assignment.cell and other.key.model_key == key.model_key]
    routed = {other.key.version for other in here if other.routed}
    return Arrival(
        key.version,
        announced,
        routed=key.version in routed,
        failed=any(other.key == key and other.state == ServableState.ERROR for other in here),
        answering=frozenset(routed - {key.version}),
    )
